"""RoboShot: images lose harmful directions and gain along helpful ones.

Symbols: R (r, d) orthonormal basis of the harmful differences, U (u, d) of the helpful ones, x a unit image,
n(x) = x/‖x‖₂.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages
from debiasing_methods.linalg import span_basis
from debiasing_methods.transforms import SpanEdit, SpanTransform, once_per_prompts


class RoboShot(DebiasingMethod):
    """RoboShot: zero-shot robustification of images with harmful and helpful insights.

    Source: Adila et al. 2024, "Zero-Shot Robustification of Zero-Shot Models", arXiv:2309.04344, algorithm 1.

    Parameters
    ----------
    reject_harmful, accept_helpful : bool
        Which of the two steps are done; both in the paper's results.

    Notes
    -----
    Of each pair of raw prompts the difference is taken. The published algorithm goes through an orthonormal
    basis of the harmful differences, ``x ← n(x − (x·q)q)``, then of the helpful ones, ``x ← n(x + (x·u)u)``.
    Within a basis the steps do not disturb each other and normalising only scales, so the whole is
    ``n((I + UᵀU)(I − RᵀR)x)``, whatever bases of the two spans are taken. It promises images without a
    component along the harmful differences only where the helpful ones are orthogonal to them.

    Differs from the published code: two thin products instead of loops over vectors and images (exact;
    cosines need only ``x·(a few vectors)``); a span is that of its vectors, so dependent differences add no
    arbitrary directions.
    """

    name = "roboshot"
    display_name = "RoboShot"
    group = "input-prompts"
    needs = frozenset({"harmful", "helpful"})
    changes_images = True

    def __init__(self, *, reject_harmful: bool = True, accept_helpful: bool = True) -> None:
        self.reject_harmful = reject_harmful
        self.accept_helpful = accept_helpful

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Return copies of the raw queries."""
        self.check(groups)
        return [group.queries.clone() for group in groups]

    def image_transform(
        self, groups: Sequence[QueryGroup], fold: int = 0, reference: ReferenceImages | None = None
    ) -> ImageTransform:
        """Make the transform of unit images of each group; its result is unit."""
        self.check(groups)
        edits = once_per_prompts(groups, lambda g: (g.harmful, g.helpful), self._edit)
        return SpanTransform(edits, normalize=True)

    def _edit(self, group: QueryGroup) -> SpanEdit:
        harmful = difference_basis(group.harmful if self.reject_harmful else group.harmful[:0])
        helpful = difference_basis(group.helpful if self.accept_helpful else group.helpful[:0])
        return SpanEdit(removed=harmful, doubled=helpful)


def difference_basis(pairs: Tensor) -> Tensor:
    """Return an orthonormal basis ``(r, d)``, float64, of the differences of pairs ``(p, 2, d)``."""
    pairs = pairs.to(torch.float64)
    return span_basis(pairs[:, 0] - pairs[:, 1])
