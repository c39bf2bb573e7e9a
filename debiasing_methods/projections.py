"""Projections that remove bias directions: orth-proj and orth-cali (text), prism-mini (text and images).

Symbols: S (m, d) unit spurious prompts, V orthonormal basis of their row space, P₀ = I − VVᵀ, n(x) = x/‖x‖₂;
Z (c, d) unit candidates, D (p, d) the differences z_i − z_j of the p pairs, M = DᵀD / p, G = λM + I.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages
from debiasing_methods.linalg import remove_span, span_basis, unit
from debiasing_methods.transforms import SpanEdit, SpanTransform, once_per_prompts


def pairs_within(n_prompts: int, n_queries: int, kind: str) -> Tensor:
    """Return every two prompts of one query, for prompts that are listed query by query.

    Parameters
    ----------
    n_prompts, n_queries : int
        Each query has ``n_prompts / n_queries`` prompts.
    kind : str
        What the prompts are, for the error message.

    Returns
    -------
    LongTensor of shape (p, 2)
        Pairs ``(a·m + j, a·m + k)`` with ``j < k``, query by query.

    Raises
    ------
    ValueError
        The prompts are not equally many a query.
    """
    m, rest = divmod(n_prompts, n_queries)
    if rest:
        raise ValueError(f"{n_prompts} {kind} for {n_queries} queries: they must be equally many a query")
    within = torch.triu_indices(m, m, offset=1).T
    return (torch.arange(n_queries)[:, None, None] * m + within).reshape(-1, 2)


def calibrate(x: Tensor, differences: Tensor, lam: float) -> Tensor:
    """Multiply rows by ``(λ DᵀD / p + I)⁻¹`` without forming a (d, d) matrix.

    Parameters
    ----------
    x : Tensor of shape (..., d)
        Vectors; not changed.
    differences : Tensor of shape (p, d)
        D: differences of the vectors that should coincide, p ≥ 1.
    lam : float
        λ ≥ 0: how strongly they are drawn together.

    Returns
    -------
    Tensor of shape (..., d), float64

    Notes
    -----
    Woodbury: ``(I + cDᵀD)⁻¹ = I − Dᵀ(I + cDDᵀ)⁻¹cD`` with ``c = λ/p``; the inverse is one of (p, p).
    """
    x, d = x.to(torch.float64), differences.to(torch.float64)
    c = lam / len(d)
    small = torch.eye(len(d), dtype=d.dtype, device=d.device) + c * (d @ d.T)
    return x - torch.linalg.solve(small, c * (d @ x.T)).T @ d


def _spurious_basis(group: QueryGroup) -> Tensor:
    # float64 before normalising: rounding unit prompts to float32 is magnified where they are near-dependent
    return span_basis(unit(group.spurious.to(torch.float64)))


def _spurious_bases(groups: Sequence[QueryGroup]) -> list[Tensor]:
    return once_per_prompts(groups, lambda group: (group.spurious,), _spurious_basis)


class OrthProj(DebiasingMethod):
    """Orth-Proj: remove the span of the spurious prompts from the query.

    Source: Chuang et al. 2023, "Debiasing Vision-Language Models via Biased Prompts", arXiv:2302.00070,
    eq. 1.

    Notes
    -----
    ``n(n(q) P₀)`` with ``P₀ = I − VVᵀ``. It promises that the debiased query is orthogonal to every spurious
    prompt; it does not promise that images lose anything, nor that the bias lies in that span.

    Differs from the published code: the span is that of the vectors (directions with a singular value below
    1e-6 of the largest are dropped); where the prompts are dependent the published code removes arbitrary
    further directions.
    """

    name = "orth-proj"
    display_name = "Orth-Proj"
    group = "bias-prompts"
    needs = frozenset({"spurious"})
    changes_text = True

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Project the unit queries on the complement of the spurious span; rows of the result are unit."""
        self.check(groups)
        bases = _spurious_bases(groups)
        return [_projected(group, basis) for group, basis in zip(groups, bases, strict=True)]


def _projected(group: QueryGroup, basis: Tensor) -> Tensor:
    return unit(remove_span(unit(group.queries), basis)).to(group.queries.dtype)


class OrthCali(DebiasingMethod):
    """Orth-Cali: draw together the query written with each bias class, then remove the spurious span.

    Source: Chuang et al. 2023, "Debiasing Vision-Language Models via Biased Prompts", arXiv:2302.00070, the
    calibrated projection.

    Parameters
    ----------
    lam : float
        λ ≥ 0, the weight of the pairs; with 0 the method is orth-proj.

    Notes
    -----
    ``n(n(q) G⁻¹ P₀)`` with ``G = λM + I`` and ``M`` the mean of ``(z_i − z_j)ᵀ(z_i − z_j)`` over the pairs:
    those of `candidate_pairs`, else every two candidates of one query. It promises a query that is
    orthogonal to every spurious prompt; the pairs' differences are damped, not removed.

    Differs from the published code: ``G⁻¹`` by Woodbury from the (p, p) matrix of the pairs instead of a
    (d, d) inverse (equal to 1e-6); the span as in `OrthProj`.
    """

    name = "orth-cali"
    display_name = "Orth-Cali"
    group = "both-prompts"
    needs = frozenset({"spurious", "candidates"})
    changes_text = True

    def __init__(self, *, lam: float = 1000.0) -> None:
        if not 0 <= lam < float("inf"):
            raise ValueError(f"lam must be a finite number of at least 0, got {lam}")
        self.lam = lam

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Calibrate, then project the unit queries; rows of the result are unit."""
        self.check(groups)
        return [self._calibrated(g, basis) for g, basis in zip(groups, _spurious_bases(groups), strict=True)]

    def _calibrated(self, group: QueryGroup, basis: Tensor) -> Tensor:
        x = calibrate(unit(group.queries), _candidate_differences(group), self.lam)
        return unit(remove_span(x, basis)).to(group.queries.dtype)


def _candidate_differences(group: QueryGroup) -> Tensor:
    """D (p, d), float64: differences of unit candidates."""
    pairs = group.candidate_pairs
    if pairs is None:
        pairs = pairs_within(len(group.candidates), len(group.queries), "candidates")
    if len(pairs) == 0 or pairs.min() < 0 or pairs.max() >= len(group.candidates):
        raise ValueError(
            f"orth-cali needs at least one pair of candidates, each from 0 to {len(group.candidates) - 1}; "
            f"got {pairs.tolist()}"
        )
    z = unit(group.candidates.to(torch.float64))
    return z[pairs[:, 0]] - z[pairs[:, 1]]


class PrismMini(DebiasingMethod):
    """PRISM-mini: remove the span of the spurious prompts from queries and images alike.

    Source: PRISM, Molahasani et al., ICCV 2025, arXiv:2507.08979; the variant without training.

    Notes
    -----
    Text ``n(q) P``, images ``n(x) P`` with ``P = I − V(VᵀV)⁻¹Vᵀ``, ``V = Sᵀ``: the projector P₀ of
    `OrthProj`. It promises that both are orthogonal to every spurious prompt. Images are scored from their
    products with a basis of the span, without a projected copy.

    Differs from the published code: an orthonormal basis of the span in float64 instead of the inverse of VᵀV
    in float32, which loses up to 2e-3 where the prompts are nearly dependent.
    """

    name = "prism-mini"
    display_name = "PRISM-mini"
    group = "bias-prompts"
    needs = frozenset({"spurious"})
    changes_text = True
    changes_images = True

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Project the unit queries; the result is not normalised again."""
        self.check(groups)
        bases = _spurious_bases(groups)
        return [
            remove_span(unit(group.queries), basis).to(group.queries.dtype)
            for group, basis in zip(groups, bases, strict=True)
        ]

    def image_transform(
        self, groups: Sequence[QueryGroup], fold: int = 0, reference: ReferenceImages | None = None
    ) -> ImageTransform:
        """Make the projection of unit images on each group's complement; not normalised again."""
        self.check(groups)
        edits = once_per_prompts(groups, lambda g: (g.spurious,), lambda g: SpanEdit(_spurious_basis(g)))
        return SpanTransform(edits, normalize=False)
