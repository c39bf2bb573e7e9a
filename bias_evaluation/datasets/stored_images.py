"""Image embeddings as they are stored, read a part at a time, normalised where a method wants it.

Symbols: N images, d embedding dimension.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from debiasing_methods.chunks import IMAGE_ROWS, chunks
from safe_io.arrays import check_norms

_KEPT = ("float16", "float32", "float64")  # what torch reads in place, where it lies row by row


class StoredImages:
    """All image embeddings of a dataset under one backbone, with their lengths.

    On a CPU the rows of a memory-mapped file stay in the file: a part of them is in memory only while it is
    worked on. On a GPU they are copied there once, in their stored precision.

    Parameters
    ----------
    embeddings : ndarray of shape (N, d)
        Any floating-point dtype, not normalised.
    path : pathlib.Path
        Their file, for the error line.
    device : str
        Where parts are to be worked on.

    Attributes
    ----------
    rows : Tensor of shape (N, d)
        As stored.
    norms : Tensor of shape (N,), float32
        Their lengths.

    Raises
    ------
    InputError
        A row is NaN, infinite or all zero; the line counts them and names the first.
    """

    def __init__(self, embeddings: np.ndarray, path: Path, device: str = "cpu") -> None:
        self.rows = _in_place(embeddings).to(device)
        self.norms = torch.empty(len(embeddings), device=device)
        for rows in chunks(len(embeddings), IMAGE_ROWS):
            self.norms[rows] = torch.linalg.vector_norm(self.rows[rows].float(), dim=1)
        check_norms(self.norms, path)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.rows.device

    def take(self, rows: slice | Tensor, *, normalize: bool) -> Tensor:
        """Read some rows.

        Parameters
        ----------
        rows : slice or LongTensor of shape (n,)
        normalize : bool
            Whether each is divided by its length, as `debiasing_methods.linalg.unit` does.

        Returns
        -------
        Tensor of shape (n, d), float32
        """
        taken = self.rows[rows].float()
        return taken / self.norms[rows, None].clamp(min=1e-12) if normalize else taken


def _in_place(embeddings: np.ndarray) -> Tensor:
    """Wrap an array without a copy where torch can."""
    if embeddings.dtype.name in _KEPT and embeddings.dtype.isnative and embeddings.flags.c_contiguous:
        return torch.from_numpy(embeddings if embeddings.flags.writeable else embeddings.copy())
    return torch.from_numpy(np.array(embeddings, np.float32, order="C"))
