"""From a method and image embeddings to the scores of every fold's evaluation images.

Symbols: Q queries in all, N images, m evaluation images of a fold, F folds, d embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.scoring.ties import Tie
from bias_evaluation.scoring.top_k import TopK
from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages
from debiasing_methods.chunks import IMAGE_ROWS, chunks

BLOCK_ROWS = 262_144  # images whose scores are in memory at once; the paper's datasets have fewer
_SPARE = 1.25  # how many more images than a fold's K would take, if every fold held its share of the best


class NothingLeftWarning(UserWarning):
    """Queries lie in the bias that a method removes; the message counts them."""


@dataclass(frozen=True, eq=False)
class SharedScores:
    """Scores of all images, of which each fold takes its own; iterating gives `fold_scores`' tensors.

    Attributes
    ----------
    score : callable
        Consecutive rows → scores ``(R, n)`` of R queries with these images.
    n_images : int
        N.
    folds : LongTensor of shape (F, m)
        Evaluation rows of each fold.
    queries : LongTensor of shape (F, Q) or None
        Which of the R queries are a fold's; None: all of them, in every fold.
    empty : tuple of int
        Which of the Q queries are zero in some fold: nothing is left of them, and every image scores 0.
    """

    score: Callable[[slice], Tensor]
    n_images: int
    folds: Tensor
    queries: Tensor | None = None
    empty: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[Tensor]:
        """Give each fold's scores ``(Q, m)``; those of all images are in memory meanwhile."""
        scores = self.score(slice(0, self.n_images))
        for fold, rows in enumerate(self.folds):
            yield self._of(fold, scores).index_select(1, rows)

    def _of(self, fold: int, values: Tensor) -> Tensor:
        """Take a fold's queries from what belongs to all R."""
        return values if self.queries is None else values[self.queries[fold]]

    def top_rows(self, k: int) -> Iterator[tuple[np.ndarray, list[Tie]]]:
        """Give the rows of each fold's K best images for each query.

        The best of all images are found once; a fold's are those of them that it holds, in the same order.

        Parameters
        ----------
        k : int
            At most m.

        Yields
        ------
        rows : ndarray of shape (Q, k), int64
            Image rows, best first; of equal scores the lower row.
        ties : list of Tie
            Queries whose K-th score is that of further images of the fold; their place is (query,).
        """
        wanted = int(_SPARE * k * self.n_images / self.folds.shape[1]) + 32
        best, held = self._best(wanted), self.folds.new_zeros(self.n_images, dtype=torch.bool)
        for fold, rows in enumerate(self.folds):
            held.zero_()[rows] = True
            while (mine := self._of_fold(fold, best, held, k)) is None:
                wanted *= 2
                best = self._best(wanted)
            yield mine

    def _best(self, k: int) -> TopK:
        """Find the K best images for each of the R queries, best first; all, if there are fewer."""
        best = TopK(k)
        for rows in chunks(self.n_images, BLOCK_ROWS):
            best.add(self.score(rows), torch.arange(rows.start, rows.stop, device=self.folds.device))
        return best

    def _of_fold(self, fold: int, best: TopK, held: Tensor, k: int) -> tuple[np.ndarray, list[Tie]] | None:
        """Take a fold's lists and their ties from the best of all images; None if these are too few."""
        rows, scores = self._of(fold, best.rows), self._of(fold, best.scores)
        mine = _first_held(rows, held, k)
        if mine is None:
            return None
        inside = held[rows]
        taken = inside & (inside.cumsum(1) <= k)
        last = scores.gather(
            1, (inside.cumsum(1) == k).int().argmax(1, keepdim=True)
        )  # the K-th scores (Q, 1)
        equal, ended = inside & (scores == last), scores[:, -1] < last[:, 0]
        meant = torch.ones_like(ended)
        for query in self.empty:  # all images have its score, which is said elsewhere
            meant[query] = False
        if rows.shape[1] < self.n_images and bool((meant & ~ended).any()):
            return None  # further images may have the K-th score
        tied = meant & (equal.sum(1) > (equal & taken).sum(1))
        ties = [
            Tie((q,), np.sort(rows[q, equal[q]].cpu().numpy()), int((equal[q] & taken[q]).sum()))
            for q in torch.nonzero(tied).flatten().tolist()
        ]
        return mine.cpu().numpy(), ties


def _first_held(order: Tensor, held: Tensor, k: int) -> Tensor | None:
    """Return the first K entries of each row that are held; None where a row has fewer."""
    inside = held[order]
    place = inside.cumsum(1)
    return order[inside & (place <= k)].view(-1, k) if int(place[:, -1].min()) >= k else None


def fold_scores(
    method: DebiasingMethod,
    groups: Sequence[QueryGroup],
    images: StoredImages,
    val: np.ndarray,
    reference: Callable[[], ReferenceImages],
) -> Iterable[Tensor]:
    """Score every fold's evaluation images.

    Images are scored once for all folds, a fold's scores are columns of these; where a fold has text of its
    own, the text of all folds is scored together. Only noise, or a fit on a fold's reference images, makes a
    fold's images its own.

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

    Returns
    -------
    iterable of Tensor of shape (Q, m), float32
        For each fold: cosine of each query with each of the fold's evaluation rows. `SharedScores` unless the
        method draws noise or fits images.
    """
    folds = torch.from_numpy(val).to(images.device)
    if method.random_images:
        return _scores_with_noise(method, groups, images, folds)
    if method.fits_images:
        return _scores_of_fits(method, groups, images, folds, reference())
    text = method.debias_text(groups, reference() if method.needs_reference else None)
    queries = queries_of_folds(text, len(folds)) if method.needs_reference else None
    together = [t.flatten(0, -2) for t in text]
    transform, take = method.image_transform(groups), _reader(method, images)
    return SharedScores(
        lambda rows: _in_chunks(transform, take, rows, together),
        len(images),
        folds,
        queries,
        empty_queries(text),
    )


def empty_queries(text: Sequence[Tensor]) -> tuple[int, ...]:
    """Find the queries that are zero, in some fold if each has its own."""
    zero = torch.cat([(t == 0).all(-1).reshape(-1, t.shape[-2]).any(0) for t in text])
    return tuple(torch.nonzero(zero).flatten().tolist())


def _reader(method: DebiasingMethod, images: StoredImages) -> Callable[[slice], Tensor]:
    return lambda rows: method.prepare_images(images.take(rows, normalize=method.normalize))


def queries_of_folds(text: Sequence[Tensor], n_folds: int) -> Tensor:
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
        yield _in_chunks(transform, lambda rows, c=chosen: prepared[c[rows]], slice(0, len(chosen)), text)


def _scores_of_fits(
    method: DebiasingMethod,
    groups: Sequence[QueryGroup],
    images: StoredImages,
    folds: Tensor,
    reference: ReferenceImages,
) -> Iterator[Tensor]:
    """Fit each fold's reference images, and score its evaluation rows alone."""
    text = method.debias_text(groups, reference if method.needs_reference else None)
    for fold, chosen in enumerate(folds):
        own = [t[fold] for t in text] if method.needs_reference else text
        transform = method.image_transform(groups, fold, reference)

        def take(rows: slice, chosen: Tensor = chosen) -> Tensor:
            return method.prepare_images(images.take(chosen[rows], normalize=method.normalize))

        yield _in_chunks(transform, take, slice(0, len(chosen)), own)


def _prepare(method: DebiasingMethod, images: StoredImages) -> Tensor:
    read, prepared = _reader(method, images), None
    for rows in chunks(len(images), IMAGE_ROWS):
        part = read(rows)
        if prepared is None:  # only now its width is known
            prepared = part.new_empty(len(images), *part.shape[1:])
        prepared[rows] = part
    return prepared


def _in_chunks(
    transform: ImageTransform, take: Callable[[slice], Tensor], rows: slice, text: Sequence[Tensor]
) -> Tensor:
    """Scores ``(Q, n)`` of consecutive rows, so many at a time that no large intermediate arises."""
    n, first = rows.stop - rows.start, rows.start
    scores = text[0].new_empty(sum(len(t) for t in text), n)
    for part in chunks(n, IMAGE_ROWS):
        own = slice(first + part.start, first + part.stop)
        scores[:, part] = transform.scores(take(own), text, first_row=own.start).T
    return scores
