"""Kernel CKA with RBF kernels: how much two sets of features say about each other.

Symbols: n rows (the same items in both sets), d width of a set, D (n, n) squared distances, σ² bandwidth,
K = exp(−D / 2σ²) and L kernels, H = I − 11ᵀ/n, K_c = HKH.

Source: Kornblith et al., ICML 2019, arXiv:1905.00414, equations 2 and 3 with the biased HSIC.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# Keeps a constant kernel, whose centred form is 0, at an alignment of 0.
_EPSILON = 1e-8


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Kernel CKA of two sets of features of the same items, differentiable in both.

    Parameters
    ----------
    x : Tensor of shape (n, d)
    y : Tensor of shape (n, e)

    Returns
    -------
    Tensor of shape ()
        At most 1, up to rounding and a term of 1e-8; 1 for ``x = y``, near 0 for independent sets (the
        biased estimator leaves a little above 0), and 0 where all rows of a set are the same.
    """
    return alignment(centred_kernel(x), centred_kernel(y))


def alignment(kernel: Tensor, other: Tensor) -> Tensor:
    """Cosine of two centred kernels: ``Σ(K_c∘L_c) / (√(ΣK_c² + 1e-8) √(ΣL_c² + 1e-8))``, both ``(n, n)``."""
    k, other = kernel.flatten(), other.flatten()
    norms = (torch.dot(k, k) + _EPSILON).sqrt() * (torch.dot(other, other) + _EPSILON).sqrt()
    return torch.dot(k, other) / norms


def centred_kernel(x: Tensor) -> Tensor:
    """``HKH`` for the RBF kernel of features ``(n, d)``: ``(n, n)``, differentiable."""
    kernel = rbf_kernel(x)
    means = kernel.mean(dim=1)  # of columns too, since it is symmetric
    return kernel.sub(means[:, None]).sub_(means - means.mean())


def rbf_kernel(x: Tensor) -> Tensor:
    """``exp(−D / 2σ²)`` with σ² the lower median of the non-zero squared distances.

    Parameters
    ----------
    x : Tensor of shape (n, d)

    Returns
    -------
    Tensor of shape (n, n)
        All ones where all rows are the same. The gradient goes through σ² too.
    """
    squared = squared_distances(x)
    bandwidth = _median_squared_distance(x, squared.detach())
    return torch.ones_like(squared) if bandwidth is None else torch.exp(squared * (-0.5 / bandwidth))


def squared_distances(x: Tensor) -> Tensor:
    """Squared Euclidean distances ``(n, n)`` of rows ``(n, d)``; exactly 0 between rows that are the same.

    Notes
    -----
    One matrix product, of the centred rows. What cancels to less than its rounding error counts as 0: for the
    median of the non-zero distances, 0 and 1e-7 are far apart.
    """
    x = x - x.mean(dim=0).detach()  # distances do not change with it, but less cancels
    norms = x.square().sum(dim=1)
    squared = torch.addmm(norms, x, x.T, alpha=-2).add_(norms[:, None])
    rounding = norms.detach() * (32 * torch.finfo(x.dtype).eps)
    return squared.masked_fill(squared.detach() <= rounding[:, None] + rounding, 0)


def _median_squared_distance(x: Tensor, squared: Tensor) -> Tensor | None:
    """σ², computed from the one pair of rows that it belongs to; None where no distance is above 0.

    Its gradient then concerns two rows, not an (n, n) matrix.
    """
    # Above the diagonal each distance stands once, in the matrix twice: the lower median is the same.
    pairs = _pairs(len(squared), x.device)
    distances = squared.flatten()[pairs]
    above_zero = int(torch.count_nonzero(distances))
    if above_zero == 0:
        return None
    zeros = len(distances) - above_zero
    middle = _position_of_rank(distances, zeros + (above_zero - 1) // 2)
    first, second = divmod(int(pairs[middle]), len(squared))
    return (x[first] - x[second]).square().sum()


@lru_cache(maxsize=4)
def _pairs(n: int, device: torch.device) -> Tensor:
    """Positions above the diagonal of a flattened (n, n) matrix."""
    rows, columns = torch.triu_indices(n, n, offset=1, device=device)
    return rows * n + columns


def _position_of_rank(values: Tensor, rank: int) -> int:
    """Position of the value that has `rank` in ascending order, from 0."""
    if values.device.type != "cpu":
        return int(values.kthvalue(rank + 1).indices)
    array = values.numpy()  # NumPy's selection is three times as fast as torch's there
    return int((array == np.partition(array, rank)[rank]).argmax())
