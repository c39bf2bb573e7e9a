"""Figures of the suite: what a panel shows, numbers apart, and any number of methods."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bias_evaluation.display.suite_figures import choose_panel, draw_figure, draw_grid
from debiasing_methods.registry import METHODS


def points(methods: list[str]) -> pd.DataFrame:
    """Make the means of some methods in one labelled retrieval, each elsewhere."""
    skew = np.linspace(0.1, 0.9, len(methods))
    rows = {"setting": "s", "method": methods, "max_skew": skew, "max_skew ci": 0.1}
    return pd.DataFrame(rows).assign(**{"precision": skew**2, "precision ci": 0.1})


def test_the_panel_follows_from_the_metrics() -> None:
    means = points(["vanilla"])
    assert choose_panel(means).x == "precision"
    assert choose_panel(means.drop(columns="precision")).x is None
    assert choose_panel(means.assign(**{"WG Acc.": 0.5})).y == "WG Acc."


def test_numbers_stand_apart() -> None:
    """Three methods at one place: their numbers do not cover each other."""
    rows = pd.DataFrame(
        {"setting": "s", "method": ["vanilla", "sem-b", "prism"], "max_skew": 0.5, "max_skew ci": 0.1}
    )
    rows = rows.assign(**{"precision": 0.5, "precision ci": 0.1})
    axes = draw_figure(rows, "x").axes[0]
    offsets = [np.array(text.xyann) for text in axes.texts]
    assert len(offsets) == 3
    assert min(np.hypot(*(a - b)) for i, a in enumerate(offsets) for b in offsets[:i]) >= 9


@pytest.mark.parametrize("number", [12, len(METHODS), len(METHODS) + 8])
@pytest.mark.parametrize("utility", [True, False])
def test_any_number_of_methods_can_be_told_apart(number: int, utility: bool) -> None:
    """Methods of one's own come after the registered ones, each in a style of its own."""
    methods = [*METHODS, *(f"my-method-{i}" for i in range(number - len(METHODS)))][:number]
    rows = points(methods)
    axes = draw_figure(rows if utility else rows.drop(columns="precision"), "x").axes[0]
    handles, labels = axes.get_legend_handles_labels()
    assert len(labels) == len(axes.texts) == number
    assert [label.split()[0] for label in labels] == [text.get_text() for text in axes.texts]
    styles = {(h.lines[0].get_marker(), h.lines[0].get_markerfacecolor()) for h in handles}
    assert len(styles) == number


def test_the_grid_holds_any_number_of_methods() -> None:
    methods = [*METHODS, *(f"my-method-{i}" for i in range(8))]
    rows = pd.DataFrame([(m, q, 0.1) for m in methods for q in "ab"], columns=["method", "query", "skew"])
    labels = [label.get_text() for label in draw_grid(rows, "x").axes[0].get_yticklabels()]
    assert labels == [*(method.display_name for method in METHODS.values()), *methods[-8:]]
