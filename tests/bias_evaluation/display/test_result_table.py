"""The table of all results: seeds are averaged, queries are read."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from bias_evaluation.display.result_table import query_skews, seed_means, seed_notes

RETRIEVAL = {"dataset": "celeba", "task": "retrieval", "backbone": "ViT-L-14@336px"}
SETTING = "query=hair|bias=gender|K=500"


def record(method: str, metric: str, mean: float, **more: object) -> dict[str, object]:
    base = {**RETRIEVAL, "method": method, "setting": SETTING, "metric": metric, "mean": mean, "ci": 0.01}
    return {**base, "seed": None, **more}


@pytest.fixture
def results() -> pd.DataFrame:
    rows = []
    for method, seeds, skew in (("vanilla", [None], 0.4), ("prism", [0, 1], 0.2), ("zsdebias", [0], 0.3)):
        for seed in seeds:
            value = skew + 0.1 * (seed or 0)
            by_query = json.dumps({"Blond_Hair": value, "Black_Hair": 2 * value})
            rows.append(record(method, "max_skew", value, seed=seed, by_query=by_query))
            rows.append(record(method, "precision", 0.6, seed=seed, by_query=None))
    return pd.DataFrame(rows)


def test_seeds_are_averaged(results: pd.DataFrame) -> None:
    means = seed_means(results).set_index("method")
    assert means.loc["prism", "max_skew"] == pytest.approx(0.25)
    assert means.loc["prism", "max_skew ci"] == pytest.approx(0.01)
    skews = query_skews(results).set_index(["method", "query"])["skew"]
    assert skews["prism", "Black_Hair"] == pytest.approx(0.5)
    assert len(skews) == 3 * 2


def test_results_without_queries_have_no_grid(results: pd.DataFrame) -> None:
    assert query_skews(results.drop(columns="by_query")).empty


def test_a_fourth_seed_changes_no_figure_and_is_named(results: pd.DataFrame) -> None:
    """Figures, reports and tables are means over the same seeds."""
    by_query = json.dumps({"Blond_Hair": 9.0, "Black_Hair": 9.0})
    fourth = pd.DataFrame([record("prism", "max_skew", 9.0, seed=3, by_query=by_query)])
    more = pd.concat([results, fourth], ignore_index=True)
    pd.testing.assert_frame_equal(seed_means(more), seed_means(results))
    pd.testing.assert_frame_equal(query_skews(more), query_skews(results))
    assert seed_notes(results) == []
    [line] = seed_notes(more)
    assert line == (
        "results of further seeds (3 of prism) are left out: what is shown is the mean over seeds 0, 1, 2"
    )
    assert seed_means(more, (3,)).set_index("method").loc["prism", "max_skew"] == 9.0
