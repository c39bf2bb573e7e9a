"""Portraits: a world of drawn people with planted, known correlations, in which the paper's tasks run."""
