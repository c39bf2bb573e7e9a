"""Zero-shot classification against a table worked out by hand and SciPy's interval on the raw records."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bias_evaluation.scoring.classification import evaluate_classification, summarize_classification
from safe_io.errors import InputError

NAMES = (("land", "water"), ("forest", "sea"))
# Images        0  1  2  3  4  5
TARGET = np.array([0, 0, 0, 1, 1, 1])
BIAS = np.array([0, 0, 1, 0, 1, 1])
VAL = np.array([[0, 1, 2, 3], [5, 4, 3, 2]])
SCORES = [
    # predictions 0 1 0 1 for images 0 1 2 3: right, wrong, right, right
    torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.1, 0.9, 0.4, 0.3]]),
    # predictions 0 1 1 1 for images 5 4 3 2: wrong, right, right, wrong
    torch.tensor([[0.6, 0.1, 0.2, 0.3], [0.5, 0.2, 0.9, 0.8]]),
]
# (land, forest): images 0, 1 of fold 0; (land, sea): image 2 twice; (water, forest): image 3 twice;
# (water, sea): images 5 and 4 of fold 1
SIZES = [[2, 2], [2, 2]]
HITS = [[1, 1], [2, 1]]


def test_counts_by_hand() -> None:
    hits, sizes = evaluate_classification(SCORES, VAL, TARGET, BIAS, (2, 2))
    np.testing.assert_array_equal(sizes.sum(0), SIZES)
    np.testing.assert_array_equal(hits.sum(0), HITS)
    np.testing.assert_array_equal(sizes[0], [[2, 1], [1, 0]])
    assert hits.dtype == sizes.dtype == np.int64


def test_summary_by_hand() -> None:
    summary = summarize_classification(np.array([[[3, 1], [4, 5]]]), np.array([[[4, 5], [5, 6]]]), NAMES)
    # 13 of 20; groups 3/4, 1/5, 4/5, 5/6: the worst is (land, sea) with 5 rows
    assert summary["Acc."]["mean"] == pytest.approx(0.65)
    assert summary["WG Acc."]["mean"] == pytest.approx(0.2)
    # records 1, 0, 0, 0, 0: variance (0.8² + 4·0.2²) / 4 = 0.2; t₀.₉₇₅(4) = 2.77644511
    assert summary["WG Acc."]["ci"] == pytest.approx(2.7764451052 * math.sqrt(0.2 / 5), rel=1e-9)
    groups = {"land|forest": 3 / 4, "land|sea": 1 / 5, "water|forest": 4 / 5, "water|sea": 5 / 6}
    assert summary["Acc."]["by_group"] == summary["WG Acc."]["by_group"] == pytest.approx(groups)


def test_intervals_are_scipys_on_the_raw_records_of_all_folds() -> None:
    random = np.random.default_rng(3)
    target, bias = random.integers(0, 3, 200), random.integers(0, 2, 200)
    val = np.stack([random.permutation(200)[:100] for _ in range(3)])
    scores = [torch.from_numpy(random.normal(size=(3, 100))) for _ in range(3)]
    right = np.concatenate([s.argmax(0).numpy() == target[rows] for s, rows in zip(scores, val, strict=True)])
    rows = val.ravel()
    groups = [right[(target[rows] == t) & (bias[rows] == b)] for t in range(3) for b in range(2)]
    names = (("x", "y", "z"), ("p", "q"))
    counts = evaluate_classification(iter(scores), val, target, bias, (3, 2))
    summary = summarize_classification(*counts, names)
    for metric, records in (("Acc.", right), ("WG Acc.", min(groups, key=np.mean))):
        low, high = stats.t.interval(
            0.95, len(records) - 1, loc=records.mean(), scale=stats.sem(records.astype(float))
        )
        assert summary[metric]["mean"] == pytest.approx(records.mean(), rel=1e-12), metric
        assert summary[metric]["ci"] == pytest.approx((high - low) / 2, rel=1e-9), metric


def test_equal_scores_predict_the_first_class() -> None:
    hits, sizes = evaluate_classification([torch.zeros(2, 4)], VAL[:1], TARGET, BIAS, (2, 2))
    np.testing.assert_array_equal(hits, [[[2, 1], [0, 0]]])
    np.testing.assert_array_equal(sizes, [[[2, 1], [1, 0]]])


def test_a_group_of_one_row_has_no_interval() -> None:
    summary = summarize_classification(np.array([[[5, 5], [5, 0]]]), np.array([[[5, 5], [5, 1]]]), NAMES)
    assert summary["WG Acc."]["mean"] == 0.0
    assert summary["WG Acc."]["ci"] is None
    assert summary["Acc."]["ci"] > 0


def test_an_empty_group_is_an_error_that_names_it() -> None:
    with pytest.raises(InputError) as error:
        summarize_classification(np.array([[[1, 1], [0, 1]]]), np.array([[[1, 1], [0, 1]]]), NAMES)
    assert "no evaluation image has target class 'water' and bias class 'forest'" in str(error.value)
    assert "worst-group accuracy is undefined" in str(error.value)


def test_the_bootstrap_draws_whole_folds() -> None:
    """Two folds, all right and all wrong: draws are 0, 1/2 or 1, each end with probability 1/4."""
    hits, sizes = np.array([[[2, 2], [2, 2]], [[0, 0], [0, 0]]]), np.full((2, 2, 2), 2)
    summary = summarize_classification(hits, sizes, NAMES)
    assert summary["Acc."]["ci_bootstrap"] == summary["WG Acc."]["ci_bootstrap"] == [0.0, 1.0]
    same = summarize_classification(np.stack([hits[0]] * 3), np.stack([sizes[0]] * 3), NAMES)
    assert same["WG Acc."]["ci_bootstrap"] == [1.0, 1.0]
    assert summarize_classification(hits[:1], sizes[:1], NAMES)["Acc."]["ci_bootstrap"] is None


def test_scores_that_are_not_finite_are_refused() -> None:
    scores = torch.tensor([[0.1, 0.2], [float("nan"), 0.3]])
    with pytest.raises(ValueError, match="scores of 1 of 2 queries are NaN or infinite, the first: query 1"):
        evaluate_classification([scores], np.array([[0, 1]]), np.zeros(2, int), np.zeros(2, int), (2, 2))
