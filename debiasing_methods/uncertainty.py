"""BayesVLM: how sure a model is of a cosine, from a Laplace approximation of its projection layers.

A tower gives a feature φ (p), and a projection W (p, d) makes the embedding e = φW. The posterior of W is
Gaussian with Kronecker factors A (p, p) and B (d, d), so an embedding has the mean e and a variance in each
coordinate, and a cosine of two such embeddings a mean and a variance.

Symbols: n pairs, M rows of a class batch, Y (M, d) unit embeddings of the other tower, s the logarithm of the
logit scale, λ prior precision, τ pseudo-count, n(x) = x/‖x‖₂. Vectors are rows; everything is float64.

Source: Baumann et al. 2024, arXiv:2412.06014. Differences that we choose: B uses every row of a class batch,
and λ is at the optimum of its evidence (the published code stops after a number of steps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from debiasing_methods.linalg import unit

EVIDENCES = ("published", "laplace")
TAU = 10.0
"""Pseudo-count τ of the zero-shot setting."""
_ROWS = 512  # rows of softmax values in memory at a time: 512 x 32,768 are 128 MiB
_SEARCH = (-23.0, 23.0)  # of ln λ
_EDGE = 1e-3  # an optimum this near to an end of the search is none


@dataclass(frozen=True, eq=False)
class Curvature:
    """Kronecker factors of one tower's projection, ``A ⊗ B``.

    Attributes
    ----------
    a : Tensor of shape (p, p), float64
        ``n^(-1/2) Σ φᵀφ``.
    b : Tensor of shape (d, d), float64
        ``n^(-1/2) Σ H``: generalized Gauss-Newton of the contrastive loss in the embedding.
    """

    a: Tensor
    b: Tensor


def hessian_sum(embeddings: Tensor, others: Tensor, scale: float) -> Tensor:
    """Sum the Hessians of the contrastive loss over the rows of a batch.

    Parameters
    ----------
    embeddings : Tensor of shape (n, d)
        ``e = φW``, not normalized.
    others : Tensor of shape (M, d)
        Embeddings Y of the other tower, unit.
    scale : float
        ``e^s``, by which cosines become logits.

    Returns
    -------
    Tensor of shape (d, d), float64, symmetric

    Notes
    -----
    ``H = e^{2s} J (Yᵀdiag(π)Y − (πY)ᵀ(πY)) J``, ``π = softmax(e^s n(e)Yᵀ)``, ``J = (I − n(e)ᵀn(e))/‖e‖``.
    With C the matrix in the parentheses and u = n(e),
    ``(I−uᵀu)C(I−uᵀu) = C − uᵀ(uC) − (uC)ᵀu + (uCuᵀ)uᵀu``, so the sum over rows needs no C: the cost is that
    of three products (n, M) x (M, d), without truncating π.
    """
    y = others.double()
    weight_of = torch.zeros(len(y), dtype=torch.float64)
    total = torch.zeros(y.shape[1], y.shape[1], dtype=torch.float64)
    for rows in embeddings.double().split(_ROWS):
        u, weight = unit(rows), scale**2 / rows.square().sum(1)
        cosines = u @ y.T
        pi = torch.softmax(scale * cosines, dim=1)
        mean = pi @ y
        uc = (pi * cosines) @ y - mean * (mean * u).sum(1, keepdim=True)
        quadratic = (uc * u).sum(1)
        weight_of += weight @ pi
        cross = u.T @ (uc * weight[:, None])
        total += u.T @ (u * (weight * quadratic)[:, None]) - cross - cross.T
        total -= mean.T @ (mean * weight[:, None])
    total += y.T @ (y * weight_of[:, None])
    return (total + total.T) / 2


def curvature(features: Tensor, w: Tensor, others: Tensor, scale: float, class_batch: int) -> Curvature:
    """Estimate the Kronecker factors of one tower from image–text pairs.

    Parameters
    ----------
    features : Tensor of shape (n, p)
        φ of this tower, pair by pair.
    w : Tensor of shape (p, d)
        Its projection W.
    others : Tensor of shape (n, d)
        Unit embeddings of the other tower, in the same order.
    scale : float
        ``e^s``.
    class_batch : int
        M: each row is contrasted with the M rows of its own batch. Pairs after the last full batch are left
        out.

    Raises
    ------
    ValueError
        There are fewer pairs than M.
    """
    used = len(features) // class_batch * class_batch
    if used == 0:
        raise ValueError(f"{len(features)} pairs are fewer than a class batch of {class_batch}")
    phi = features[:used].double()
    hessians = torch.zeros(w.shape[1], w.shape[1], dtype=torch.float64)
    for start in range(0, used, class_batch):
        rows = slice(start, start + class_batch)
        hessians += hessian_sum(phi[rows] @ w.double(), others[rows], scale)
    return Curvature(phi.T @ phi / math.sqrt(used), _psd(hessians / math.sqrt(used)))


def _psd(matrix: Tensor) -> Tensor:
    """Symmetrize a matrix and lift eigenvalues that rounding has made negative to 0."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp(min=0)) @ vectors.T


def spectra(found: Curvature) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of A and B, which is all that the evidence takes of them."""
    return torch.linalg.eigvalsh(found.a).clamp(min=0), torch.linalg.eigvalsh(found.b).clamp(min=0)


def log_evidence(
    eigenvalues: tuple[Tensor, Tensor], w: Tensor, lam: float, tau: float, evidence: str
) -> float:
    """Return what λ maximizes: ``−½λ‖W‖² + ½pd ln λ − D``.

    `evidence` chooses D: ``p logdet Ã + d logdet B̃`` ('published', as the code has it), or
    ``½(d logdet Ã + p logdet B̃)`` ('laplace', the evidence of a Kronecker Gaussian).
    """
    p, d = w.shape
    a, b = (float(torch.log(math.sqrt(tau) * values + math.sqrt(lam)).sum()) for values in eigenvalues)
    determinant = p * a + d * b if evidence == "published" else (d * a + p * b) / 2
    return -lam * float(w.double().square().sum()) / 2 + p * d * math.log(lam) / 2 - determinant


def best_precision(found: Curvature, w: Tensor, tau: float = TAU, evidence: str = "published") -> float:
    """Find the prior precision λ with the highest evidence.

    Parameters
    ----------
    found : Curvature
    w : Tensor of shape (p, d)
        The projection W.
    tau : float
        Pseudo-count τ.
    evidence : str
        One of `EVIDENCES`.

    Raises
    ------
    ValueError
        `evidence` is another, or it has no maximum for λ between 1e-10 and 1e10.
    """
    if evidence not in EVIDENCES:
        raise ValueError(f"unknown evidence '{evidence}'; choose from: {', '.join(EVIDENCES)}")
    eigenvalues = spectra(found)
    best = minimize_scalar(
        lambda x: -log_evidence(eigenvalues, w, math.exp(x), tau, evidence),
        bounds=_SEARCH,
        method="bounded",
        options={"xatol": 1e-8},
    )
    if min(best.x - _SEARCH[0], _SEARCH[1] - best.x) < _EDGE:
        raise ValueError("the evidence has no maximum for a prior precision between 1e-10 and 1e10")
    return math.exp(best.x)


@dataclass(frozen=True, eq=False)
class Spread:
    """Gaussian noise of embeddings whose variances are a number per row times a number per coordinate.

    Attributes
    ----------
    spreads : Tensor of shape (n,)
        ``a_i = φ_i Ã⁻¹ φ_iᵀ``.
    diagonal : Tensor of shape (d,)
        b, the diagonal of ``B̃⁻¹``.
    """

    spreads: Tensor
    diagonal: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Spread:
        """Spread of some rows."""
        return Spread(self.spreads[rows], self.diagonal)

    @property
    def variances(self) -> Tensor:
        """Variances ``(n, d)``."""
        return self.spreads[:, None] * self.diagonal

    @property
    def total(self) -> Tensor:
        """Sum of each row's variances, ``(n,)``."""
        return self.spreads * self.diagonal.sum()

    def scale(self, noise: Tensor) -> Tensor:
        """Give standard normal noise ``(n, d)`` these variances."""
        return noise * self.spreads.sqrt()[:, None] * self.diagonal.sqrt()

    def to(self, device: str | torch.device) -> Spread:
        """Return a copy on another device, in float32."""
        return Spread(*(t.to(device, torch.float32) for t in (self.spreads, self.diagonal)))


@dataclass(frozen=True, eq=False)
class Posterior:
    """Gaussian posterior of one tower's projection.

    Attributes
    ----------
    a_inverse : Tensor of shape (p, p), float64
        ``(√τ A + √λ I)⁻¹``.
    b_inverse : Tensor of shape (d, d), float64
        ``(√τ B + √λ I)⁻¹``.
    """

    a_inverse: Tensor
    b_inverse: Tensor

    @classmethod
    def of(cls, found: Curvature, lam: float, tau: float = TAU) -> Posterior:
        """Make the posterior of a prior precision λ and a pseudo-count τ; both must be above 0."""
        if not (lam > 0 and tau > 0):
            raise ValueError(f"the precision and the pseudo-count must be above 0, got {lam} and {tau}")
        parts = (
            math.sqrt(tau) * m + math.sqrt(lam) * torch.eye(len(m), dtype=m.dtype) for m in (found.a, found.b)
        )
        return cls(*(torch.linalg.inv(part) for part in parts))

    def spread(self, features: Tensor) -> Spread:
        """Noise of the embeddings of features φ ``(n, p)``, float64."""
        phi = features.double()
        return Spread(((phi @ self.a_inverse) * phi).sum(1), self.b_inverse.diagonal())

    def variances(self, features: Tensor, linear: Tensor | None = None) -> Tensor:
        """Variances of embeddings, coordinate by coordinate.

        Parameters
        ----------
        features : Tensor of shape (n, p)
            φ.
        linear : Tensor of shape (d, k), optional
            A linear map T that is applied to the embedding afterwards, ``e ↦ eT``.

        Returns
        -------
        Tensor of shape (n, d) or (n, k), float64
            ``(φÃ⁻¹φᵀ) · diag(B̃⁻¹)``, with T ``diag(TᵀB̃⁻¹T)``.
        """
        found = self.spread(features)
        if linear is None:
            return found.variances
        t = linear.double()
        return Spread(found.spreads, ((self.b_inverse @ t) * t).sum(0)).variances


def cosine_moments(
    images: Tensor, image_variances: Tensor, texts: Tensor, text_variances: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the cosine of every image with every text (ProbCosine).

    Parameters
    ----------
    images, image_variances : Tensor of shape (n, d)
        Means and variances of embeddings, not normalized.
    texts, text_variances : Tensor of shape (Q, d)
        The same of the texts.

    Returns
    -------
    mean, variance : Tensor of shape (n, Q), float64
        ``E = μ·ν/√(m_x m_y)`` and ``Var = Σ((μ²+σ²)ρ² + σ²ν²)/(m_x m_y)``, ``m_x = Σ(μ²+σ²)``: norms are
        replaced by their expectation. The variance of the true cosine is smaller, since radial noise does not
        turn a vector: intervals from this one are conservative.
    """
    mu, nu, sigma2, rho2 = (t.double() for t in (images, texts, image_variances, text_variances))
    second = mu.square() + sigma2
    norms = second.sum(1)[:, None] * (nu.square() + rho2).sum(1)
    variance = (second @ rho2.T + sigma2 @ nu.square().T) / norms
    return mu @ nu.T / norms.sqrt(), variance


def probit(mean: Tensor, variance: Tensor, scale: float) -> Tensor:
    """Class probabilities ``softmax(e^s E / √(1 + (π/8) e^{2s} Var))`` over the last axis."""
    return torch.softmax(scale * mean / torch.sqrt(1 + math.pi / 8 * scale**2 * variance), dim=-1)
