"""The methods of an audit side by side: values, differences to the first one, figure, re-ranked lists.

Symbols: K depth, M methods.
"""

from __future__ import annotations

from collections.abc import Mapping

from fair_search.fairness_metrics import METRICS
from fair_search.judging import RANDOM_ORDER
from fair_search.recommendation import holds
from fair_search.report.audit_report import AuditReport
from fair_search.report.figures import (
    describe_points,
    display_name,
    fairness_utility,
    plain_text,
    svg_uri,
)
from fair_search.report.page import Cell, Figure, Section, Table, number, value_cell
from fair_search.significance import LEVEL, draws_needed

_ARROWS = {"lower": "↓", "higher": "↑", "near 0": "→ 0"}


def methods_section(report: AuditReport) -> Section:
    """List the values of every method at every K, the largest first."""
    others = [k for k in report.audit.settings.ks if k != report.k]
    parts = [Section(f"K = {k}", (), [_metrics_table(report, k)], folded=True) for k in others]
    return Section(
        f"All methods, K = {report.k}", _table_notes(report), [_metrics_table(report, report.k)], parts
    )


def _table_notes(report: AuditReport) -> list[str]:
    unit = (
        "over other images like these, with these queries"
        if report.audit.settings.bootstrap == "images"
        else "over other queries like these, with these images"
    )
    return [
        f"Means over {len(report.audit.lists.queries)} queries; below each the 95\xa0% bootstrap interval "
        f"{unit}. Bold: better than {display_name(report.methods[0])} even after Holm's correction for the "
        f"number of methods. The last row is what a search that ignores the groups gets by chance: a method "
        f"at that level is as fair as a list of this length can be expected to be."
    ]


def _metrics_table(report: AuditReport, k: int) -> Table:
    means = report.means(k)
    metrics = list(report.audit.lists.metrics)
    rows = []
    for method in (*report.methods, RANDOM_ORDER):
        cells = []
        for metric in metrics:
            if (method, metric) not in means.index:
                cells.append(Cell("–"))
                continue
            row = means.loc[(method, metric)]
            strong = metric != "overlap" and holds(row, _direction(metric))
            cells.append(value_cell(row["value"], row["low"], row["high"], strong=strong))
        rows.append((display_name(method), cells))
    columns = ["Method", *(f"{METRICS[m].label} {_ARROWS[METRICS[m].better]}" for m in metrics)]
    return Table(f"Fairness and utility of the {k} images retrieved for a query", columns, rows)


def _direction(metric: str) -> str:
    """Which way a metric improves; those that are best near 0 from below improve upwards."""
    return "lower" if METRICS[metric].better == "lower" else "higher"


def differences_section(report: AuditReport) -> Section:
    """List the differences to the first method with intervals and corrected p-values, at every K."""
    base, others = display_name(report.methods[0]), len(report.methods) - 1
    notes = [
        f"Each method minus {base}, with the 95\xa0% interval and the p-value after Holm's correction for "
        f"{others} method(s), for each metric and K. Bold: better at the level of {LEVEL:g}. The draws are "
        f"shared by all methods, so a difference is surer than its two values."
    ]
    if (needed := draws_needed(others)) > report.audit.settings.draws:
        notes.append(
            f"With {report.audit.settings.draws} draws no difference can hold after the correction: at least "
            f"{needed} are needed (--draws)."
        )
    ks = report.audit.settings.ks
    parts = [
        Section(f"Differences, K = {k}", (), [_differences_table(report, k)], folded=True)
        for k in ks
        if k != report.k
    ]
    return Section(f"Differences to {base}", notes, [_differences_table(report, report.k)], parts)


def _differences_table(report: AuditReport, k: int) -> Table:
    means = report.means(k)
    metrics = [m for m in report.audit.lists.metrics if m != "overlap"]
    rows = []
    for method in report.methods[1:]:
        cells = []
        for metric in metrics:
            row = means.loc[(method, metric)]
            ends = f"{number(row['difference_low'])} to {number(row['difference_high'])}"
            small = f"{ends}\np {number(row['p_holm'])}"
            cells.append(Cell(number(row["difference"]), small, strong=holds(row, _direction(metric))))
        rows.append((display_name(method), cells))
    columns = ["Method", *(f"{METRICS[m].label} {_ARROWS[METRICS[m].better]}" for m in metrics)]
    return Table(f"Differences to {display_name(report.methods[0])}, K = {k}", columns, rows)


def utility_section(report: AuditReport) -> Section:
    """Make the figure of fairness against utility."""
    utility, table = report.utility, report.audit.table
    with plain_text():
        source = svg_uri(fairness_utility(table, report.k, "max_skew", utility))
    caption = (
        f"MaxSkew against {METRICS[utility].label.lower()} at K = {report.k}. Lower is fairer, further right "
        f"is more useful. Bars: 95\xa0% intervals. Gray: the central 95\xa0% of random orders."
    )
    notes = [] if utility == "precision" else [
        "There are no labels of relevant images, so utility is the overlap with the first method's lists: "
        "how much of the search stays as it was. A low overlap is a change, not necessarily a loss."
    ]  # fmt: skip
    alt = describe_points(table, report.k, "max_skew", utility)
    return Section("Fairness and utility", notes, [Figure(source, alt, caption)])


def reranked_section(report: AuditReport) -> Section:
    """Show what re-ranking reaches: the ceiling for methods that change embeddings."""
    found, base = report.audit.reranked, report.methods[0]
    table = found.table
    means = table[(table["scope"] == "mean") & (table["k"] == report.k)].set_index(["method", "metric"])
    metrics = list(report.audit.lists.metrics)
    rows = [
        (display_name(base), [Cell(number(report.means(report.k).loc[(base, m), "value"])) for m in metrics])
    ]
    rows += [
        (display_name(name), [Cell(number(means.loc[(name, m), "value"])) for m in metrics])
        for name in found.lists.methods
    ]
    notes = [
        "Re-ranking takes the best images of each group in the shares that were asked for, at every depth of "
        "the list. It needs the group of every image. It is the ceiling against which methods that change "
        "embeddings are to be measured. Values are means over the queries."
    ]
    if found.label_error is not None:
        notes.append(
            f"The groups were predicted from the images, and {found.label_error:.1%} of the predictions are "
            f"wrong. Shares hold for the predictions; the table is judged by the groups of the metadata."
        )
    notes += [line for name in found.lists.methods if (line := _not_kept(name, found.counts[name]))]
    columns = ["Lists", *(METRICS[m].label for m in metrics)]
    return Section("After ranking", notes, [Table(f"Re-ranked lists of {report.k} images", columns, rows)])


def _not_kept(name: str, counts: Mapping[str, int]) -> str:
    """Say what re-ranking could not keep; empty if it kept everything."""
    if not any(counts.values()):
        return ""
    return (
        f"{display_name(name)} could not keep all shares: a group had fewer images than its share in "
        f"{counts['below_floor']} beginnings of lists and more in {counts['above_ceiling']}, and "
        f"{counts['fallbacks']} images were taken since no group that was due had one left."
    )
