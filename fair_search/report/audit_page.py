"""The page of an audit: question, answers, table, figure, queries one by one, and what is retrieved.

Symbols: K depth, C groups, M methods, Q queries.
"""

from __future__ import annotations

from fair_search.audit import Audit
from fair_search.fairness_metrics import METRICS
from fair_search.report.audit_report import AuditReport
from fair_search.report.changes_section import changes_section
from fair_search.report.contact_sheets import sheet_section
from fair_search.report.figures import display_name
from fair_search.report.leakage_section import leakage_section
from fair_search.report.methods_section import (
    differences_section,
    methods_section,
    reranked_section,
    utility_section,
)
from fair_search.report.page import Cell, Definitions, Page, Section, Table, heat_style, number, value_cell
from fair_search.report.provenance_section import provenance_section
from fair_search.report.verdict_section import recommendation_section, worst_section


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
    compared = len(report.methods) > 1
    sections = [
        worst_section(report),
        *([recommendation_section(report)] if compared else []),
        *([changes_section(report)] if report.changes is not None else []),
        methods_section(report),
        *([differences_section(report)] if compared else []),
        utility_section(report),
        *([reranked_section(report)] if report.audit.reranked is not None else []),
        *([leakage_section(report)] if report.audit.leakage is not None else []),
        _query_section(report),
        sheet_section(report),
        *([_index_section(report)] if report.audit.approximate is not None else []),
        _data_section(report),
        _reading_section(report),
        *([provenance_section(report.provenance)] if report.provenance is not None else []),
    ]
    return Page(
        report.title or f"Who is found? An audit of “{groups.attribute}”",
        f"When {len(report.audit.lists.queries)} queries are searched for, are the groups of "
        f"“{groups.attribute}” ({', '.join(groups.classes)}) retrieved {shares}?",
        report.verdict.sentences,
        sections,
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
    notes = [f"{total:,} images could be retrieved."]
    if left_out := [*_left_out(audit), *report.notes]:
        notes.append(" ".join(left_out))
    columns = ["Group", "Images", "Share", "Desired share"]
    tables = [Table("Groups", columns, rows)]
    if audit.first_on_all is not None:
        tables.append(_on_all_table(report))
    return Section("The images", notes, tables)


def _left_out(audit: Audit) -> list[str]:
    """Say which images and queries are left out, a sentence each."""
    sentences = []
    if out := int((audit.groups.codes < 0).sum()):
        sentences.append(
            f"{out:,} images are left out: they have no value of “{audit.groups.attribute}”, or another."
        )
    if len(audit.reference_rows):
        sentences.append(
            f"{len(audit.reference_rows):,} images, drawn at random from each group, were kept apart as the "
            f"labeled images that BendVLM and BendSEM need. No method could retrieve them."
        )
    if audit.left_out_queries:
        named = ", ".join(f"“{query}”" for query in audit.left_out_queries)
        sentences.append(
            f"Left out, since a method leaves nothing of them (they say the bias itself): {named}."
        )
    return sentences


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
