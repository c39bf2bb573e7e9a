"""The section on leakage: whether the group can still be read."""

from __future__ import annotations

from fair_search.report.audit_report import AuditReport
from fair_search.report.figures import display_name
from fair_search.report.page import Cell, Section, Table


def leakage_section(report: AuditReport) -> Section:
    """Show the accuracies of both probes on images and on scores."""
    table = report.audit.leakage
    rows = [
        (
            f"{display_name(row.method)}, {row.probed}",
            [Cell(f"{row.linear:.1%}"), Cell(f"{row.mlp:.1%}"), Cell(f"{row.majority:.1%}")],
        )
        for row in table.itertuples()
    ]
    note = (
        f"How often probes name the group of an image that they were not fitted to, over "
        f"{table['images'].iloc[0]:,} images (cross-validated): from the images of each method that changes "
        "them, and from the scores of all queries. Fair rankings and unreadable groups are two claims. "
        "That a probe fails does not show that nothing can be read."
    )
    columns = ["Probed", "Linear probe ↓", "MLP probe ↓", "Largest group"]
    return Section("Leakage", [note], [Table("Accuracy for the group", columns, rows)])
