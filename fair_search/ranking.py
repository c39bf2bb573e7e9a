"""Exact top-L lists of any number of images, chunk by chunk, for all methods in one pass.

Symbols: N images, d embedding dimension, M methods, Q queries of a method, L length of the lists, n rows of a
chunk.

The embeddings may be a memory map of any size: a chunk is read, scored for every method and query, merged
into the lists, and let go, so that memory grows with L and Q alone. Of equal scores the lower row comes
first, whatever the chunks are.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.scoring.top_k import TopK
from debiasing_methods.base import DebiasingMethod, ImageTransform
from debiasing_methods.chunks import IMAGE_ROWS, chunks
from debiasing_methods.linalg import unit
from safe_io.arrays import check_rows, float_rows
from safe_io.errors import as_input_error


@dataclass(frozen=True, eq=False)
class Scorer:
    """What scores images for one method: its debiased queries and its image transform.

    Attributes
    ----------
    method : DebiasingMethod
    text : sequence of Tensor of shape (Q_g, d)
        Debiased queries of each group, Q in all.
    transform : ImageTransform
        Made for the same groups.
    """

    method: DebiasingMethod
    text: Sequence[Tensor]
    transform: ImageTransform

    @property
    def n_queries(self) -> int:
        """Q."""
        return sum(len(queries) for queries in self.text)

    def scores(self, images: Tensor, unit_images: Tensor, first_row: int) -> Tensor:
        """Cosines ``(n, Q)`` of a chunk, which is given as stored and normalised."""
        prepared = self.method.prepare_images(unit_images if self.method.normalize else images)
        return self.transform.scores(prepared, self.text, first_row=first_row)


@dataclass(frozen=True, eq=False)
class TopLists:
    """The L best images of each query, best first.

    Attributes
    ----------
    rows : ndarray of shape (Q, L), int64
    scores : ndarray of shape (Q, L), float32
    """

    rows: np.ndarray
    scores: np.ndarray


def read_chunks(
    embeddings: np.ndarray, chunk_rows: int = IMAGE_ROWS, source: str = "embeddings"
) -> Iterator[tuple[int, Tensor]]:
    """Read embeddings chunk by chunk, as float32, after a check that every row can be normalised.

    Parameters
    ----------
    embeddings : ndarray of shape (N, d)
        Any float dtype. Pages of a memory map that cannot be written to (`read_matrix` makes such) are given
        back after each chunk.
    chunk_rows : int
        n.
    source : str
        Name of the file, for error lines.

    Yields
    ------
    first_row : int
    chunk : Tensor of shape (n, d), float32

    Raises
    ------
    InputError
        A row is NaN, infinite or all zero.
    """
    mapped = _read_only_map(embeddings)
    for rows in chunks(len(embeddings), chunk_rows):
        start, chunk = rows.start, float_rows(embeddings[rows])
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # else every page read stays in the memory of this process
        where = f"{source}, rows {start} to {start + len(chunk) - 1}"
        check_rows(chunk, where, name=lambda i, start=start: f"row {start + i}")
        yield start, chunk


def _read_only_map(embeddings: np.ndarray) -> mmap.mmap | None:
    """Return the memory map below an array whose pages can be given back and read again.

    Of a copy-on-write map that could be written to, changes would be lost with the pages.
    """
    if not isinstance(embeddings, np.memmap) or embeddings.mode not in ("r", "c"):
        return None
    if embeddings.flags.writeable or not isinstance(embeddings.base, mmap.mmap):
        return None
    return embeddings.base


@torch.inference_mode()
def rank_images(
    embeddings: np.ndarray,
    scorers: Mapping[str, Scorer],
    length: int,
    *,
    keep: np.ndarray | Mapping[str, np.ndarray | None] | None = None,
    chunk_rows: int = IMAGE_ROWS,
    source: str = "embeddings",
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> dict[str, TopLists]:
    """Retrieve the best images of every method and query, exactly, in one pass over the embeddings.

    Parameters
    ----------
    embeddings : ndarray of shape (N, d)
        As stored (float16 or float32, memory-mapped or not), not necessarily normalised.
    scorers : mapping
        Name of a method → what scores for it.
    length : int
        L, at most the number of rows that are kept.
    keep : ndarray of shape (N,), bool, or mapping, optional
        Rows that may be retrieved, for all methods or by the name of each; all rows by default.
    chunk_rows : int
        Rows read at a time.
    source : str
        Name of the embeddings' file, for error lines.
    device : str
        Where the scorers are: 'cpu' or 'cuda'.
    progress : callable, optional
        Called with the number of rows done after each chunk.

    Returns
    -------
    dict
        Name → `TopLists`.

    Raises
    ------
    InputError
        A row of the embeddings cannot be normalised, or a score is NaN or infinite.
    ValueError
        L is larger than the number of rows that are kept, or `keep` has another length.
    """
    n = len(embeddings)
    keeps = keep if isinstance(keep, Mapping) else dict.fromkeys(scorers, keep)
    for mask in keeps.values():
        if mask is not None and mask.shape != (n,):
            raise ValueError(f"keep has shape {mask.shape} for {n} embeddings")
        available = n if mask is None else int(mask.sum())
        if not 1 <= length <= available:
            raise ValueError(f"lists of {length} images cannot be made from {available}")
    best = {name: TopK(length) for name in scorers}
    for start, chunk in read_chunks(embeddings, chunk_rows, source):
        rows = chunk.to(device)
        unit_rows = unit(rows)
        for name, scorer in scorers.items():
            mask = keeps[name]
            kept = slice(None) if mask is None else torch.from_numpy(mask[start : start + len(rows)])
            numbers = torch.arange(start, start + len(rows))[kept]
            scores = scorer.scores(rows, unit_rows, start).to("cpu", torch.float32)[kept]
            with as_input_error(name):
                best[name].add(scores.T.contiguous(), numbers)
        if progress:
            progress(len(rows))
    return {name: TopLists(found.rows.numpy(), found.scores.numpy()) for name, found in best.items()}
