"""Draws of the scores of every fold, with the uncertainty of texts and images in them.

A draw takes each query's embedding from its posterior, once for all images, and pushes it through the method.
Each image has noise of its own. Prompts, reference images and trained weights stay as they are.

Symbols: Q queries in all, N images, F folds, R drawn queries of a block, d embedding dimension, T drawn and
debiased queries, unit; x_i image, a_i its spread, b diagonal of ``B̃⁻¹``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.scoring.fold_scores import SharedScores, empty_queries, fold_scores, queries_of_folds
from debiasing_methods.base import DebiasingMethod, QueryGroup, ReferenceImages
from debiasing_methods.chunks import IMAGE_ROWS, chunks
from debiasing_methods.linalg import unit
from debiasing_methods.uncertainty import Spread

DRAWS = 200
_BLOCK = 8  # draws that are scored together: each reads all images once
_TEXT, _IMAGES = 0, 1


@dataclass(frozen=True, eq=False)
class Uncertain:
    """What is uncertain in an evaluation.

    Attributes
    ----------
    images : Spread
        Of the N images.
    queries : sequence of Spread
        Of each group's queries.
    draws, seed : int
        How many draws, and the seed of their noise.
    """

    images: Spread
    queries: Sequence[Spread]
    draws: int = DRAWS
    seed: int = 0


def drawn_fold_scores(
    method: DebiasingMethod,
    groups: Sequence[QueryGroup],
    images: StoredImages,
    val: np.ndarray,
    reference: Callable[[], ReferenceImages],
    uncertain: Uncertain,
) -> Iterator[Iterable[Tensor]]:
    """Draw what `fold_scores` gives.

    Parameters
    ----------
    method, groups, images, val, reference
        As for `fold_scores`.
    uncertain : Uncertain

    Yields
    ------
    iterable of Tensor of shape (Q, m), float32
        One draw, as `fold_scores` gives it.
    """
    for start in range(0, uncertain.draws, _BLOCK):
        numbers = range(start, min(start + _BLOCK, uncertain.draws))
        drawn = [_drawn_groups(groups, uncertain, number) for number in numbers]
        if method.changes_images:
            for number, own in zip(numbers, drawn, strict=True):
                yield fold_scores(method, own, _drawn_images(images, uncertain, number), val, reference)
        else:
            yield from _with_images_as_they_are(method, drawn, images, val, reference, uncertain, numbers)


def _random(uncertain: Uncertain, what: int, number: int) -> np.random.Generator:
    return np.random.default_rng((uncertain.seed, what, number))


def _noise(random: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))


def _drawn_groups(groups: Sequence[QueryGroup], uncertain: Uncertain, number: int) -> list[QueryGroup]:
    """Add noise to the queries of all groups; everything else is shared with the groups themselves."""
    random = _random(uncertain, _TEXT, number)
    drawn = []
    for group, spread in zip(groups, uncertain.queries, strict=True):
        noise = spread.scale(_noise(random, *group.queries.shape).to(group.queries))
        drawn.append(replace(group, queries=group.queries + noise))
    return drawn


def _drawn_images(images: StoredImages, uncertain: Uncertain, number: int) -> StoredImages:
    """Add noise to all images."""
    random, drawn = _random(uncertain, _IMAGES, number), torch.empty(images.rows.shape, dtype=torch.float32)
    for rows in chunks(len(images), IMAGE_ROWS):
        taken = images.take(rows, normalize=False)
        drawn[rows] = taken + uncertain.images[rows].scale(_noise(random, *taken.shape).to(taken.device))
    return StoredImages(drawn.numpy(), Path("drawn images"), str(images.device))


def _with_images_as_they_are(
    method: DebiasingMethod,
    drawn: Sequence[Sequence[QueryGroup]],
    images: StoredImages,
    val: np.ndarray,
    reference: Callable[[], ReferenceImages],
    uncertain: Uncertain,
    numbers: range,
) -> Iterator[SharedScores]:
    """Draw scores of a method that changes text alone, without drawing images.

    Given T, the noise of image i in its R scores is Gaussian with covariance ``a_i T diag(b) Tᵀ``, so R
    numbers per image do what d would do.
    """
    folds = torch.from_numpy(val).to(images.device)
    together = method.debias_text(
        [group for own in drawn for group in own], reference() if method.needs_reference else None
    )
    n_groups = len(drawn[0])
    of_draw = [together[i * n_groups : (i + 1) * n_groups] for i in range(len(drawn))]
    text = [unit(torch.cat([t.flatten(0, -2) for t in own])) for own in of_draw]
    scores = _plain_scores(torch.cat(text), images, uncertain.images).split([len(t) for t in text])
    for number, own, queries, plain in zip(numbers, of_draw, text, scores, strict=True):
        noisy = plain + _image_noise(queries, uncertain, images, _random(uncertain, _IMAGES, number))
        places = queries_of_folds(own, len(folds)) if method.needs_reference else None
        yield SharedScores(
            lambda rows, noisy=noisy: noisy[:, rows], len(images), folds, places, empty_queries(own)
        )


def _plain_scores(text: Tensor, images: StoredImages, spread: Spread) -> Tensor:
    """Return ``x_i · t / √m_i`` with the expected squared norm ``m_i = ‖x_i‖² + a_i Σb``; ``(R, N)``."""
    scores = text.new_empty(len(text), len(images))
    for rows in chunks(len(images), IMAGE_ROWS):
        taken = images.take(rows, normalize=False)
        norms = (taken.square().sum(1) + spread[rows].total).sqrt()
        scores[:, rows] = text @ (taken / norms[:, None]).T
    return scores


def _image_noise(
    text: Tensor, uncertain: Uncertain, images: StoredImages, random: np.random.Generator
) -> Tensor:
    """Noise of all images in the scores ``(R, N)`` of drawn queries ``(R, d)``, divided as the scores are."""
    spread, t = uncertain.images, text.double()
    values, vectors = torch.linalg.eigh((t * spread.diagonal.double()) @ t.T)
    root = (vectors * values.clamp(min=0).sqrt()).to(text.dtype)
    norms = (images.norms.square() + spread.total).sqrt()
    return root @ _noise(random, len(text), len(images)).to(text.device) * (spread.spreads.sqrt() / norms)
