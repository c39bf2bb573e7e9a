"""Contact sheets: what is retrieved before and after, for some queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bias_evaluation.display.palette import DARK_COLORS
from fair_search.report.audit_report import AuditReport
from fair_search.report.figures import display_name
from fair_search.report.page import Section, Sheet, Thumbnail
from fair_search.report.thumbnails import thumbnail

SHOWN_QUERIES = 3
PATTERNS = (
    "solid",
    "dashed",
    "double",
    "dotted",
    "ridge",
)  # of the line above an image: its group without color


def sheet_section(report: AuditReport) -> Section:
    """Make the contact sheets of the chosen queries and methods."""
    pictures = report.pictures
    skews = report.by_query("max_skew", report.k)[report.methods[0]]
    kept = tuple(query for query in pictures.queries if query not in report.audit.left_out_queries)
    chosen = kept or tuple(skews.sort_values(ascending=False, kind="stable").index[:SHOWN_QUERIES])
    methods = pictures.methods or tuple(dict.fromkeys((report.methods[0], report.compared_with)))
    why = "" if kept else " The queries are those with the largest MaxSkew before."
    count = min(pictures.count, report.audit.lists.rows.shape[2])
    parts = [
        Section(f"“{query}”", (), [_sheet(report, query, method, count) for method in methods])
        for query in chosen
    ]
    return Section(
        "What is retrieved",
        [
            f"The first {count} images of each list, best first, with "
            f"{' and with '.join(map(display_name, methods))}.{why}"
        ],
        parts=parts,
    )


def _sheet(report: AuditReport, query: str, method: str, count: int) -> Sheet:
    audit, pictures = report.audit, report.pictures
    m, q = audit.lists.methods.index(method), audit.lists.queries.index(query)
    rows, codes = audit.lists.rows[m, q, :count], audit.lists.codes[m, q, :count]
    images = []
    for rank, (row, code) in enumerate(zip(rows, codes, strict=True), start=1):
        source = ""
        if pictures.paths is not None:
            source = thumbnail(Path(pictures.paths[row]), pictures.reading)
            if not source:
                report.unreadable.append(str(pictures.paths[row]))
        group, name = audit.groups.classes[code], report.names[row]
        alt = f"Rank {rank}: {name}, {group}" if source else str(name)
        right = (
            "" if audit.lists.relevant is None else (" ✓" if audit.lists.relevant[m, q, rank - 1] else " ✗")
        )
        color = DARK_COLORS[(code + 1) % len(DARK_COLORS)]
        pattern = PATTERNS[code % len(PATTERNS)]
        images.append(Thumbnail(source, alt, f"{rank}. {group}{right}", color, pattern))
    shares = np.bincount(codes, minlength=len(audit.groups.classes))
    note = ", ".join(
        f"{n} {name}" for n, name in sorted(zip(shares, audit.groups.classes, strict=True), reverse=True)
    )
    marked = "" if audit.lists.relevant is None else " ✓: has the label of the query."
    return Sheet(display_name(method), f"{note}.{marked}", images)
