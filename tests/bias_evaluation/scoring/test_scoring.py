"""Scores fold by fold: chunks, each fold's own text, each fold's own noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.scoring import fold_scores as scoring
from bias_evaluation.scoring.fold_scores import SharedScores, fold_scores
from bias_evaluation.scoring.top_k import top_k
from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages, Vanilla

N, DIM = 50, 6
VAL = np.stack([np.random.default_rng(fold).permutation(N)[:23] for fold in range(3)])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


RAW = draw(N, DIM)
IMAGES = normalize(RAW)
STORED = StoredImages(RAW.numpy(), Path("images.npy"))
GROUPS = [QueryGroup(draw(1, DIM, seed=1), "a"), QueryGroup(draw(2, DIM, seed=2), "b")]


def no_reference() -> ReferenceImages:
    raise AssertionError("a method that needs no labelled images was given some")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "IMAGE_ROWS", 7)


def cosine(text: Tensor, images: Tensor) -> Tensor:
    return normalize(text) @ normalize(images).T


def test_scores_of_all_groups_are_cosines_with_each_folds_rows() -> None:
    text = torch.cat([group.queries for group in GROUPS])
    scores = list(fold_scores(Vanilla(), GROUPS, STORED, VAL, no_reference))
    assert len(scores) == 3
    for rows, got in zip(VAL, scores, strict=True):
        torch.testing.assert_close(got, cosine(text, IMAGES[rows]), rtol=0, atol=1e-6)


class Shifted(DebiasingMethod):
    """Text that differs from fold to fold."""

    name = "shifted"
    needs_reference = True

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        means = reference.images[reference.folds].mean(1)  # (F, d)
        return [group.queries + means[:, None] for group in groups]


def test_text_of_a_fold_meets_the_images_of_that_fold() -> None:
    folds = torch.from_numpy(np.sort(VAL[::-1].copy(), axis=1))
    reference = ReferenceImages(IMAGES, torch.zeros(N, dtype=torch.long), ("a",), folds)
    scores = list(fold_scores(Shifted(), GROUPS, STORED, VAL, lambda: reference))
    for fold, (rows, got) in enumerate(zip(VAL, scores, strict=True)):
        text = torch.cat([group.queries for group in GROUPS]) + IMAGES[folds[fold]].mean(0)
        torch.testing.assert_close(got, cosine(text, IMAGES[rows]), rtol=0, atol=1e-6)


class NoisyTransform(ImageTransform):
    """Adds the noise of a fold, row by row."""

    def __init__(self, fold: int) -> None:
        self.noise = draw(1000, DIM, seed=100 + fold)

    def apply(self, images: Tensor, group: int = 0, first_row: int = 0) -> Tensor:
        return images + self.noise[first_row : first_row + len(images)]


class Noisy(DebiasingMethod):
    """Draws noise for images, and prepares them first."""

    name = "noisy"
    random_images = True

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        return [group.queries for group in groups]

    def prepare_images(self, images: Tensor) -> Tensor:
        return 2 * images

    def image_transform(self, groups: Sequence[QueryGroup], fold: int = 0) -> ImageTransform:
        return NoisyTransform(fold)


def test_noise_belongs_to_the_fold_and_to_the_row_not_to_the_chunk() -> None:
    text = torch.cat([group.queries for group in GROUPS])
    scores = list(fold_scores(Noisy(), GROUPS, STORED, VAL, no_reference))
    for fold, (rows, got) in enumerate(zip(VAL, scores, strict=True)):
        images = 2 * IMAGES[rows] + draw(1000, DIM, seed=100 + fold)[: len(rows)]
        torch.testing.assert_close(got, cosine(text, images), rtol=0, atol=1e-6)


def shared_scores(scores: Tensor, folds: np.ndarray, queries: Tensor | None = None) -> SharedScores:
    return SharedScores(lambda rows: scores[:, rows], scores.shape[1], torch.from_numpy(folds), queries)


@pytest.mark.parametrize("block", [4, 16, 1000])
@pytest.mark.parametrize("k", [1, 5, 23])
def test_the_best_of_all_images_hold_the_best_of_each_fold(
    k: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BLOCK_ROWS", block)
    shared = shared_scores(draw(4, N), VAL)
    for rows, scores, (got, _) in zip(VAL, shared, shared.top_rows(k), strict=True):
        np.testing.assert_array_equal(got, rows[top_k(scores, k)[1]])


def test_a_fold_without_its_share_of_the_best_is_searched_further() -> None:
    scores = torch.arange(1000.0).repeat(2, 1)  # the best are the last rows
    folds = np.stack([np.arange(500, 1000), np.arange(500), np.arange(0, 1000, 2)])
    shared = shared_scores(scores, folds)
    expected = [np.arange(999, 979, -1), np.arange(499, 479, -1), np.arange(998, 958, -2)]
    for (got, _), best in zip(shared.top_rows(20), expected, strict=True):
        np.testing.assert_array_equal(got, [best, best])


def test_queries_of_a_fold_are_ranked_by_themselves() -> None:
    all_scores, queries = draw(6, N), torch.tensor([[4, 0], [1, 3], [2, 5]])
    shared = shared_scores(all_scores, VAL, queries)
    for fold, (scores, (got, _)) in enumerate(zip(shared, shared.top_rows(7), strict=True)):
        torch.testing.assert_close(scores, all_scores[queries[fold]][:, VAL[fold]], rtol=0, atol=0)
        np.testing.assert_array_equal(got, VAL[fold][top_k(scores, 7)[1]])
