"""From a method and image embeddings to the scores of every fold's evaluation images.

Symbols: Q queries in all, N images, m evaluation images of a fold, F folds, d embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.stored_images import StoredImages, chunks
from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages


def fold_scores(
    method: DebiasingMethod,
    groups: Sequence[QueryGroup],
    images: StoredImages,
    val: np.ndarray,
    reference: Callable[[], ReferenceImages],
) -> Iterator[Tensor]:
    """Score every fold's evaluation images.

    Images are scored once for all folds, a fold's scores are columns of these; where a fold has text of its
    own, the text of all folds is scored together. Only noise makes a fold's images its own.

    Parameters
    ----------
    method : DebiasingMethod
    groups : sequence of QueryGroup
        The setting's queries.
    images : StoredImages
        N rows.
    val : ndarray of shape (F, m)
        Evaluation rows of each fold.
    reference : callable
        Gives the labelled reference images; called only if the method needs them.

    Yields
    ------
    Tensor of shape (Q, m), float32
        For each fold: cosine of each query with each of the fold's evaluation rows.
    """
    folds = torch.from_numpy(val).to(images.device)
    if method.random_images:
        yield from _scores_with_noise(method, groups, images, folds)
        return
    text = method.debias_text(groups, reference() if method.needs_reference else None)
    queries = _queries_of_folds(text, len(folds)) if method.needs_reference else None
    together = [t.flatten(0, -2) for t in text]
    take = _reader(method, images)
    scores = _in_chunks(method.image_transform(groups), take, len(images), together)
    for fold, chosen in enumerate(folds):
        mine = scores if queries is None else scores[queries[fold]]
        yield mine.index_select(1, chosen)


def _reader(method: DebiasingMethod, images: StoredImages) -> Callable[[slice], Tensor]:
    return lambda rows: method.prepare_images(images.take(rows, normalize=method.normalize))


def _queries_of_folds(text: Sequence[Tensor], n_folds: int) -> Tensor:
    """Positions ``(F, Q)`` of a fold's queries among those of all groups and folds, group by group."""
    numbers, start = [], 0
    for t in text:  # (F, Q_g, d)
        numbers.append(torch.arange(start, start + t[..., 0].numel(), device=t.device).view(n_folds, -1))
        start += t[..., 0].numel()
    return torch.cat(numbers, dim=1)


def _scores_with_noise(
    method: DebiasingMethod, groups: Sequence[QueryGroup], images: StoredImages, folds: Tensor
) -> Iterator[Tensor]:
    """Prepare all images once, since folds overlap, then draw for each fold's."""
    text = method.debias_text(groups)
    prepared = _prepare(method, images)
    for fold, chosen in enumerate(folds):
        transform = method.image_transform(groups, fold)
        yield _in_chunks(transform, lambda rows, c=chosen: prepared[c[rows]], len(chosen), text)


def _prepare(method: DebiasingMethod, images: StoredImages) -> Tensor:
    read, prepared = _reader(method, images), None
    for rows in chunks(len(images)):
        part = read(rows)
        if prepared is None:  # only now its width is known
            prepared = part.new_empty(len(images), *part.shape[1:])
        prepared[rows] = part
    return prepared


def _in_chunks(
    transform: ImageTransform, take: Callable[[slice], Tensor], n: int, text: Sequence[Tensor]
) -> Tensor:
    """Scores ``(Q, n)`` of n images, so many rows at a time that no large intermediate arises."""
    scores = text[0].new_empty(sum(len(t) for t in text), n)
    for rows in chunks(n):
        scores[:, rows] = transform.scores(take(rows), text, first_row=rows.start).T
    return scores
