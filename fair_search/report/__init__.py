"""The report: one HTML file from an audit, or from the results of the paper's suite."""
