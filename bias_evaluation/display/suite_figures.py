"""Figures of the suite's results: fairness against utility, and the skew of every query.

Classification: worst-group accuracy against accuracy. Labelled retrieval: MaxSkew against precision.
Unlabelled retrieval has no utility, so its panel shows MaxSkew alone. Methods differ in marker and number as
well as color, so that readers of print and color-blind readers lose nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bias_evaluation.display.figures import place_numbers
from bias_evaluation.display.palette import point_style
from bias_evaluation.grid.methods import display_name, group_index, in_table_order
from debiasing_methods.registry import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
            **point_style(position, group_index(method)),
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
