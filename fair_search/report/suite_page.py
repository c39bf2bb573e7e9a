"""The page of the paper's suite: the results of `main_eval.py`, one part a dataset and backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from bias_evaluation.display.result_table import query_skews, read_results, seed_means, seed_notes
from bias_evaluation.display.suite_figures import draw_figure
from bias_evaluation.grid.configs import SEEDS
from bias_evaluation.grid.methods import in_table_order
from bias_evaluation.results.aggregation import collect_results
from fair_search.report.figures import display_name, plain_text, svg_uri
from fair_search.report.page import Cell, Figure, Page, Section, Table, heat_style, number
from safe_io.errors import InputError

# Metric → its name in the report, and whether higher is better.
_METRICS = {
    "kl": ("KL ↓", False),
    "max_skew": ("MaxSkew ↓", False),
    "precision": ("Precision ↑", True),
    "Acc.": ("Accuracy ↑", True),
    "WG Acc.": ("Worst group ↑", True),
}


def read_suite(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read results: a folder of result files, or the table that `process_json_outputs.py` wrote.

    Returns
    -------
    results : pandas.DataFrame
    warnings : list of str

    Raises
    ------
    InputError
        There are no results, or they cannot be read.
    """
    results, warnings = collect_results(path) if path.is_dir() else (read_results(path), [])
    if results.empty:
        raise InputError(f"{path} holds no results; run main_eval.py")
    return results, [*warnings, *seed_notes(results)]


def suite_page(results: pd.DataFrame, title: str = "") -> Page:
    """Make the page of the suite.

    Parameters
    ----------
    results : pandas.DataFrame
        Of `read_suite`.
    title : str
        Heading, in place of the usual one.

    Returns
    -------
    Page
    """
    means, skews = seed_means(results), query_skews(results)
    sections = []
    for dataset, of_dataset in means.groupby("dataset", sort=False):
        backbones = list(of_dataset.groupby("backbone", sort=False))
        parts = [
            _backbone(dataset, backbone, rows, skews, folded=len(backbones) > 1)
            for backbone, rows in backbones
        ]
        sections.append(Section(str(dataset), parts=parts))
    counts = {name: results[name].nunique() for name in ("file", "method", "dataset", "backbone")}
    return Page(
        title or "Fairness of retrieval and classification: the suite",
        "How fair, and how useful, is CLIP with each debiasing method?",
        [
            f"{counts['file']} results: {counts['method']} methods, {counts['dataset']} dataset(s), "
            f"{counts['backbone']} backbone(s). Intervals (±) are 95\xa0% over folds and queries, as in the "
            "paper; folds overlap, so they are narrower than the true uncertainty. Methods with "
            f"seeds are means over seeds {', '.join(map(str, SEEDS))}.",
            "KL and MaxSkew: 0 is fair. Worst group: accuracy in the worst (class × bias group). Bold: the "
            "best of a column.",
        ],
        sections,
    )


def _backbone(
    dataset: object, backbone: object, rows: pd.DataFrame, skews: pd.DataFrame, *, folded: bool
) -> Section:
    with plain_text():
        source = svg_uri(draw_figure(rows, f"{dataset}, {backbone}"))
    alt = (
        f"Fairness against utility of {rows['method'].nunique()} methods; the tables below hold every value."
    )
    blocks: list[Table | Figure] = [
        Figure(
            source,
            alt,
            f"{dataset}, {backbone}: fairness against utility (bars: 95\xa0% intervals)",
            wide=True,
        )
    ]
    parts = []
    for setting, part in rows.groupby("setting", sort=False):
        name = _setting(str(setting))
        blocks.append(_table(name, part))
        one = skews[(skews[["dataset", "backbone", "setting"]] == [dataset, backbone, setting]).all(axis=1)]
        if len(one):
            parts.append(Section(f"{name}: query by query", (), [_skews(name, one)], folded=True))
    return Section(str(backbone), (), blocks, parts, folded=folded)


def _setting(setting: str) -> str:
    return setting.replace("|", ", ").replace("query=", "").replace("bias=", "bias ").replace("_", " ")


def _table(name: str, rows: pd.DataFrame) -> Table:
    values = rows.set_index("method")
    metrics = [m for m in _METRICS if m in values and values[m].notna().any()]
    best = {m: values[m].max() if _METRICS[m][1] else values[m].min() for m in metrics}
    body = []
    for method in in_table_order(rows["method"]):
        row = values.loc[method]
        cells = [
            Cell(number(row[m]), f"± {number(row[f'{m} ci'])}", strong=bool(np.isclose(row[m], best[m])))
            for m in metrics
        ]
        body.append((display_name(method), cells))
    return Table(name, ["Method", *(_METRICS[m][0] for m in metrics)], body)


def _skews(name: str, rows: pd.DataFrame) -> Table:
    grid = rows.pivot(index="query", columns="method", values="skew")
    methods, largest = in_table_order(rows["method"]), float(rows["skew"].max())
    body = [
        (
            query.replace("_", " "),
            [
                Cell(number(grid.loc[query, m], 2), style=heat_style(grid.loc[query, m], largest))
                for m in methods
            ],
        )
        for query in dict.fromkeys(rows["query"])
    ]
    columns = ["Query", *map(display_name, methods)]
    return Table(f"{name}: MaxSkew of each query; darker is more skewed", columns, body)
