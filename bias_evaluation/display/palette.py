"""Colors and markers that can be told apart with any color vision, and in print.

The colors are those of Okabe and Ito (2008), "Color Universal Design", as far as they are named here.
"""

from __future__ import annotations

from typing import Any

BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
YELLOW = "#F0C040"  # theirs is too pale on white
GRAY = "#999999"

COLORS = (BLACK, ORANGE, BLUE, GREEN, VERMILION, PURPLE)
"""Fills of points."""

DARK_COLORS = ("#000000", "#b36b00", "#0072b2", "#00785a", "#c04f00", "#a8487f", "#3d3d9e", "#6b6b00")
"""The same hues, darkened where they would be pale on white: for borders and for points on a page."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")


def point_style(position: int, group: int, colors: tuple[str, ...] = COLORS) -> dict[str, Any]:
    """Return the style of a method's point, for matplotlib.

    Parameters
    ----------
    position : int
        Place of the method among those drawn. It decides the marker: filled, from the thirteenth on
        hollow.
    group : int
        Place of its group among the groups. It decides the color.
    colors : tuple of str

    Returns
    -------
    dict
        Keywords `marker`, `color`, `markerfacecolor` and `linestyle` (none).
    """
    color = colors[group % len(colors)]
    hollow = position // len(MARKERS) % 2 == 1
    return {
        "marker": MARKERS[position % len(MARKERS)],
        "color": color,
        "markerfacecolor": "white" if hollow else color,
        "linestyle": "none",
    }
