"""The figures of a report, as SVG in data URIs: text stays text, and equal inputs give equal files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bias_evaluation.display.figures import place_numbers
from bias_evaluation.display.palette import DARK_COLORS, point_style
from bias_evaluation.grid.methods import display_name as method_display_name
from bias_evaluation.grid.methods import group_index
from fair_search.fairness_metrics import METRICS
from fair_search.judging import RANDOM_ORDER
from fair_search.report.page import data_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def display_name(method: str) -> str:
    """Name of a method for people."""
    if method == RANDOM_ORDER:
        return "Random order"
    return method_display_name(method)


@contextmanager
def plain_text() -> Iterator[None]:
    """Draw with text as text: no formulas in names, letters left to the fonts of the reader's machine."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "report"}):
        yield


def svg_uri(figure: Figure) -> str:
    """Return a figure as the data URI of an SVG image."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return data_uri(content.getvalue(), "image/svg+xml")


def fairness_utility(table: pd.DataFrame, k: int, y: str, x: str) -> Figure:
    """Draw fairness against utility: one point a method, bars are the 95 % intervals.

    Parameters
    ----------
    table : pandas.DataFrame
        Of `judging.judge`.
    k : int
        Which K.
    y, x : str
        Metrics: of fairness, and of utility.

    Returns
    -------
    matplotlib.figure.Figure
        Numbers beside the points are those of the legend; a dashed line is the random order.
    """
    from matplotlib.figure import Figure

    means = table[(table["scope"] == "mean") & (table["k"] == k)].set_index(["metric", "method"])
    methods = [m for m in dict.fromkeys(table["method"]) if m != RANDOM_ORDER]
    figure = Figure(figsize=(4.7, 5.2), layout="constrained")
    axes = figure.subplots()
    points = []
    for position, method in enumerate(methods):
        row_x, row_y = means.loc[(x, method)], means.loc[(y, method)]
        axes.errorbar(
            row_x["value"],
            row_y["value"],
            xerr=_bars(row_x),
            yerr=_bars(row_y),
            **point_style(position, group_index(method), DARK_COLORS),
            markersize=7,
            elinewidth=0.9,
            label=f"{position + 1}  {display_name(method)}",
        )
        points.append((row_x["value"], row_y["value"], str(position + 1)))
    random = means.loc[(y, RANDOM_ORDER)]
    axes.axhspan(random["low"], random["high"], color="#9a9a9a", alpha=0.25, linewidth=0)
    axes.axhline(random["value"], linestyle="--", color="#525252", linewidth=1, label="random order")
    axes.set_xlabel(f"{METRICS[x].label} among {k} images (utility)")
    axes.set_ylabel(f"{METRICS[y].label} among {k} images ({METRICS[y].better} is fairer)")
    axes.grid(alpha=0.25)
    axes.margins(0.08)
    figure.legend(
        loc="outside lower center", ncols=3, frameon=False, fontsize=9, handletextpad=0.3, columnspacing=1.0
    )
    figure.draw_without_rendering()  # lays the panel out: only now is it known how far apart points are
    place_numbers(axes, points)
    return figure


def _bars(row: pd.Series) -> np.ndarray:
    """Lengths of the two halves of an interval, ``(2, 1)``."""
    return np.maximum([[row["value"] - row["low"]], [row["high"] - row["value"]]], 0.0)


def describe_points(table: pd.DataFrame, k: int, y: str, x: str) -> str:
    """Say what `fairness_utility` shows, for someone who does not see it."""
    means = table[(table["scope"] == "mean") & (table["k"] == k)]
    values: Mapping[tuple[str, str], float] = means.set_index(["method", "metric"])["value"].to_dict()
    methods: Sequence[str] = [m for m in dict.fromkeys(table["method"]) if m != RANDOM_ORDER]
    parts = [
        f"{display_name(m)}: {METRICS[x].label} {values[m, x]:.2f}, {METRICS[y].label} {values[m, y]:.2f}"
        for m in methods
    ]
    return (
        f"Scatter plot of {METRICS[y].label} against {METRICS[x].label} at K = {k}. {'; '.join(parts)}. "
        f"Random order: {METRICS[y].label} {values[RANDOM_ORDER, y]:.2f}."
    )
