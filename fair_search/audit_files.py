"""The files of an audit: report, tables and provenance; and its table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fair_search.audit import Audit
from fair_search.fairness_metrics import METRICS
from fair_search.judging import RANDOM_ORDER, RankedLists
from fair_search.metric_frame import by_group_table
from fair_search.report.audit_page import audit_page
from fair_search.report.audit_report import AuditReport
from fair_search.report.figures import display_name
from fair_search.report.page import render
from safe_io.files import atomic_paths, json_text
from safe_io.provenance import versions


def audit_record(
    report: AuditReport,
    *,
    digests: Mapping[str, str],
    options: Mapping[str, Any],
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    """Make the content of ``audit.json``.

    Parameters
    ----------
    report : AuditReport
    digests : mapping
        What the audit was made from: name → digest.
    options : mapping
        Options of the command, as plain values.
    left_out : mapping
        Method → why it is not in the audit.
    """
    return summary(report.audit) | {
        "verdict": asdict(report.verdict),
        "options": dict(options),
        "left_out_methods": dict(left_out),
        "digests": dict(digests),
    }


def write_audit(folder: Path, report: AuditReport, record: Mapping[str, Any]) -> None:
    """Write the report and the tables of an audit; those that it does not have are deleted.

    ``report.html``, ``audit.csv``, ``by_group.csv``, ``retrieved.csv`` and ``audit.json`` are always written;
    ``faiss.csv`` with an index, and ``changes.csv`` if an earlier audit is compared.

    Parameters
    ----------
    folder : pathlib.Path
        Made if it is missing.
    report : AuditReport
    record : mapping
        Of `audit_record`.
    """
    found = report.audit
    tables = [found.table] if found.reranked is None else [found.table, found.reranked.table]
    contents = {
        "report.html": render(audit_page(report)),
        "audit.csv": _csv_text(pd.concat(tables, ignore_index=True)),
        "retrieved.csv": _csv_text(retrieved(report)),
        "by_group.csv": _csv_text(by_group_table(found)),
        "audit.json": json_text(dict(record)),
    }
    drawn = None if found.uncertainty is None else found.uncertainty.table
    further = {"faiss.csv": found.approximate, "changes.csv": report.changes, "uncertainty.csv": drawn}
    further["leakage.csv"] = found.leakage
    contents |= {name: _csv_text(table) for name, table in further.items() if table is not None}
    with atomic_paths(*(folder / name for name in contents)) as temporaries:
        for temporary, text in zip(temporaries, contents.values(), strict=True):
            temporary.write_text(text, encoding="utf-8")
    for name in further.keys() - contents.keys():
        (folder / name).unlink(missing_ok=True)  # of an earlier audit


def _csv_text(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


def retrieved(report: AuditReport) -> pd.DataFrame:
    """List what each method retrieves, re-ranked lists too: method, query, rank, row, id and group."""
    found = report.audit
    parts = [found.lists] if found.reranked is None else [found.lists, found.reranked.lists]
    return pd.concat([_retrieved(report, lists) for lists in parts], ignore_index=True)


def _retrieved(report: AuditReport, lists: RankedLists) -> pd.DataFrame:
    names, top = report.names, max(report.audit.settings.ks)
    index = pd.MultiIndex.from_product(
        [lists.methods, lists.queries, range(1, top + 1)], names=["method", "query", "rank"]
    )
    rows = lists.rows[..., :top].ravel()
    classes = np.array(report.audit.groups.classes, dtype=object)
    columns = {
        "row": rows,
        "id": [names[row] for row in rows],
        "group": classes[lists.codes[..., :top].ravel()],
    }
    return pd.DataFrame(columns, index).reset_index()


def summary(found: Audit) -> dict[str, Any]:
    """Return what was audited, how, and the means, as plain values for JSON."""
    means = found.table[found.table["scope"] == "mean"].drop(columns=["scope", "query"])
    record = {
        "attribute": found.groups.attribute,
        "groups": dict(zip(found.groups.classes, map(int, found.counts), strict=True)),
        "left_out_images": int((found.groups.codes < 0).sum()),
        "reference_images": len(found.reference_rows),
        "queries": list(found.lists.queries),
        "methods": list(found.lists.methods),
        "measurement": asdict(found.settings),
        "means": records(means),
        "faiss": None if found.approximate is None else records(found.approximate),
        "versions": versions("fair_search"),
    }
    if found.first_on_all is not None:
        record["first_method_on_all_images"] = records(
            found.first_on_all[["method", "k", "metric", "value", "low", "high"]]
        )
    if found.reranked is not None:
        again = found.reranked.table
        means = again[again["scope"] == "mean"][["method", "k", "metric", "value", "difference"]]
        record["reranked"] = found.reranked.record() | {"means": records(means)}
    if found.uncertainty is not None:
        record["uncertainty"] = found.uncertainty.record()
    if found.leakage is not None:
        record["leakage"] = records(found.leakage)
    if found.left_out_queries:
        record["left_out_queries"] = {query: list(names) for query, names in found.left_out_queries.items()}
    return record


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as plain values; None for what is not known."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def means_table(found: Audit) -> str:
    """Write the means at the largest K with their intervals as lines for a terminal."""
    k = max(found.settings.ks)
    table = found.table
    means = table[(table["scope"] == "mean") & (table["k"] == k)].set_index(["method", "metric"])
    metrics = found.lists.metrics
    lines = [["method", *(METRICS[m].label for m in metrics)]]
    for method in (*found.lists.methods, RANDOM_ORDER):
        cells = [display_name(method)]
        for metric in metrics:
            row = means.loc[(method, metric)] if (method, metric) in means.index else None
            cells.append("" if row is None else f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
        lines.append(cells)
    lines += _reranked_lines(found, k)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    title = f"K = {k}, means over {len(found.lists.queries)} queries with 95 % intervals"
    return "\n".join([title, *text])


def _reranked_lines(found: Audit, k: int) -> list[list[str]]:
    """Cells of the re-ranked lists' means, which have no intervals."""
    if found.reranked is None:
        return []
    table = found.reranked.table
    means = table[(table["scope"] == "mean") & (table["k"] == k)].set_index(["method", "metric"])["value"]
    return [
        [display_name(name), *(f"{means[name, metric]:.3f}" for metric in found.lists.metrics)]
        for name in found.reranked.lists.methods
    ]


def uncertainty_table(found: Audit) -> str:
    """Write how far the model's uncertainty moves the means at the largest K, as lines for a terminal."""
    k, drawn = max(found.settings.ks), found.uncertainty
    table = drawn.table[drawn.table["k"] == k].set_index(["method", "metric"])
    metrics = found.lists.metrics
    lines = [["method", *(METRICS[m].label for m in metrics)]]
    for name in found.lists.methods:
        rows = [table.loc[(name, metric)] for metric in metrics]
        lines.append(
            [display_name(name), *(f"{r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in rows)]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    by_group = ", ".join(f"{name} {value:.2e}" for name, value in drawn.variance_by_group.items())
    title = f"K = {k}, as far as the model is uncertain: means of {drawn.draws} draws with 95 % ranges"
    return "\n".join([title, *text, f"mean variance of a cosine: {by_group}"])


def first_on_all_line(found: Audit) -> str:
    """Write the first method's means on all images, beside which the table's are those of some of them."""
    method, k = found.lists.methods[0], max(found.settings.ks)
    rows = found.first_on_all[found.first_on_all["k"] == k].set_index("metric")
    n, judged, apart = (
        int((found.groups.codes >= 0).sum()),
        int(found.counts.sum()),
        len(found.reference_rows),
    )
    values = ", ".join(f"{METRICS[m].label} {rows.loc[m, 'value']:.3f}" for m in rows.index if m != "overlap")
    return (
        f"{display_name(method)} on all {n:,} images, as they are searched today: {values}\n(the table is "
        f"of {judged:,} images: {apart:,} were kept apart as labelled images, which some methods need)"
    )
