"""Scores of images for debiased queries, fold by fold, with all that folds share computed once.

Symbols: N images, d embedding dimension, F folds, m evaluation rows of a fold, Q all queries of a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages

CHUNK_ROWS = 8192


def scores_in_chunks(transform: ImageTransform, images: Tensor, text: Sequence[Tensor]) -> Tensor:
    """Scores ``(Q, n)`` of all images, so many rows at a time that no large intermediate arises."""
    parts = [
        transform.scores(images[start : start + CHUNK_ROWS], text, first_row=start).T
        for start in range(0, images.shape[0], CHUNK_ROWS)
    ]
    return torch.cat(parts, dim=1)


def fold_scores(
    method: DebiasingMethod,
    groups: Sequence[QueryGroup],
    images: Tensor,
    val: np.ndarray,
    reference: Callable[[], ReferenceImages],
) -> Iterator[Tensor]:
    """Score every fold's evaluation images.

    Parameters
    ----------
    method : DebiasingMethod
    groups : sequence of QueryGroup
        The setting's queries.
    images : Tensor of shape (N, d)
        Unit where the method's `normalize` is true, else as stored.
    val : ndarray of shape (F, m)
        Evaluation rows of each fold.
    reference : callable
        Gives the labelled reference images; called only if the method needs them.

    Yields
    ------
    Tensor of shape (Q, m), float32
        For each fold: cosine of each query with each of the fold's evaluation rows.
    """
    rows = torch.from_numpy(val).to(images.device)
    prepared = method.prepare_images(images)
    if method.needs_reference:
        text = method.debias_text(groups, reference())
        transform = method.image_transform(groups)
        for fold, chosen in enumerate(rows):
            yield scores_in_chunks(transform, prepared[chosen], [t[fold] for t in text])
    elif method.random_images:
        text = method.debias_text(groups)
        for fold, chosen in enumerate(rows):
            yield scores_in_chunks(method.image_transform(groups, fold), prepared[chosen], text)
    else:
        text = method.debias_text(groups)
        scores = scores_in_chunks(method.image_transform(groups), prepared, text)
        for chosen in rows:
            yield scores[:, chosen]
