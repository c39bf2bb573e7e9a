"""Exact top-K: against a stable sort, with ties, in blocks, and with scores that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bias_evaluation.scoring.top_k import TopK, check_scores, top_k


def by_sorting(scores: Tensor, k: int) -> np.ndarray:
    """Positions of the K best, of equal scores the lower one."""
    return np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :k]


def draw(seed: int, distinct: int, *shape: int) -> Tensor:
    """Draw scores of few distinct values, so that many are equal."""
    return torch.from_numpy(np.random.default_rng(seed).integers(distinct, size=shape).astype(np.float32))


def test_best_images_come_first() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, -1.0], [3.0, 1.0, 2.0, 4.0]])
    for k, expected in ((1, [[1], [3]]), (2, [[1, 2], [3, 0]]), (4, [[1, 2, 0, 3], [3, 0, 2, 1]])):
        values, positions = top_k(scores, k)
        assert positions.tolist() == expected
        torch.testing.assert_close(values, scores.gather(1, positions), rtol=0, atol=0)


def test_of_equal_scores_the_lower_position_comes_first() -> None:
    assert top_k(torch.tensor([[1.0, 0.5, 2.0, 1.0, 1.0, 0.0]]), 3)[1].tolist() == [[2, 0, 3]]
    assert top_k(torch.zeros(1, 6), 4)[1].tolist() == [[0, 1, 2, 3]]
    assert top_k(torch.tensor([[-0.0, 0.0, -0.0]]), 2)[1].tolist() == [[0, 1]]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1, 2, 3, 1000]))
def test_the_order_is_that_of_a_stable_sort(seed: int, k: int, distinct: int) -> None:
    scores = draw(seed, distinct, 3, 40)
    np.testing.assert_array_equal(top_k(scores, k)[1], by_sorting(scores, k))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 45), st.sampled_from([1, 3, 1000]))
def test_blocks_give_what_one_matrix_gives(seed: int, block: int, k: int, distinct: int) -> None:
    scores, share = draw(seed, distinct, 3, 40), (seed % 3) / 2
    rows = torch.from_numpy(np.flatnonzero(np.random.default_rng(seed).random(40) < share))  # none, half, all
    best = TopK(k)
    for part in rows.split(block) if len(rows) else ():
        best.add(scores[:, part], part)
    if not len(rows):
        assert best.rows is None
        return
    expected = rows.numpy()[by_sorting(scores[:, rows], k)]
    np.testing.assert_array_equal(best.rows, expected)
    np.testing.assert_array_equal(best.scores, np.take_along_axis(scores.numpy(), expected, 1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    scores = draw(0, 9, 4, 10)
    check_scores(scores)
    scores[2, 3] = value
    line = "scores of 1 of 4 queries are NaN or infinite, the first: query 2"
    with pytest.raises(ValueError, match=line):
        top_k(scores, 2)
    best = TopK(2)
    best.add(scores[:, :3], torch.arange(3))
    with pytest.raises(ValueError, match=line):
        best.add(scores[:, 3:], torch.arange(3, 10))
