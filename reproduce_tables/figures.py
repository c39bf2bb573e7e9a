"""Figures of fairness: `python -m reproduce_tables.figures`.

Fairness against utility: one figure a dataset and backbone, one panel a setting. Classification: worst-group
accuracy against accuracy; labelled retrieval: MaxSkew against precision; unlabelled retrieval has no utility,
so its panel shows MaxSkew alone. Methods are told apart by marker and number as well as colour, so that print
and colour-blind readers lose nothing.

Skew of every query: one figure a retrieval setting and backbone, a grid of methods × queries (results that
record each query; the published ones do not).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bias_evaluation.grid.methods import display_name, group_index, in_table_order
from bias_evaluation.suite.aggregation import setting_name
from debiasing_methods.registry import METHODS
from reproduce_tables.engine import read_results
from safe_io.errors import InputError, run_main
from safe_io.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, chosen to be told apart with any colour vision; one colour a group of methods.
_COLORS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7")
# Where a point's number may stand, in typographic points from it, the best place first.
_OFFSETS = tuple((r * x, r * y) for r in (9.0, 18.0, 27.0) for x, y in
                 ((0.8, 0.6), (-0.8, 0.6), (0.8, -0.6), (-0.8, -0.6), (0, 1), (0, -1)))  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")


@dataclass(frozen=True)
class Panel:
    """What a panel shows: two metrics with their axis labels; without `x` the methods in order."""

    y: str
    y_label: str
    x: str | None = None
    x_label: str = ""


_CLASSIFICATION = Panel("WG Acc.", "worst-group accuracy (higher is fairer)", "Acc.", "accuracy")
_LABELLED = Panel("max_skew", "MaxSkew (lower is fairer)", "precision", "precision")
_UNLABELLED = Panel("max_skew", "MaxSkew (lower is fairer)")


def seed_means(results: pd.DataFrame) -> pd.DataFrame:
    """Average the seeds of each result.

    Parameters
    ----------
    results : pandas.DataFrame
        All results, as `process_json_outputs.py` writes them.

    Returns
    -------
    pandas.DataFrame
        One row a (dataset, backbone, setting, method), columns the metrics; and ``<metric> ci``, the mean
        half-width of the seeds' 95 % intervals.
    """
    keys = ["dataset", "backbone", "setting", "method"]
    values = results.pivot_table(index=keys, columns="metric", values=["mean", "ci"], aggfunc="mean")
    values.columns = [metric if kind == "mean" else f"{metric} ci" for kind, metric in values.columns]
    return values.reset_index()


def choose_panel(rows: pd.DataFrame) -> Panel:
    """Choose what a setting's panel shows, by the metrics that it has."""
    if "WG Acc." in rows and rows["WG Acc."].notna().any():
        return _CLASSIFICATION
    if "precision" in rows and rows["precision"].notna().any():
        return _LABELLED
    return _UNLABELLED


def draw_panel(axes: Axes, rows: pd.DataFrame, title: str) -> list[tuple[float, float, str]]:
    """Draw one setting.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    rows : pandas.DataFrame
        One row a method (see `seed_means`).
    title : str
        The panel's title.

    Returns
    -------
    list of tuple
        Position and number of each point, for `place_numbers`.
    """
    panel = choose_panel(rows)
    points = []
    for position, method in enumerate(in_table_order([*METHODS, *rows["method"]])):
        row = rows[rows["method"] == method]
        if row.empty:
            continue
        x = position + 1 if panel.x is None else row[panel.x].iloc[0]
        axes.errorbar(
            x,
            row[panel.y].iloc[0],
            xerr=None if panel.x is None else row[f"{panel.x} ci"].iloc[0],
            yerr=row[f"{panel.y} ci"].iloc[0],
            fmt=_MARKERS[position % len(_MARKERS)],
            color=_COLORS[group_index(method) % len(_COLORS)],
            markersize=7,
            elinewidth=0.8,
            label=f"{position + 1}  {display_name(method)}",
        )
        points.append((x, row[panel.y].iloc[0], str(position + 1)))
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(panel.y_label)
    axes.set_xlabel(panel.x_label or "method (number in the legend)")
    if panel.x is None:
        axes.set_xticks(range(1, position + 2))
    axes.grid(alpha=0.25)
    return points


def place_numbers(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each point's number where it hides neither another number nor another point."""
    pixels = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken: list[np.ndarray] = list(pixels)
    scale = axes.figure.dpi / 72  # offsets are in points, distances in pixels
    for (x, y, number), pixel in zip(points, pixels, strict=True):
        free = [min(np.hypot(*(pixel + np.multiply(o, scale) - t)) for t in taken) for o in _OFFSETS]
        offset = _OFFSETS[int(np.argmax(np.minimum(free, 10 * scale)))]  # the first that is far enough
        taken.append(pixel + np.multiply(offset, scale))
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5"} if max(map(abs, offset)) > 12 else None
        axes.annotate(
            number,
            (x, y),
            offset,
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            arrowprops=line,
        )


def draw_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Draw one figure with a panel for each setting in `rows` and one legend for all.

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of `seed_means` of one dataset and backbone.
    title : str
        The figure's title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(rows["setting"]))
    figure = Figure(figsize=(4.6 * len(settings) + 1.9, 4.4), layout="constrained")
    panels = figure.subplots(1, len(settings), squeeze=False)[0]
    points = [
        draw_panel(axes, rows[rows["setting"] == setting], setting.replace("|", ", ").replace("query=", ""))
        for axes, setting in zip(panels, settings, strict=True)
    ]
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.draw_without_rendering()  # lays the panels out: only now is it known how far apart points are
    for axes, numbers in zip(panels, points, strict=True):
        place_numbers(axes, numbers)
    return figure


def query_skews(results: pd.DataFrame) -> pd.DataFrame:
    """Read each query's MaxSkew.

    Parameters
    ----------
    results : pandas.DataFrame
        All results, as `process_json_outputs.py` writes them.

    Returns
    -------
    pandas.DataFrame
        Columns dataset, backbone, setting, method, query and skew (mean of the seeds); empty where no result
        records its queries.
    """
    columns = ["dataset", "backbone", "setting", "method"]
    if "by_query" not in results:
        return pd.DataFrame(columns=[*columns, "query", "skew"])
    rows = results[(results["metric"] == "max_skew") & results["by_query"].notna()]
    listed = [
        (*key, query, skew)
        for *key, text in rows[[*columns, "by_query"]].itertuples(index=False)
        for query, skew in json.loads(text).items()
    ]
    table = pd.DataFrame(listed, columns=[*columns, "query", "skew"])
    return table.groupby([*columns, "query"], sort=False, as_index=False)["skew"].mean()


def draw_grid(rows: pd.DataFrame, title: str) -> Figure:
    """Draw the MaxSkew of every method and query.

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of `query_skews` of one setting and backbone.
    title : str
        The figure's title.

    Returns
    -------
    matplotlib.figure.Figure
        Darker is more skewed, in print as on screen; every cell says its value.
    """
    from matplotlib.figure import Figure

    grid = rows.pivot(index="method", columns="query", values="skew")
    methods = in_table_order(grid.index)
    grid = grid.loc[methods, list(dict.fromkeys(rows["query"]))]
    figure = Figure(figsize=(1.9 + 0.46 * len(grid.columns), 1.9 + 0.3 * len(grid)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="cividis_r", vmin=0, aspect="auto")
    middle = grid.to_numpy().max() / 2
    for (i, j), skew in np.ndenumerate(grid.to_numpy()):
        color = "white" if skew > middle else "black"
        axes.text(j, i, f"{skew:.2f}", ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(
        range(len(grid.columns)), [q.replace("_", " ") for q in grid.columns], rotation=45, ha="right"
    )
    axes.set_yticks(range(len(grid)), [display_name(m) for m in methods])
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="MaxSkew (0 is fair)", pad=0.01)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically; the suffix of `path` names the format. Equal figures give equal files."""
    from matplotlib import rc_context

    undated = {"pdf": {"CreationDate": None}, "png": {"Software": None}}[path.suffix[1:]]
    with atomic_path(path) as temporary, rc_context({"pdf.fonttype": 42}):
        figure.savefig(temporary, dpi=150, metadata=undated)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduce_tables.figures",
        description="Draw fairness against utility for every dataset and backbone in the results, "
        "fairness_<dataset>_<backbone>.png and .pdf, one panel a setting; and the skew of every query, "
        "skew_<dataset>_<setting>_<backbone>.png and .pdf. An @ in a name becomes a hyphen.",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("all_results.feather"), metavar="FILE",
        help="what process_json_outputs.py wrote (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), metavar="DIR", help="where the figures go (default: here)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)
    results = read_results(args.results)
    rows = seed_means(results)
    if rows.empty:
        raise InputError(f"{args.results} holds no results; run main_eval.py and process_json_outputs.py")
    for (dataset, backbone), part in rows.groupby(["dataset", "backbone"], sort=False):
        figure = draw_figure(part, f"{dataset}, {backbone}: fairness against utility (bars: 95 % intervals)")
        stem = f"fairness_{dataset}_{backbone}".replace("@", "-")
        save_both(figure, args.output_dir / stem)
    skews = query_skews(results)
    for (dataset, backbone, setting), part in skews.groupby(["dataset", "backbone", "setting"], sort=False):
        name = setting_name("retrieval", setting)
        figure = draw_grid(
            part, f"{dataset}, {backbone}: MaxSkew of each query, {setting.replace('|', ', ')}"
        )
        save_both(figure, args.output_dir / f"skew_{dataset}_{name}_{backbone}".replace("@", "-"))
    return 0


def save_both(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and PDF; `path` has no suffix."""
    for suffix in (".png", ".pdf"):
        save_figure(figure, path.with_name(path.name + suffix))
    print(f"written: {path}.png, .pdf")


if __name__ == "__main__":
    sys.exit(run_main(main))
