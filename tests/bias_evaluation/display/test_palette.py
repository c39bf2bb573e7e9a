"""Styles of points: distinct markers for two rounds, colors by group."""

from __future__ import annotations

from bias_evaluation.display.palette import COLORS, DARK_COLORS, MARKERS, point_style


def test_markers_are_filled_then_hollow() -> None:
    styles = [point_style(position, 1) for position in range(2 * len(MARKERS))]
    assert len({(style["marker"], style["markerfacecolor"]) for style in styles}) == 2 * len(MARKERS)
    assert {style["color"] for style in styles} == {COLORS[1]}


def test_a_group_beyond_the_palette_has_a_color_too() -> None:
    assert point_style(0, len(COLORS))["color"] == COLORS[0]
    assert point_style(0, 7, DARK_COLORS)["color"] == DARK_COLORS[7]
