"""BayesVLM: factors, λ and the moments of a cosine, against the published code and their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from debiasing_methods.linalg import unit
from debiasing_methods.uncertainty import (
    Curvature,
    Posterior,
    best_precision,
    cosine_moments,
    curvature,
    hessian_sum,
    log_evidence,
    probit,
    spectra,
)

TOWERS = ("img", "txt")


@pytest.fixture(scope="module")
def oracle(oracle_dir: Path) -> dict[str, Tensor]:
    with np.load(oracle_dir / "golden" / "peers" / "bayesvlm.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def _embeddings(oracle: dict[str, Tensor], tower: str) -> Tensor:
    return oracle[f"features_{tower}"] @ oracle[f"W_{tower}"]


def _factors(oracle: dict[str, Tensor], tower: str) -> Curvature:
    other = TOWERS[1 - TOWERS.index(tower)]
    return curvature(
        oracle[f"features_{tower}"],
        oracle[f"W_{tower}"],
        unit(_embeddings(oracle, other)),
        math.exp(oracle["log_scale"].item()),
        int(oracle["class_batch"]),
    )


def _close(got: Tensor, expected: Tensor, bound: float) -> bool:
    return float((got - expected).abs().max()) <= bound * float(expected.abs().max())


@pytest.mark.parametrize("tower", TOWERS)
def test_factors_are_the_published_ones(oracle, tower):
    found = _factors(oracle, tower)
    assert _close(found.a, oracle[f"A_{tower}"], 1e-9)
    assert _close(found.b, oracle[f"B_{tower}"], 1e-9)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("tau", [1, 10])
@pytest.mark.parametrize("evidence", ["published", "laplace"])
def test_lambda_is_at_the_optimum(oracle, tower, tau, evidence):
    lam = best_precision(_factors(oracle, tower), oracle[f"W_{tower}"], tau, evidence)
    assert lam == pytest.approx(oracle[f"lambda/{tower}/tau{tau}/{evidence}"].item(), rel=1e-5)


@pytest.mark.parametrize("case", ["fixed", "tau10"])
def test_moments_of_the_cosines_are_the_published_ones(oracle, case):
    tau, scale = oracle[f"{case}/tau"].item(), math.exp(oracle["log_scale"].item())
    variances, means = [], []
    for tower, lam, n in zip(TOWERS, oracle[f"{case}/lambda"], (20, 6), strict=True):
        posterior = Posterior.of(_factors(oracle, tower), lam.item(), tau)
        variances.append(posterior.variances(oracle[f"features_{tower}"][:n]))
        means.append(_embeddings(oracle, tower)[:n])
    assert _close(variances[0], oracle[f"{case}/image_variance"], 1e-9)
    assert _close(variances[1], oracle[f"{case}/text_variance"], 1e-9)
    mean, variance = cosine_moments(means[0], variances[0], means[1], variances[1])
    assert _close(mean, oracle[f"{case}/E_cos"], 1e-9)
    assert _close(variance, oracle[f"{case}/Var_cos"], 1e-9)
    assert _close(probit(mean, variance, scale), oracle[f"{case}/probit"], 1e-9)


# --- without the oracle -------------------------------------------------------------------------------------


def _pairs(n: int = 30, p: int = 7, d: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features, w, others = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n, p), (p, d), (n, d))
    )
    return features, w, unit(others)


def test_the_hessian_is_that_of_the_loss():
    """JᵀHJ of the cross entropy by automatic differentiation, sample by sample."""
    features, w, others = _pairs()
    embeddings, scale, expected = features @ w, 7.0, torch.zeros(5, 5, dtype=torch.float64)
    for e in embeddings[:3]:
        jacobian = torch.autograd.functional.jacobian(lambda x: scale * unit(x[None]) @ others.T, e)[0]
        pi = torch.softmax(scale * unit(e[None]) @ others.T, 1)[0]
        expected += jacobian.T @ (torch.diag(pi) - torch.outer(pi, pi)) @ jacobian
    torch.testing.assert_close(hessian_sum(embeddings[:3], others, scale), expected)


def test_every_row_of_a_class_batch_counts_and_the_rest_is_left_out():
    features, w, others = _pairs(32)
    whole = curvature(features, w, others, 7.0, 10)
    assert torch.equal(whole.b, curvature(features[:30], w, others[:30], 7.0, 10).b)
    assert not torch.allclose(whole.b, curvature(features[:29], w, others[:29], 7.0, 29).b)
    assert torch.linalg.eigvalsh(whole.b).min() >= -1e-12
    with pytest.raises(ValueError, match="32 pairs are fewer than a class batch of 33"):
        curvature(features, w, others, 7.0, 33)


def test_a_certain_model_has_the_plain_cosine():
    features, w, others = _pairs()
    found = curvature(features, w, others, 7.0, 10)
    spread = [Posterior.of(found, lam).variances(features).max() for lam in (1.0, 1e4, 1e12)]
    assert spread[0] > spread[1] > spread[2]
    assert Posterior.of(found, 1.0, 100).variances(features).max() < spread[0]  # more data, less variance
    sure = Posterior.of(found, 1e16).variances(features)
    mean, variance = cosine_moments(features @ w, sure, others, torch.zeros_like(others))
    torch.testing.assert_close(mean, unit(features @ w) @ others.T, rtol=0, atol=1e-6)
    assert variance.max() < 1e-6


def test_the_moments_are_those_of_samples_with_expected_norms():
    generator = torch.Generator().manual_seed(1)
    features, w, others = _pairs()
    sigma2 = Posterior.of(curvature(features, w, others, 7.0, 10), 3.0).variances(features)[:4]
    mu, nu, rho2 = (features @ w)[:4], others[:3], 0.01 * torch.ones(3, 5, dtype=torch.float64)
    mean, variance = cosine_moments(mu, sigma2, nu, rho2)
    x, y = (
        m + v.sqrt() * torch.randn(40_000, *m.shape, generator=generator, dtype=torch.float64)
        for m, v in ((mu, sigma2), (nu, rho2))
    )
    norms = ((mu.square() + sigma2).sum(1)[:, None] * (nu.square() + rho2).sum(1)).sqrt()
    draws = torch.einsum("rnd,rqd->rnq", x, y) / norms
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=1e-2)
    torch.testing.assert_close(draws.var(0), variance, rtol=5e-2, atol=0)


def test_variance_of_a_linear_map_is_that_of_the_full_covariance():
    features, w, others = _pairs()
    posterior = Posterior.of(curvature(features, w, others, 7.0, 10), 3.0)
    t = others[:5]
    phi = features[0]
    covariance = (phi @ posterior.a_inverse @ phi) * t.T @ posterior.b_inverse @ t
    torch.testing.assert_close(posterior.variances(features[:1], t)[0], covariance.diagonal())
    torch.testing.assert_close(
        posterior.variances(features, torch.eye(5, dtype=torch.float64)), posterior.variances(features)
    )


def test_the_evidence_is_highest_at_the_optimum():
    features, w, others = _pairs()
    found = curvature(features, w, others, 7.0, 10)
    for evidence in ("published", "laplace"):
        lam = best_precision(found, w, 10, evidence)
        values = spectra(found)
        best = log_evidence(values, w, lam, 10, evidence)
        assert all(log_evidence(values, w, lam * f, 10, evidence) < best for f in (0.9, 0.999, 1.001, 1.1))


@pytest.mark.parametrize(("lam", "tau"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0)])
def test_numbers_that_are_no_precision_are_refused(lam, tau):
    with pytest.raises(ValueError, match="must be above 0"):
        Posterior.of(Curvature(torch.eye(2), torch.eye(2)), lam, tau)
    with pytest.raises(ValueError, match="unknown evidence 'mine'; choose from: published, laplace"):
        best_precision(Curvature(torch.eye(2), torch.eye(2)), torch.ones(2, 2), 1.0, "mine")


def test_an_evidence_without_a_maximum_is_refused():
    """Without any weight nothing bounds the prior precision."""
    found = Curvature(torch.eye(4, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="the evidence has no maximum for a prior precision"):
        best_precision(found, torch.zeros(4, 3, dtype=torch.float64), 1.0, "laplace")
