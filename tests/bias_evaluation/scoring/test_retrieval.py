"""Retrieval against a table worked out by hand and against naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bias_evaluation.scoring.retrieval import check_k, evaluate_retrieval, summarize_retrieval
from safe_io.errors import InputError

LN2 = math.log(2)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(InputError) as error:
        check_k(k, 4)
    assert f"K = {k} images cannot be retrieved from 4 evaluation images" in str(error.value)
    assert "set retrieval_k (--retrieval-k) between 1 and 4" in str(error.value)


# Six images, bias classes a a a a b b; images 0, 2, 4 have the label of query 0, images 1, 5 of query 1.
BIAS = np.array([0, 0, 0, 0, 1, 1])
VAL = np.array([[0, 1, 4, 5], [5, 0, 1, 2]])
RELEVANT = np.array([[1, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 1]], bool)
SCORES = [
    # fold 0, images 0 1 4 5: query 0 retrieves 4 and 5, query 1 retrieves 0 and 5
    torch.tensor([[0.1, 0.2, 0.9, 0.8], [0.9, 0.1, 0.2, 0.8]]),
    # fold 1, images 5 0 1 2: query 0 retrieves 5 and 2, query 1 retrieves 0 and 1
    torch.tensor([[0.9, 0.1, 0.2, 0.8], [0.1, 0.7, 0.6, 0.5]]),
]
EXPECTED = {
    # fold 0, priors ½ ½: shares (0, 1) → 1·ln 2; shares (½, ½) → 0
    # fold 1, priors ¾ ¼: shares (½, ½) → ½ ln(2/3) + ½ ln 2; shares (1, 0) → ln(4/3)
    "kl": [[LN2, 0.0], [0.5 * math.log(2 / 3) + 0.5 * LN2, math.log(4 / 3)]],
    "max_skew": [[LN2, 0.0], [LN2, math.log(4 / 3)]],
    # 4 of {4, 5}; 5 of {0, 5}; 2 of {5, 2}; 1 of {0, 1}
    "precision": [[0.5, 0.5], [0.5, 0.5]],
}


def test_table_by_hand() -> None:
    records = evaluate_retrieval(SCORES, VAL, BIAS, ("a", "b"), 2, RELEVANT)
    assert list(records) == ["kl", "max_skew", "precision"]
    for metric, expected in EXPECTED.items():
        np.testing.assert_allclose(records[metric], expected, atol=1e-15, err_msg=metric)


def test_precision_only_with_labels_and_by_its_own_query() -> None:
    records = evaluate_retrieval(SCORES, VAL, BIAS, ("a", "b"), 2)
    assert list(records) == ["kl", "max_skew"]
    # K = 1 tells the queries apart: images 4, 0 in fold 0 and 5, 0 in fold 1
    precision = evaluate_retrieval(SCORES, VAL, BIAS, ("a", "b"), 1, RELEVANT)["precision"]
    np.testing.assert_array_equal(precision, [[1, 0], [0, 0]])


def test_summary_is_over_folds_and_queries() -> None:
    summary = summarize_retrieval({"kl": np.array(EXPECTED["kl"])}, ("p", "q"))["kl"]
    values = [LN2, 0.0, 0.5 * math.log(4 / 3), math.log(4 / 3)]  # ½ ln(2/3) + ½ ln 2 = ½ ln(4/3)
    mean = sum(values) / 4
    variance = sum((v - mean) ** 2 for v in values) / 3
    assert summary["mean"] == pytest.approx(mean, rel=1e-14)
    assert summary["ci"] == pytest.approx(3.18244630528 * math.sqrt(variance / 4), rel=1e-10)  # t₀.₉₇₅(3)
    by_query = {"p": (LN2 + 0.5 * math.log(4 / 3)) / 2, "q": math.log(4 / 3) / 2}
    assert summary["by_query"] == pytest.approx(by_query)
    assert all(type(v) is float for v in summary["by_query"].values())
    fold_means = [LN2 / 2, 0.75 * math.log(4 / 3)]  # of two folds, a draw is one, the other or their mean
    assert summary["ci_bootstrap"] == pytest.approx(sorted(fold_means))


def test_one_fold_and_query_has_no_interval() -> None:
    summary = summarize_retrieval(evaluate_retrieval([SCORES[0][:1]], VAL[:1], BIAS, ("a", "b"), 2), ("p",))
    nothing = {"ci": None, "ci_bootstrap": None}
    assert summary["kl"] == {"mean": pytest.approx(LN2), **nothing, "by_query": {"p": pytest.approx(LN2)}}


def test_absent_class_is_named_with_its_fold() -> None:
    val = np.array([[0, 1, 4, 5], [0, 1, 2, 3]])
    with pytest.raises(InputError, match="bias class 'b' has no evaluation image in fold 1"):
        evaluate_retrieval(SCORES, val, BIAS, ("a", "b"), 2)


def test_k_larger_than_the_fold() -> None:
    with pytest.raises(InputError, match="K = 5 images cannot be retrieved from 4"):
        evaluate_retrieval(SCORES, VAL, BIAS, ("a", "b"), 5)


def _naive(scores: list[Tensor], val: np.ndarray, bias: np.ndarray, k: int) -> np.ndarray:
    """KL by loops over folds, queries and classes."""
    kl = []
    for fold, rows in enumerate(val):
        for query in scores[fold].tolist():
            best = sorted(range(len(rows)), key=lambda i: -query[i])[:k]
            total = 0.0
            for c in set(bias.tolist()):
                p = sum(bias[rows[i]] == c for i in best) / k
                prior = sum(bias[r] == c for r in rows) / len(rows)
                total += p * math.log(max(p / prior, 1e-10))
            kl.append(total)
    return np.array(kl).reshape(len(val), -1)


def test_equals_naive_loops_on_random_scores() -> None:
    random = np.random.default_rng(0)
    bias = random.integers(0, 3, 120)
    val = np.stack([random.permutation(120)[:60] for _ in range(4)])
    scores = [torch.from_numpy(random.normal(size=(5, 60))) for _ in range(4)]
    records = evaluate_retrieval(iter(scores), val, bias, ("a", "b", "c"), 7)
    np.testing.assert_allclose(records["kl"], _naive(scores, val, bias, 7), atol=1e-12)


def test_one_image_and_all_images() -> None:
    """K = 1: the retrieved class has all; K = N: everybody is retrieved, as the priors are."""
    random = torch.Generator().manual_seed(0)
    scores = [torch.randn(3, 4, generator=random) for _ in VAL]
    whole = evaluate_retrieval(iter(scores), VAL, BIAS, ("a", "b"), 4, None)
    for metric in ("kl", "max_skew"):
        np.testing.assert_allclose(np.asarray(whole[metric]), 0, atol=1e-12)
    one = evaluate_retrieval(iter(scores), VAL, BIAS, ("a", "b"), 1, None)
    for fold, rows in enumerate(VAL):
        for query, best in enumerate(scores[fold].argmax(dim=1).tolist()):
            prior = np.mean(BIAS[rows] == BIAS[rows[best]])
            expected = -math.log(prior)
            np.testing.assert_allclose(np.asarray(one["kl"])[fold, query], expected, rtol=1e-12)
            np.testing.assert_allclose(np.asarray(one["max_skew"])[fold, query], expected, rtol=1e-12)
