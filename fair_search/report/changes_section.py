"""The section that says what changed since an earlier audit."""

from __future__ import annotations

from fair_search.comparison import surely
from fair_search.fairness_metrics import METRICS
from fair_search.report.audit_report import AuditReport
from fair_search.report.figures import display_name
from fair_search.report.page import Cell, Section, Table, number


def changes_section(report: AuditReport) -> Section:
    """Show the new values with their changes at every K."""
    changes = report.changes
    table = changes.assign(sure=surely(changes)).set_index(["k", "method", "metric"])
    metrics = [m for m in METRICS if m in set(changes["metric"]) and m != "overlap"]
    columns = ["Method", *(METRICS[m].label for m in metrics)]
    tables = []
    for k in sorted(changes["k"].unique(), reverse=True):
        rows = []
        for method in changes.loc[changes["k"] == k, "method"].unique():
            cells = []
            for metric in metrics:
                if (k, method, metric) not in table.index:
                    cells.append(Cell("–"))
                    continue
                row = table.loc[(k, method, metric)]
                ends = f"{number(row['change_low'])} to {number(row['change_high'])}"
                cells.append(
                    Cell(number(row["change"]), f"{ends}\nnow {number(row['new'])}", strong=row["sure"])
                )
            rows.append((display_name(method), cells))
        tables.append(Table(f"New minus old, K = {k}", columns, rows))
    note = (
        "This audit minus the earlier one, with 95\xa0% intervals as if the two were independent: of the "
        "same images they are wide rather than narrow. Bold: the interval leaves out 0."
    )
    return Section("What changed since the earlier audit", [note], tables)
