"""The first sections of an audit's page: the worst queries, and the recommendation with its rule.

Symbols: K depth.
"""

from __future__ import annotations

from fair_search.fairness_metrics import METRICS
from fair_search.recommendation import Recommendation, holds
from fair_search.report.audit_report import AuditReport
from fair_search.report.figures import display_name
from fair_search.report.page import Cell, Section, Table, number


def worst_section(report: AuditReport) -> Section:
    """Make the table of the most skewed queries, with counts of each group."""
    found = report.verdict
    classes = report.audit.groups.classes
    first = [
        Cell(f"{number(expected, 1).removesuffix('.0')}", f"by chance {low} to {high}")
        for expected, (low, high) in zip(found.expected, found.by_chance, strict=True)
    ]
    rows = [("expected", [*first, Cell("–")])]
    for worst in found.worst:
        cells = [
            Cell(str(n), strong=not low <= n <= high)
            for n, (low, high) in zip(worst.counts, found.by_chance, strict=True)
        ]
        rows.append((worst.query, [*cells, Cell(number(worst.skew, 2))]))
    note = (
        f"Images of each group among the first {found.k} results of {display_name(report.methods[0])}. "
        f"By chance: the central 95\xa0% of lists in random order. Bold: outside of it."
    )
    caption = f"Counts among {found.k} images, the most skewed query first"
    columns = ["Query", *classes, "MaxSkew"]
    return Section(f"The {len(found.worst)} worst queries", [note], [Table(caption, columns, rows)])


def recommendation_section(report: AuditReport) -> Section:
    """State the rule, and show what it weighs for each method."""
    found = report.verdict.recommendation
    means = report.means(report.k)
    base = report.methods[0]
    rows = []
    for method in report.methods:
        skew, useful = means.loc[(method, "max_skew")], means.loc[(method, found.utility), "value"]
        lost = means.loc[(base, found.utility), "value"] - useful
        fairer = "–" if method == base else ("yes" if holds(skew, "lower") else "no")
        cells = [
            Cell(number(skew["value"], 2)),
            Cell(fairer),
            Cell(number(useful, 2)),
            Cell("–" if method == base else number(lost, 2)),
            Cell("yes" if method in found.front else "no"),
            Cell(report.audit.costs[method].words),
        ]
        name = f"{display_name(method)}{' (recommended)' if method == found.method else ''}"
        rows.append((name, cells))
    label = METRICS[found.utility].label
    columns = [
        "Method", "MaxSkew ↓", "Surely fairer", f"{label} ↑", "Loss", "On the Pareto front", "Cost",
    ]  # fmt: skip
    table = Table(f"What the recommendation weighs, K = {report.k}", columns, rows)
    return Section("Recommendation", [found.why, _rule(found, base)], [table])


def _rule(found: Recommendation, base: str) -> str:
    return (
        f"The rule: methods on the Pareto front of MaxSkew and {found.utility} (no other is at least as good "
        f"in both), surely fairer than {display_name(base)} after Holm's correction, that lose at most "
        f"{found.max_loss:g} of {found.utility} (--max-loss). Of these the one with the lowest cost, then "
        f"the lowest MaxSkew. Costs from low to high: debiasing the queries; trained weights; labeled "
        f"images; changed images, for which the index is rebuilt."
    )
