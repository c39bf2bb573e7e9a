"""Search through a FAISS index instead of all rows (optional: `pip install faiss-cpu`).

Symbols: N images, d embedding dimension, Q queries, L length of the lists.

An index holds the images as they are, so it serves the methods that change text alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from debiasing_methods.linalg import unit
from fair_search.ranking import read_chunks
from safe_io.errors import InputError

TRAINING_ROWS = 100_000
INDEX_SEED = 0
_SAMPLE = 256  # rows of an index that are looked at
_SAME = 0.9999  # cosine from which two rows are taken for the same image
_OWN_AMONG = 10  # where vectors cannot be read back: a row is among so many nearest to itself
_LENGTH_ERROR = 0.2  # coarse quantization moves a length by so much; raw CLIP embeddings are 5 to 20 long
_LEAST_SHARE = 0.5  # of a permuted index about none are in place, of a coarsely quantized one most


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise InputError(
            "a FAISS index needs the package faiss-cpu, which is not installed: pip install faiss-cpu"
        ) from None
    return faiss


def open_index(path: Path, rows: int, dim: int) -> Any:
    """Read an index whose n-th vector is the n-th row of the embeddings, normalised.

    Parameters
    ----------
    path : pathlib.Path
        As `faiss.write_index` writes it; by inner product or Euclidean distance.
    rows, dim : int
        N and d of the embeddings.

    Returns
    -------
    faiss.Index

    Raises
    ------
    InputError
        FAISS is not installed; the file is missing or damaged, or its size is not that of the embeddings.
    """
    faiss = _faiss()
    if not path.is_file():
        raise InputError(f"FAISS index not found: {path}")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError:
        raise InputError(
            f"{path} cannot be read as a FAISS index; write it anew with faiss.write_index"
        ) from None
    if (index.ntotal, index.d) != (rows, dim):
        raise InputError(
            f"{path} holds {index.ntotal} vectors of width {index.d}, but the embeddings are {rows} of width "
            f"{dim}; an index of these very rows, in their order, is needed"
        )
    return index


def build_index(embeddings: np.ndarray, factory: str, *, source: str = "embeddings") -> Any:
    """Build an index of the normalised embeddings, by inner product.

    Parameters
    ----------
    embeddings : ndarray of shape (N, d)
    factory : str
        FAISS's description, such as ``IVF1024,Flat`` or ``HNSW32``.
    source : str
        Name of the embeddings' file, for error lines.

    Returns
    -------
    faiss.Index
        It holds the vectors in memory; trained on at most 100,000 rows, drawn with a fixed seed.

    Raises
    ------
    InputError
        FAISS is not installed or does not understand the description, or there are too few rows for it.
    """
    faiss = _faiss()
    n, dim = embeddings.shape
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            chosen = np.sort(
                np.random.default_rng(INDEX_SEED).choice(n, min(n, TRAINING_ROWS), replace=False)
            )
            index.train(unit(torch.from_numpy(embeddings[chosen].astype(np.float32))).numpy())
    except RuntimeError as error:
        reason = str(error).rsplit(": ", 1)[-1]
        raise InputError(
            f"FAISS cannot make an index '{factory}' of {n} rows of width {dim}: {reason}; such as Flat, "
            f"HNSW32 or IVF{max(1, int(np.sqrt(n)))},Flat"
        ) from None
    for _, chunk in read_chunks(embeddings, source=source):
        index.add(unit(chunk).numpy())
    return index


def check_index(index: Any, embeddings: np.ndarray, source: str) -> None:
    """Raise unless an index from a file holds these rows, normalised and in their order.

    Parameters
    ----------
    index : faiss.Index
        As `open_index` gives it.
    embeddings : ndarray of shape (N, d)
    source : str
        File of the index, for the error line.

    Raises
    ------
    InputError
        It holds other vectors, rows that are not normalised, or the rows in another order: what it finds
        would be reported as the effect of approximate search.

    Notes
    -----
    A sample of its vectors is compared with the rows. Quantized vectors are like their own row more than like
    any other of the sample; where vectors cannot be read back, rows are searched for themselves.
    """
    n = len(embeddings)
    rows = np.sort(np.random.default_rng(INDEX_SEED).choice(n, min(n, _SAMPLE), replace=False))
    expected = unit(torch.from_numpy(np.array(embeddings[rows], dtype=np.float32)))
    # of equal rows any is right
    distinct = (expected @ expected.T).fill_diagonal_(-1).max(dim=0).values < _SAME
    held, least = _reconstructed(index, rows), _LEAST_SHARE
    if held is None:
        found = index.search(expected.numpy(), _OWN_AMONG)[1]
        in_place = torch.from_numpy((found == rows[:, None]).any(axis=1))
    else:
        lengths = held.norm(dim=1)
        if ((lengths - 1).abs() > _LENGTH_ERROR).float().mean() > 0.5:
            raise InputError(
                f"{source} holds vectors of length {float(lengths.median()):.3g}, not of length 1: it was "
                f"built of raw embeddings; divide each row by its length, and build it again"
            )
        cosines = unit(held) @ expected.T
        in_place = cosines.argmax(dim=1) == torch.arange(len(rows))
        if cosines.max(dim=1).values.median() > _SAME:  # nothing is quantized: every row must be in place
            least = 1.0
    share = float(in_place[distinct].float().mean()) if distinct.any() else 1.0
    if share < least:
        raise InputError(
            f"{source} does not hold the rows of the embeddings in their order: of {int(distinct.sum())} "
            f"rows that were looked up, {share:.0%} are in place; build it of these very rows, normalized"
        )


def _reconstructed(index: Any, rows: np.ndarray) -> Tensor | None:
    """Read vectors back from an index, ``(n, d)``; None where it does not keep them."""
    try:
        if hasattr(index, "make_direct_map"):
            index.make_direct_map()
        return torch.from_numpy(np.stack([index.reconstruct(int(row)) for row in rows]))
    except RuntimeError:
        return None


def set_parameters(index: Any, parameters: str) -> None:
    """Set how much an index searches, such as ``nprobe=16``; `InputError` where it cannot."""
    try:
        _faiss().ParameterSpace().set_index_parameters(index, parameters)
    except RuntimeError:
        raise InputError(
            f"the FAISS index does not take the parameters '{parameters}'; such as nprobe=16 (IVF) or "
            f"efSearch=64 (HNSW)"
        ) from None


def search_index(index: Any, queries: np.ndarray, length: int, keep: np.ndarray | None = None) -> np.ndarray:
    """Retrieve through an index.

    Parameters
    ----------
    index : faiss.Index
    queries : ndarray of shape (Q, d), float32
        Unit rows.
    length : int
        L.
    keep : ndarray of shape (N,), bool, optional
        Rows that may be retrieved. More are fetched, and the others dropped, until every list is full.

    Returns
    -------
    ndarray of shape (Q, L), int64
        Rows, best first.

    Raises
    ------
    InputError
        The index finds fewer than L images for a query, however many are asked for, or its ids are no rows.
    """
    fetch = min(index.ntotal, length if keep is None else 2 * length)
    while True:
        _, found = index.search(np.ascontiguousarray(queries, dtype=np.float32), fetch)
        if found.max() >= index.ntotal:
            raise InputError(
                f"the FAISS index gives the id {found.max()}, but it has {index.ntotal} vectors: its ids "
                f"must be the rows of the embeddings, from 0; build it without ids of its own (IDMap)"
            )
        usable = found >= 0
        if keep is not None:
            usable &= keep[np.maximum(found, 0)]
        if usable.sum(axis=1).min() >= length:
            order = np.argsort(~usable, axis=1, kind="stable")[:, :length]
            return np.take_along_axis(found, order, axis=1)
        if fetch == index.ntotal:
            raise InputError(
                f"the FAISS index finds only {usable.sum(axis=1).min()} of {length} images for a query; let "
                f"it search more (IVF: a larger nprobe, HNSW: a larger efSearch), or ask for a smaller K"
            )
        fetch = min(index.ntotal, 4 * fetch)
