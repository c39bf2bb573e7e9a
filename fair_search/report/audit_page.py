"""The page of an audit: question, answers, table, figure, queries one by one, and what is retrieved.

Symbols: K depth, C groups, M methods, Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fair_search.fairness_metrics import METRICS
from fair_search.judging import RANDOM_ORDER
from fair_search.report.audit_report import AuditReport
from fair_search.report.contact_sheets import sheet_section
from fair_search.report.figures import (
    describe_points,
    display_name,
    fairness_utility,
    plain_text,
    svg_uri,
)
from fair_search.report.page import (
    Cell,
    Definitions,
    Figure,
    Page,
    Section,
    Table,
    heat_style,
    number,
    value_cell,
)


def audit_page(report: AuditReport) -> Page:
    """Make the page of an audit.

    Parameters
    ----------
    report : AuditReport
        Images that cannot be read are added to its `unreadable`.

    Returns
    -------
    Page
    """
    groups, settings = report.audit.groups, report.audit.settings
    shares = "each as often as among all images" if settings.desired == "data" else "all equally often"
    sections = [
        Section(f"All methods, K = {report.k}", _table_notes(report), [_metrics_table(report, report.k)],
                [Section(f"K = {k}", (), [_metrics_table(report, k)], folded=True) for k in settings.ks
                 if k != report.k]),
        _utility_section(report),
        *([_reranked_section(report)] if report.audit.reranked is not None else []),
        _query_section(report),
        sheet_section(report),
        *([_index_section(report)] if report.audit.approximate is not None else []),
        _data_section(report),
        _reading_section(report),
    ]  # fmt: skip
    return Page(
        report.title or f"Who is found? An audit of “{groups.attribute}”",
        f"When {len(report.audit.lists.queries)} queries are searched for, are the groups of "
        f"“{groups.attribute}” ({', '.join(groups.classes)}) retrieved {shares}?",
        _summary(report),
        sections,
    )


def _summary(report: AuditReport) -> list[str]:
    means = report.means(report.k)
    base, best = report.methods[0], report.fairest
    first, random = means.loc[(base, "max_skew")], means.loc[(RANDOM_ORDER, "max_skew")]
    skews = report.by_query("max_skew", report.k)
    query = skews[base].idxmax()
    group, ratio = report.most_frequent(base, query)
    expected = "among all images" if report.audit.settings.desired == "data" else "in equal shares"
    chance = (
        "more than chance explains" if first["low"] > random["high"] else "which chance alone could explain"
    )
    lines = [
        f"With {display_name(base)}, the most over-represented group has a MaxSkew of "
        f"{number(first['value'], 2)} (95\xa0% interval {number(first['low'], 2)} to "
        f"{number(first['high'], 2)}) on average over the queries; a random order would have "
        f"{number(random['value'], 2)}: {chance}.",
        f"Its most skewed query is “{query}”: {group} is {ratio:.1f} times as frequent among the {report.k} "
        f"retrieved images as {expected}.",
    ]
    if best != base:
        lines.append(_best_line(report, means, base, best))
    elif len(report.methods) > 1:
        lines.append(f"No method has a lower MaxSkew than {display_name(base)} here.")
    return lines


def _best_line(report: AuditReport, means: pd.DataFrame, base: str, best: str) -> str:
    row, utility = means.loc[(best, "max_skew")], _utility(report)
    before, after = (number(means.loc[(name, utility), "value"], 2) for name in (base, best))
    interval = f"95\xa0% interval {number(row['difference_low'], 2)} to {number(row['difference_high'], 2)}"
    sure = "" if row["difference_high"] < 0 else ", so that it may be chance"
    return (
        f"{display_name(best)} has the lowest MaxSkew of all methods, {number(row['value'], 2)}. That is "
        f"{number(row['difference'], 2)} against {display_name(base)} ({interval}{sure}). Its "
        f"{METRICS[utility].label.lower()} is {after}, that of {display_name(base)} {before}."
    )


def _utility(report: AuditReport) -> str:
    """Return the metric of utility that there is."""
    return "precision" if report.audit.lists.relevant is not None else "overlap"


def _table_notes(report: AuditReport) -> list[str]:
    unit = (
        "over other images like these, with these queries"
        if report.audit.settings.bootstrap == "images"
        else "over other queries like these, with these images"
    )
    return [
        f"Means over {len(report.audit.lists.queries)} queries; below each the 95\xa0% bootstrap interval "
        f"{unit}. Bold: the best value of a column. The last row is what a search that ignores the groups "
        f"gets by chance: a method at that level is as fair as a list of this length can be expected to be."
    ]


def _metrics_table(report: AuditReport, k: int) -> Table:
    means = report.means(k)
    metrics = [m for m in METRICS if m in means.index.get_level_values("metric")]
    rows = []
    for method in (*report.methods, RANDOM_ORDER):
        cells = []
        for metric in metrics:
            if (method, metric) not in means.index:
                cells.append(Cell("–"))
                continue
            row = means.loc[(method, metric)]
            best = _best(means["value"].unstack("metric")[metric].drop(RANDOM_ORDER), metric)
            strong = method != RANDOM_ORDER and metric != "overlap" and np.isclose(row["value"], best)
            cells.append(value_cell(row["value"], row["low"], row["high"], strong=strong))
        rows.append((display_name(method), cells))
    arrows = {"lower": "↓", "higher": "↑", "near 0": "→ 0"}
    columns = ["Method", *(f"{METRICS[m].label} {arrows[METRICS[m].better]}" for m in metrics)]
    return Table(f"Fairness and utility of the {k} images retrieved for a query", columns, rows)


def _best(values: pd.Series, metric: str) -> float:
    better = METRICS[metric].better
    if better == "near 0":
        return float(values[values.abs().idxmin()])
    return float(values.min() if better == "lower" else values.max())


def _utility_section(report: AuditReport) -> Section:
    utility, table = _utility(report), report.audit.table
    with plain_text():
        source = svg_uri(fairness_utility(table, report.k, "max_skew", utility))
    caption = (
        f"MaxSkew against {METRICS[utility].label.lower()} at K = {report.k}. Lower is fairer, further right "
        f"is more useful. Bars: 95\xa0% intervals. Grey: where 95\xa0% of random orders lie."
    )
    notes = [] if utility == "precision" else [
        "There are no labels of relevant images, so utility is the overlap with the first method's lists: "
        "how much of the search stays as it was. A low overlap is a change, not necessarily a loss."
    ]  # fmt: skip
    alt = describe_points(table, report.k, "max_skew", utility)
    return Section("Fairness and utility", notes, [Figure(source, alt, caption)])


def _reranked_section(report: AuditReport) -> Section:
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


def _query_section(report: AuditReport) -> Section:
    skews = report.by_query("max_skew", report.k)
    largest = float(skews.to_numpy().max())
    rows = []
    for query in report.audit.lists.queries:
        group, ratio = report.most_frequent(report.methods[0], query)
        cells = [
            Cell(number(skews.loc[query, m], 2), style=heat_style(skews.loc[query, m], largest))
            for m in report.methods
        ]
        rows.append((query, [*cells, Cell(f"{group}, {ratio:.1f} ×")]))
    base = display_name(report.methods[0])
    columns = ["Query", *map(display_name, report.methods), f"most over-represented by {base}"]
    caption = f"MaxSkew of each query at K = {report.k}; darker is more skewed"
    note = "Intervals of single queries stand in audit.csv; they are wider than those of the means."
    return Section("Query by query", [note], [Table(caption, columns, rows)])


def _index_section(report: AuditReport) -> Section:
    table = report.audit.approximate
    rows = []
    metrics = list(dict.fromkeys(table["metric"]))
    for (method, k), part in table.groupby(["method", "k"], sort=False):
        values = part.set_index("metric")
        cells = [
            Cell(number(values.loc[m, "shift"]), f"largest {number(values.loc[m, 'largest_shift'], 2)}")
            for m in metrics
        ]
        recall = Cell(number(part["recall"].iloc[0]))
        rows.append((f"{display_name(method)}, K = {k}", [recall, *cells]))
    columns = ["Method", "Recall", *(METRICS[m].label for m in metrics)]
    notes = [
        "How far each metric moves when the FAISS index is searched instead of all images: mean shift over "
        "the queries, and the largest of a single query. Recall: share of the exact top K that the index "
        "finds."
    ]
    if report.audit.skipped_by_index:
        notes.append(
            f"Not searched through the index: {', '.join(map(display_name, report.audit.skipped_by_index))}. "
            f"They change the images, so that an index must be built from the changed ones."
        )
    return Section("Approximate search", notes, [Table("Shift by approximate search", columns, rows)])


def _data_section(report: AuditReport) -> Section:
    audit = report.audit
    total = int(audit.counts.sum())
    desired = audit.settings.shares(audit.counts / total)
    rows = [
        (name, [Cell(f"{count:,}"), Cell(f"{count / total:.1%}"), Cell(f"{share:.1%}")])
        for name, count, share in zip(audit.groups.classes, audit.counts, desired, strict=True)
    ]
    out = int((audit.groups.codes < 0).sum())
    notes = [f"{total:,} images could be retrieved."]
    if out:
        notes.append(
            f"{out:,} images are left out: they have no value of “{audit.groups.attribute}”, or another."
        )
    if len(audit.reference_rows):
        notes.append(
            f"{len(audit.reference_rows):,} images, drawn at random from each group, were kept apart as the "
            f"labelled images that BendVLM and BendSEM need. No method could retrieve them."
        )
    if audit.left_out_queries:
        named = ", ".join(f"“{query}”" for query in audit.left_out_queries)
        notes.append(f"Left out, since a method leaves nothing of them (they say the bias itself): {named}.")
    columns = ["Group", "Images", "Share", "Desired share"]
    tables = [Table("Groups", columns, rows)]
    if audit.first_on_all is not None:
        tables.append(_on_all_table(report))
    return Section("The images", [*notes, *report.notes], tables)


def _on_all_table(report: AuditReport) -> Table:
    """Show the first method on all images beside its figures in the other tables."""
    method = report.methods[0]
    on_all = report.audit.first_on_all.set_index(["k", "metric"])
    metrics = [metric for metric in report.audit.lists.metrics if metric != "overlap"]
    rows = []
    for k in report.audit.settings.ks:
        reduced = report.means(k)
        for name, values in (
            ("all images", on_all.loc[k]),
            ("without those kept apart", reduced.loc[method]),
        ):
            cells = [
                value_cell(*(values.loc[m, column] for column in ("value", "low", "high"))) for m in metrics
            ]
            rows.append((f"K = {k}, {name}", cells))
    caption = f"{display_name(method)} on all images, as they are searched today"
    return Table(caption, ["Images", *(METRICS[m].label for m in metrics)], rows)


def _reading_section(report: AuditReport) -> Section:
    present = [METRICS[m] for m in report.audit.lists.metrics]
    settings = report.audit.settings
    interval = (
        f"From {settings.draws} bootstrap draws of {settings.bootstrap}, seed {settings.seed}: how far the "
        f"value would move with other {settings.bootstrap} of the same kind. It does not say how much of the "
        f"value is chance; the random order does."
    )
    items = [*((metric.label, metric.meaning) for metric in present), ("Interval", interval)]
    limits = (
        "The groups are those of the metadata, however crude. A search can have fair shares and still show "
        "people in degrading ways, and some queries should not be answered at all."
    )
    return Section("How to read this", [limits], [Definitions(items)])
