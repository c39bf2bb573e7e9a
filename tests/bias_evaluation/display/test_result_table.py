"""The table of all results: seeds are averaged, queries are read."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from support.result_rows import record

from bias_evaluation.display.result_table import query_skews, seed_means, seed_notes


def test_seeds_are_averaged(small_results: pd.DataFrame) -> None:
    means = seed_means(small_results).set_index("method")
    assert means.loc["prism", "max_skew"] == pytest.approx(0.25)
    assert means.loc["prism", "max_skew ci"] == pytest.approx(0.01)
    skews = query_skews(small_results).set_index(["method", "query"])["skew"]
    assert skews["prism", "Black_Hair"] == pytest.approx(0.5)
    assert len(skews) == 3 * 2


def test_results_without_queries_have_no_grid(small_results: pd.DataFrame) -> None:
    assert query_skews(small_results.drop(columns="by_query")).empty


def test_a_fourth_seed_changes_no_figure_and_is_named(small_results: pd.DataFrame) -> None:
    """Figures, reports and tables are means over the same seeds."""
    by_query = json.dumps({"Blond_Hair": 9.0, "Black_Hair": 9.0})
    fourth = pd.DataFrame([record("prism", "max_skew", 9.0, seed=3, by_query=by_query)])
    more = pd.concat([small_results, fourth], ignore_index=True)
    pd.testing.assert_frame_equal(seed_means(more), seed_means(small_results))
    pd.testing.assert_frame_equal(query_skews(more), query_skews(small_results))
    assert seed_notes(small_results) == []
    [line] = seed_notes(more)
    assert line == (
        "results of further seeds (3 of prism) are left out: what is shown is the mean over seeds 0, 1, 2"
    )
    assert seed_means(more, (3,)).set_index("method").loc["prism", "max_skew"] == 9.0
