"""The little linear algebra that the methods share.

Symbols: d embedding dimension, rows are vectors, `n(x)` = x / ‖x‖₂. Projectors and inverses are formed in
float64, since the published float32 ones lose up to 2e-3 on near-dependent prompts; results return in the
dtype of the vectors that they act on.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A subspace is the span of its vectors: directions whose singular value is below this share of the largest
# are rounding, not content (the published code keeps them and removes arbitrary directions).
RANK_TOLERANCE = 1e-6
# Less than this share of a vector is rounding: one text encoded in two batches differs by up to 1e-6.
NOTHING_LEFT = 1e-5


def unit(x: Tensor) -> Tensor:
    """Scale the vectors along the last axis to length 1 (a zero vector stays zero)."""
    return torch.nn.functional.normalize(x, dim=-1)


def span_basis(vectors: Tensor, tolerance: float = RANK_TOLERANCE) -> Tensor:
    """Return an orthonormal basis of the row space.

    Parameters
    ----------
    vectors : Tensor of shape (m, d)
        Any floating dtype; may be rank-deficient or empty.
    tolerance : float
        Share of the largest singular value from which on a direction counts.

    Returns
    -------
    Tensor of shape (r, d), float64
        Orthonormal rows; r is the numerical rank.
    """
    vectors = vectors.to(torch.float64)
    if vectors.shape[0] == 0:
        return vectors
    _, singular, rows = torch.linalg.svd(vectors, full_matrices=False)
    return rows[singular > tolerance * singular[0]]


def gram(x: Tensor) -> Tensor:
    """``xᵀx`` of rows ``(n, d)``; on the CPU with NumPy, which computes one half of the symmetric result."""
    if x.device.type != "cpu":
        return x.T @ x
    rows = x.numpy()
    return torch.from_numpy(rows.T @ rows)


def remove_span(x: Tensor, basis: Tensor) -> Tensor:
    """Project rows on the orthogonal complement of a span: ``x (I − BᵀB)``.

    A row in the span becomes zero: what is left of it, less than `NOTHING_LEFT` of its length, is
    the rounding of the embeddings, which must not be scaled to length 1 and ranked.

    Parameters
    ----------
    x : Tensor of shape (..., d)
        Vectors; not changed.
    basis : Tensor of shape (r, d), float64
        Orthonormal rows, as `span_basis` gives them.

    Returns
    -------
    Tensor of shape (..., d), float64
    """
    x = x.to(torch.float64)
    rest = x - (x @ basis.T) @ basis
    left, whole = rest.norm(dim=-1, keepdim=True), x.norm(dim=-1, keepdim=True)
    return rest.masked_fill(left <= NOTHING_LEFT * whole, 0)


def sort_rows(x: Tensor) -> Tensor:
    """Sort each row of a matrix, ascending; `x` is not changed.

    On the CPU with NumPy, whose vectorised sort of float32 is about five to ten times as fast as torch's.
    """
    if x.device.type != "cpu":
        return torch.sort(x.contiguous(), dim=1).values
    rows = x.clone(memory_format=torch.contiguous_format)
    rows.numpy().sort(axis=1)
    return rows


def lower_median(x: Tensor) -> Tensor:
    """Median over the rows ``(n, s)``; of an even number the smaller middle value, as `torch.median`."""
    return sort_rows(x.T)[:, (len(x) - 1) // 2].clone()
