"""Kernel CKA against its definition, written with loops, and its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from debiasing_methods.training import cka as cka_module
from debiasing_methods.training.cka import alignments, centred_kernel, squared_distances


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Kernel CKA of one pair."""
    return alignments([x, y], [(0, 1)])[0]


def _draw(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _naive_kernel(x: np.ndarray) -> np.ndarray:
    n = len(x)
    squared = [
        [sum((a - b) ** 2 for a, b in zip(x[i], x[j], strict=True)) for j in range(n)] for i in range(n)
    ]
    above_zero = sorted(value for row in squared for value in row if value > 0)
    bandwidth = above_zero[(len(above_zero) - 1) // 2]  # the lower median
    return np.array([[math.exp(-value / (2 * bandwidth)) for value in row] for row in squared])


def _naive_cka(x: Tensor, y: Tensor) -> float:
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    k, m = (centring @ _naive_kernel(z.double().numpy()) @ centring for z in (x, y))
    products = squares_k = squares_m = 0.0
    for i in range(n):
        for j in range(n):
            products += k[i, j] * m[i, j]
            squares_k += k[i, j] ** 2
            squares_m += m[i, j] ** 2
    return products / (math.sqrt(squares_k + 1e-8) * math.sqrt(squares_m + 1e-8))


def _autograd_cka(x: Tensor, y: Tensor, *, through_bandwidth: bool = True) -> Tensor:
    """Evaluate the definition in torch, with `torch.median` in the graph."""
    kernels = []
    for z in (x, y):
        squared = (z[:, None] - z).square().sum(dim=2)
        bandwidth = torch.median(squared[squared > 0])
        kernel = torch.exp(-squared / (2 * (bandwidth if through_bandwidth else bandwidth.detach())))
        centring = torch.eye(len(z), dtype=z.dtype) - 1 / len(z)
        kernels.append(centring @ kernel @ centring)
    k, m = kernels
    return (k * m).sum() / (((k * k).sum() + 1e-8).sqrt() * ((m * m).sum() + 1e-8).sqrt())


@pytest.mark.parametrize("n", [2, 3, 4, 9, 12])  # odd and even numbers of distances
def test_it_is_the_definition(n):
    x, y = _draw(n, 5), 3 * _draw(n, 4, seed=1) + 7
    assert float(cka(x, y)) == pytest.approx(_naive_cka(x, y), rel=1e-9)


def test_distances_of_zero_do_not_count_for_the_bandwidth():
    x = _draw(4, 3)[[0, 0, 0, 0, 0, 0, 0, 1, 2, 3]]  # most pairs are the same row twice
    y = _draw(10, 3, seed=1)
    assert float(cka(x, y)) == pytest.approx(_naive_cka(x, y), rel=1e-9)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_equal_rows_are_equal_in_float32_too(offset):
    """Where many pairs are equal rows, rounding errors among the distances would move the median far."""
    x = torch.nn.functional.normalize(_draw(40, 512, dtype=torch.float32) + offset, dim=1)
    x = x[torch.arange(240) % 40].index_fill(0, torch.arange(150), 0) + x[0]
    distances = squared_distances(x)
    same = (x[:, None] == x).all(dim=2)
    assert same.float().mean() > 0.3
    assert torch.equal(distances == 0, same)
    y = _draw(240, 8, seed=1, dtype=torch.float32)
    assert float(cka(x, y)) == pytest.approx(float(_autograd_cka(x.double(), y.double())), rel=1e-4)


def test_gradient_is_that_of_the_definition():
    x, y = _draw(13, 6).requires_grad_(), _draw(13, 4, seed=1).requires_grad_()
    expected = torch.autograd.grad(_autograd_cka(x, y), (x, y))
    for got, wanted in zip(torch.autograd.grad(cka(x, y), (x, y)), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-11)


def test_gradient_is_the_limit_of_differences():
    x, y = _draw(9, 4).requires_grad_(), _draw(9, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(cka, (x, y))


def test_gradient_goes_through_the_bandwidth():
    """Scaling all rows changes nothing, so the gradient along the rows is 0; with σ² fixed it is not."""
    x, y = _draw(11, 5).requires_grad_(), _draw(11, 5, seed=1)
    (gradient,) = torch.autograd.grad(cka(x, y), x)
    assert float((gradient * x.detach()).sum()) == pytest.approx(0, abs=1e-12)
    (fixed,) = torch.autograd.grad(_autograd_cka(x, y, through_bandwidth=False), x)
    assert abs(float((fixed * x.detach()).sum())) > 1e-3


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_alignments_of_pairs_are_those_of_each_pair(rows, monkeypatch):
    monkeypatch.setattr(cka_module, "_CPU_ROWS", rows)  # blocks of a row, a rest, one block
    features = [_draw(11, d, seed=d).requires_grad_() for d in (3, 4, 5)]
    pairs, weights = [(1, 2), (0, 1), (2, 2)], torch.tensor([-2.0, 3.0, 0.7], dtype=torch.float64)
    values = alignments(features, pairs)
    expected = torch.stack([_autograd_cka(features[a], features[b]) for a, b in pairs])
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=0)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), features)
    gradients = torch.autograd.grad((values * weights).sum(), features)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-11)


def test_invariances():
    x, y = _draw(30, 8), _draw(30, 8, seed=1)
    rotation, _ = torch.linalg.qr(_draw(8, 8, seed=2))
    value = float(cka(x, y))
    assert 0 < value < 1
    assert float(cka(y, x)) == pytest.approx(value, rel=1e-12)
    assert float(cka(5 * x @ rotation - 3, y)) == pytest.approx(value, rel=1e-9)
    assert float(cka(x, x)) == pytest.approx(1, abs=1e-7)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    assert float(cka(x[order], y[order])) == pytest.approx(value, rel=1e-9)


def test_it_tells_related_features_from_independent_ones():
    x, other = _draw(400, 3), _draw(400, 3, seed=1)
    assert float(cka(x, x + 0.3 * other)) > 0.8
    assert float(cka(x, other)) < 0.1


def test_kernels_are_symmetric_and_centred():
    x = _draw(50, 6, dtype=torch.float32)
    centred = centred_kernel(x).values
    torch.testing.assert_close(centred, centred.T)
    assert float(centred.sum(dim=0).abs().max()) < 1e-5
    assert float(centred.sum(dim=1).abs().max()) < 1e-5


def test_features_that_do_not_vary_align_with_nothing():
    x, y = _draw(8, 3).requires_grad_(), torch.full((8, 3), 0.7, dtype=torch.float64)
    value = cka(x, y)
    assert float(value.detach()) == 0
    (gradient,) = torch.autograd.grad(value, x)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_float32_at_the_size_of_a_batch():
    x = _draw(1024, 64, dtype=torch.float32) + 5
    y = x[:, :32] + 4 * _draw(1024, 32, seed=1, dtype=torch.float32)
    assert float(cka(x, y)) == pytest.approx(float(cka(x.double(), y.double())), rel=1e-5)
