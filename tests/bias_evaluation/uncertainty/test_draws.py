"""Drawn scores: their moments, both ways to draw them, and no more than the uncertainty says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.scoring.fold_scores import fold_scores
from bias_evaluation.uncertainty.draws import Uncertain, drawn_fold_scores
from debiasing_methods.base import DebiasingMethod, QueryGroup, Vanilla
from debiasing_methods.linalg import unit
from debiasing_methods.registry import METHODS
from debiasing_methods.uncertainty import Spread, cosine_moments

N, DIM, FOLDS = 60, 16, 3
VAL = np.stack([np.random.default_rng(f).permutation(N)[: N // 2] for f in range(FOLDS)])


class Slow(Vanilla):
    """Vanilla that says that it changes images, so that these are drawn one by one."""

    name = "slow"
    changes_images = True


def _uncertain(groups: list[QueryGroup], draws: int, size: float = 0.02, seed: int = 0) -> Uncertain:
    generator = torch.Generator().manual_seed(1)
    images = Spread(size * (0.5 + torch.rand(N, generator=generator)), torch.rand(DIM, generator=generator))
    diagonal = torch.rand(DIM, generator=generator)
    queries = [
        Spread(size * (0.5 + torch.rand(len(g.queries), generator=generator)), diagonal) for g in groups
    ]
    return Uncertain(images, queries, draws, seed)


def _draws(method: DebiasingMethod, world: Any, uncertain: Uncertain) -> Tensor:
    """Scores of all draws, ``(draws, F, Q, m)``."""
    images = StoredImages(world.images[:N].numpy(), Path("images.npy"))
    drawn = drawn_fold_scores(method, world.groups, images, VAL, lambda: world.reference, uncertain)
    return torch.stack([torch.stack(list(scores)) for scores in drawn])


@pytest.mark.parametrize("method", [Vanilla(), Slow()], ids=["in closed form", "image by image"])
def test_the_moments_are_those_of_the_cosines(method: DebiasingMethod, make_world: Any) -> None:
    world = make_world()
    uncertain = _uncertain(world.groups, 3000)
    drawn = _draws(method, world, uncertain)
    texts = torch.cat([g.queries for g in world.groups])
    of_texts = torch.cat([s.variances for s in uncertain.queries])
    mean, variance = cosine_moments(world.images[:N], uncertain.images.variances, texts, of_texts)
    for fold, rows in enumerate(VAL):
        torch.testing.assert_close(
            drawn[:, fold].mean(0).double(),
            mean[rows].T,
            rtol=0,
            atol=5 * float(variance.max() / 3000) ** 0.5,
        )
        # the true cosine varies less than with expected norms, and no more (`cosine_moments`)
        ratio = drawn[:, fold].double().var(0) / variance[rows].T
        assert 0.6 < float(ratio.mean()) <= 1.02


def test_noise_of_an_image_has_one_covariance_for_all_queries(make_world: Any) -> None:
    """``a_i T diag(b) Tᵀ / m_i``, between queries too: as noise of d numbers per image would have it."""
    world = make_world()
    spreads = _uncertain(world.groups, 4000)
    certain = [Spread(0 * s.spreads, s.diagonal) for s in spreads.queries]  # so that images alone vary
    drawn = _draws(Vanilla(), world, Uncertain(spreads.images, certain, 4000))[:, 0].double()
    centered = drawn - drawn.mean(0)  # (draws, Q, m)
    found = torch.einsum("rqi,rpi->iqp", centered, centered) / 4000
    t, x = unit(torch.cat([g.queries for g in world.groups])), world.images[:N][VAL[0]]
    spread = spreads.images[torch.from_numpy(VAL[0])]
    squared = x.square().sum(1) + spread.total
    expected = (spread.spreads / squared)[:, None, None] * ((t * spread.diagonal) @ t.T)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1 * float(expected.max()))
    assert float((found - expected).mean(0).abs().max()) < 0.02 * float(expected.mean(0).max())


@pytest.mark.parametrize("name", METHODS)
def test_without_uncertainty_every_draw_is_the_result(name: str, make_world: Any) -> None:
    world = make_world()
    method = world.method(name)
    images = StoredImages(world.images[:N].numpy(), Path("images.npy"))
    reference = world.reference
    assert len(reference.folds) == FOLDS
    expected = torch.stack(list(fold_scores(method, world.groups, images, VAL, lambda: reference)))
    for drawn in _draws(method, world, _uncertain(world.groups, 2, size=0.0)):
        torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["sem-b", "bendvlm", "prism-mini"])
def test_draws_repeat_and_differ_by_seed(name: str, make_world: Any) -> None:
    world = make_world()
    method = world.method(name)
    first, again, other = (
        _draws(method, world, _uncertain(world.groups, 3, seed=seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first[0], first[1])
    fewer = _draws(method, world, _uncertain(world.groups, 2))
    torch.testing.assert_close(fewer, first[:2], rtol=0, atol=1e-5)


def test_noise_of_a_query_is_shared_by_its_images(make_world: Any) -> None:
    world = make_world()
    spreads = _uncertain(world.groups, 500)
    certain = Spread(0 * spreads.images.spreads, spreads.images.diagonal)
    drawn = _draws(Vanilla(), world, Uncertain(certain, spreads.queries, 500))[:, 0, 0]  # (draws, m)
    images = unit(world.images[:N][VAL[0]])
    values = torch.linalg.svdvals(drawn - drawn.mean(0))
    assert int((values > 1e-3 * values[0]).sum()) <= DIM  # a query has d numbers, however many images
    assert len(images) > DIM
