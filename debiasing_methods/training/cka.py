"""Kernel CKA with RBF kernels: how much two sets of features say about each other.

Symbols: n rows (the same items in all sets), d width of a set, D (n, n) squared distances, σ² bandwidth,
K = exp(−D / 2σ²) and L kernels, H = I − 11ᵀ/n, K_c = HKH.

Source: Kornblith et al., ICML 2019, arXiv:1905.00414, equations 2 and 3 with the biased HSIC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Keeps a constant kernel, whose centred form is 0, at an alignment of 0.
_EPSILON = 1e-8
# Rows of an (n, n) matrix that pass after pass works on: on a CPU they stay in its cache.
_CPU_ROWS = 128


def alignments(features: Sequence[Tensor], pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Kernel CKA of pairs among several sets of features of the same items; each kernel is made once.

    Parameters
    ----------
    features : sequence of Tensor of shape (n, d)
        Widths may differ.
    pairs : sequence of (int, int)
        Positions in `features`.

    Returns
    -------
    Tensor of shape (len(pairs),)
        Differentiable once. ``Σ(K_c∘L_c) / (√(ΣK_c² + 1e-8) √(ΣL_c² + 1e-8))`` for each pair: at most 1, up
        to rounding; 1 for equal sets; near 0 for independent ones (the biased estimator leaves a little above
        0); 0 if all rows of a set are the same.
    """
    return _Alignments.apply(tuple(pairs), *features)


class CentredKernel(NamedTuple):
    """The centred RBF kernel of one set of features.

    Attributes
    ----------
    values : Tensor of shape (n, n)
        K_c.
    means : Tensor of shape (n,)
        Of the rows of K (and of its columns, since it is symmetric).
    bandwidth : Tensor of shape ()
        σ², the lower median of the distances above 0; 0 where there is none, and K is all ones.
    first, second : Tensor of shape (), int64
        The pair of rows with the distance σ².
    """

    values: Tensor
    means: Tensor
    bandwidth: Tensor
    first: Tensor
    second: Tensor


def centred_kernel(x: Tensor) -> CentredKernel:
    """Centre the RBF kernel of features ``(n, d)``; not differentiable by itself."""
    kernel = squared_distances(x)
    first, second = _median_pair(kernel)
    bandwidth = (x[first] - x[second]).square().sum()
    scale = torch.where(bandwidth > 0, -0.5 / bandwidth, 0)
    means = torch.empty_like(kernel[0])
    for rows in _row_blocks(kernel):
        torch.mean(kernel[rows].mul_(scale).exp_(), dim=1, out=means[rows])
    offsets = means - means.mean()
    for rows in _row_blocks(kernel):
        kernel[rows].sub_(means[rows, None]).sub_(offsets)
    return CentredKernel(kernel, means, bandwidth, first, second)


def squared_distances(x: Tensor) -> Tensor:
    """Squared Euclidean distances ``(n, n)`` of rows ``(n, d)``; exactly 0 between rows that are the same.

    Notes
    -----
    One matrix product, of the centred rows. What cancels to less than its rounding error counts as 0: for the
    median of the non-zero distances, 0 and 1e-7 are far apart.
    """
    x = x - x.mean(dim=0)  # distances do not change with it, but less cancels
    norms = x.square().sum(dim=1)
    rounding = norms * (32 * torch.finfo(x.dtype).eps)
    squared = x.new_empty(len(x), len(x))
    for rows in _row_blocks(squared):
        part = torch.addmm(norms, x[rows], x.T, alpha=-2, out=squared[rows]).add_(norms[rows, None])
        part.masked_fill_(part <= rounding[rows, None] + rounding, 0)
    return squared


class _Alignments(torch.autograd.Function):
    """`alignments` with its gradient written out: a third of the passes over (n, n) matrices."""

    @staticmethod
    def forward(ctx: FunctionCtx, pairs: tuple[tuple[int, int], ...], *features: Tensor) -> Tensor:
        kernels = [centred_kernel(x) for x in features]
        norms = [(_dot(k.values, k.values) + _EPSILON).sqrt() for k in kernels]
        values = [_dot(kernels[a].values, kernels[b].values) / (norms[a] * norms[b]) for a, b in pairs]
        ctx.pairs, ctx.features, ctx.kernels, ctx.norms, ctx.values = pairs, features, kernels, norms, values
        return torch.stack(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients = []
        for index, x in enumerate(ctx.features):
            needed = ctx.needs_input_grad[1 + index]
            gradients.append(
                _gradient(x, ctx.kernels, index, _weights(ctx, index, gradient)) if needed else None
            )
        return None, *gradients


def _weights(ctx: Any, index: int, gradient: Tensor) -> dict[int, Tensor]:
    """Coefficients of the centred kernels whose sum is the gradient for kernel number `index`."""
    weights: dict[int, Tensor] = {}
    for pair, value, slope in zip(ctx.pairs, ctx.values, gradient, strict=True):
        for own, other in (pair, pair[::-1]):
            if own == index:
                weights[other] = weights.get(other, 0) + slope / (ctx.norms[own] * ctx.norms[other])
                weights[own] = weights.get(own, 0) - slope * value / ctx.norms[own] ** 2
    return weights


def _gradient(x: Tensor, kernels: list[CentredKernel], index: int, weights: dict[int, Tensor]) -> Tensor:
    """Gradient for features whose kernel K has the gradient ``M = Σ weights · kernels``.

    With ``S = M∘K`` and ``v_i = Σ_j S_ij (x_i − x_j)`` it is ``−2v/σ²``, and along σ² ``Σ(S∘D)/2σ⁴``, where
    ``Σ(S∘D) = 2 Σ_i x_i·v_i``.
    """
    own = kernels[index]
    x = x - x.mean(dim=0)
    offsets = own.means - own.means.mean()
    v = torch.empty_like(x)
    for rows in _row_blocks(own.values):
        slopes = sum(kernels[other].values[rows] * weight for other, weight in weights.items())
        slopes.mul_(own.values[rows].add(own.means[rows, None]).add_(offsets))
        torch.addmm(x[rows] * slopes.sum(dim=1, keepdim=True), slopes, x, alpha=-1, out=v[rows])
    factor = torch.where(own.bandwidth > 0, 2 / own.bandwidth, 0)
    along_bandwidth = (_dot(x, v) * factor / own.bandwidth.clamp_min(torch.finfo(x.dtype).tiny)) * (
        x[own.first] - x[own.second]
    )
    gradient = v * -factor
    gradient[own.first] += along_bandwidth
    gradient[own.second] -= along_bandwidth
    return gradient


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.flatten(), b.flatten())


def _row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Slices of rows that are worked on together."""
    rows = _CPU_ROWS if matrix.device.type == "cpu" else len(matrix)
    return (slice(start, start + rows) for start in range(0, len(matrix), rows))


def _median_pair(squared: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (two 0-dimensional tensors) whose distance is the lower median of those above 0.

    Without a distance above 0 both are row 0. On a GPU nothing waits for the result.
    """
    # Above the diagonal each distance stands once, in the matrix twice: the lower median is the same.
    pairs = _pairs(len(squared), squared.device)
    distances = squared.flatten().index_select(0, pairs)
    if squared.device.type == "cpu":
        middle = _lower_median_position(distances.numpy())
    else:
        middle = distances.masked_fill(distances == 0, torch.nan).nanmedian(dim=0).indices
    position = pairs[middle]
    first, second = position // len(squared), position % len(squared)
    return first, torch.where(squared[first, second] > 0, second, first)


@lru_cache(maxsize=4)
def _pairs(n: int, device: torch.device) -> Tensor:
    """Positions above the diagonal of a flattened (n, n) matrix."""
    rows, columns = torch.triu_indices(n, n, offset=1, device=device)
    return rows * n + columns


def _lower_median_position(values: np.ndarray) -> int:
    """Position of the lower median of the values above 0 (none is below); of a 0 where there is none."""
    zeros = np.count_nonzero(values == 0)
    rank = min(zeros + (len(values) - zeros - 1) // 2, len(values) - 1)
    # NumPy's selection takes a third of the time of torch's.
    return int((values == np.partition(values, rank)[rank]).argmax())
