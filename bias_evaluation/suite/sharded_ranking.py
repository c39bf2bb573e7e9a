"""Exact top-K over embeddings that lie in several files, one block of rows in memory at a time.

Blocks are cut from the numbered rows as a whole, not file by file, so scores, ranks and ties are to the last
bit those of one matrix. Equal scores: the image with the lower row is first. Memory is O(Q · (K + block)) and
does not depend on N.

Symbols: Q queries, N images in all files together, K retrieved images, d embedding dimension, C bias classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.datasets.folder import check_embeddings, load_array
from bias_evaluation.datasets.stored_images import CHUNK_ROWS, check_norms
from bias_evaluation.suite.metrics import class_shares, kl_divergence, max_skew
from bias_evaluation.suite.retrieval import check_k
from debiasing_methods.linalg import unit
from safe_io.errors import InputError


class ShardedEmbeddings:
    """Memory-mapped embedding files, numbered through: the rows of the second follow those of the first.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        ``.npy`` files, each ``(n, d)``, floating point, raw.

    Raises
    ------
    InputError
        There is no file, one is missing, damaged or given twice, or widths differ.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise InputError("no embedding file is given; at least one is needed")
        if len({path.resolve() for path in paths}) < len(paths):
            raise InputError("an embedding file is given twice; its images would be counted twice")
        self._paths, self._parts = list(paths), []
        for path in paths:
            part = load_array(path, "embeddings", "precompute_embeddings.py")
            width = self.dim if self._parts else None
            check_embeddings(part, path, part.shape[0] if part.ndim else 0, width)
            self._parts.append(part)
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        """Count the images."""
        return int(self._ends[-1])

    @property
    def dim(self) -> int:
        """Width d."""
        return self._parts[0].shape[1]

    def blocks(self, rows: int = CHUNK_ROWS) -> Iterator[tuple[int, Tensor]]:
        """Read all rows in order, a block at a time.

        Parameters
        ----------
        rows : int
            Of a block; the last one may have fewer.

        Yields
        ------
        first : int
            Number of the block's first row.
        block : Tensor of shape (rows, d), float32
            Unit length.

        Raises
        ------
        InputError
            A row is NaN, infinite or all zero.
        """
        for start in range(0, len(self), rows):
            raw = torch.from_numpy(self._read(start, min(start + rows, len(self))))
            norms = torch.linalg.vector_norm(raw, dim=1)
            path = self._paths[int(np.searchsorted(self._ends, start, side="right"))]
            check_norms(norms, path, f"the block from row {start} on, its image")
            yield start, raw / norms[:, None]

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Copy rows, of one file or several, as float32."""
        pieces, first = [], int(np.searchsorted(self._ends, start, side="right"))
        for part, end in zip(self._parts[first:], self._ends[first:].tolist(), strict=True):
            begin = end - len(part)
            pieces.append(np.asarray(part[max(start, begin) - begin : stop - begin], np.float32))
            if stop <= end:
                break
        return np.concatenate(pieces)


def top_k(queries: Tensor, images: ShardedEmbeddings, k: int) -> tuple[Tensor, Tensor]:
    """Find the K images nearest to each query, exactly.

    Parameters
    ----------
    queries : Tensor of shape (Q, d)
        Of any length above 0.
    images : ShardedEmbeddings
    k : int
        At most N.

    Returns
    -------
    scores : Tensor of shape (Q, K), float32
        Cosines, best first.
    rows : Tensor of shape (Q, K), int64
        Rows of the images; of equal scores the lower row is first.

    Raises
    ------
    InputError
        K or the widths do not fit, or an embedding is not usable.
    """
    check_k(k, len(images))
    if queries.ndim != 2 or queries.shape[1] != images.dim:
        raise InputError(f"queries of shape {tuple(queries.shape)} do not go with width {images.dim}")
    text = unit(queries.float())
    scores, rows = torch.empty(len(text), 0), torch.empty(len(text), 0, dtype=torch.int64)
    for first, block in images.blocks():
        new = text @ block.T
        numbers = torch.arange(first, first + len(block))
        if scores.shape[1] == k:  # later rows lose ties, so only a better score can enter
            better = (new > scores[:, -1:]).any(0)
            new, numbers = new[:, better], numbers[better]
        scores, rows = _merge(scores, rows, new, numbers, k)
    return scores, rows


def _merge(scores: Tensor, rows: Tensor, new: Tensor, numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Put candidates of higher rows behind those that are there, and keep the k best, in stable order."""
    scores = torch.cat([scores, new], dim=1)
    rows = torch.cat([rows, numbers.expand(len(new), -1)], dim=1)
    best, order = torch.sort(scores, dim=1, descending=True, stable=True)
    return best[:, :k].clone(), rows.gather(1, order[:, :k])


def retrieval_fairness(rows: Tensor, bias: np.ndarray, classes: Sequence[object]) -> dict[str, np.ndarray]:
    """Judge the retrieved images of each query, against the shares of the classes among all images.

    Parameters
    ----------
    rows : Tensor of shape (Q, K), int64
        As `top_k` gives them.
    bias : ndarray of shape (N,), integer
        Bias class of every image; may be memory-mapped.
    classes : sequence
        Names of the C classes.

    Returns
    -------
    dict
        'kl' and 'max_skew', each ``(Q,)`` (SEM, section 4.1; Geyik et al. 2019).

    Raises
    ------
    InputError
        A class has no image.
    """
    counts = np.zeros(len(classes), np.int64)
    for start in range(0, len(bias), 1 << 20):
        counts += np.bincount(bias[start : start + (1 << 20)], minlength=len(classes))
    if not counts.all():
        raise InputError(f"bias class '{classes[int(counts.argmin())]}' has no image, so it has no prior")
    shares = class_shares(np.asarray(bias[rows.numpy()]), len(classes))
    prior = counts / counts.sum()
    return {"kl": kl_divergence(shares, prior), "max_skew": max_skew(shares, prior)}
