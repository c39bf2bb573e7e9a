"""LEACE: the affine map of least change after which no linear probe finds the bias class.

Symbols: n reference images, d embedding dimension, C bias classes; x a unit image (a row), z the one-hot row
of its class, x̄ and z̄ their means, Σ_xx (d, d) and Σ_xz (d, C) covariances.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from debiasing_methods.base import QueryGroup, ReferenceImages
from debiasing_methods.chunks import chunks
from debiasing_methods.labelled import LabelledImageMethod, LabelledRows, bias_prompt_rows
from debiasing_methods.linalg import gram, unit
from debiasing_methods.transforms import AffineTransform, once_per_prompts

TEXT = ("none", "same", "own")
PACKAGE_SVD_TOLERANCE = 0.01  # of the package, absolute in units of z
SVD_TOLERANCE = 1e-6  # ours, of the largest singular value
_MOMENT_ROWS = 8192  # taken into float64 at once


class RankWarning(UserWarning):
    """There are too few images to know the covariance in every direction."""


class Leace(LabelledImageMethod):
    """LEACE: least-squares concept erasure in closed form, on images.

    Source: Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form", arXiv:2306.03819,
    theorem 4.3; shrinkage as in the package concept-erasure 0.2.4.

    Parameters
    ----------
    shrinkage : bool
        Whether Σ_xx is shrunk toward a multiple of the identity; without it ``S · n/(n − 1)``.
    package : bool
        Whether singular values are cut at 0.01 as in the package, instead of at 1e-6 of the largest.
    text : {'none', 'same', 'own'}
        What happens to queries: nothing; the images' map without its centering; or a map that is fitted on
        the bias prompts. The last two are our own additions and no published result. [?]

    Notes
    -----
    1. ``W = Σ_xx^(−1/2)``, ``W⁺ = Σ_xx^(1/2)``; U: left singular vectors of ``W Σ_xz``.
    2. ``x′ = x − (x − x̄) (W⁺U Uᵀ W)ᵀ``.

    On the images that were fitted the class means coincide, so no linear classifier with log loss is better
    there than the class shares. On other images this holds in expectation only, and normalizing x′, as the
    cosine does, loses exactness.

    Differs from the package: the cut of singular values is relative, since an absolute one may keep rare
    classes; the amount of shrinkage is bounded by 0 and 1. The package's trace constraint is left out: it
    can never act.
    """

    name = "leace"
    display_name = "LEACE"

    def __init__(self, *, shrinkage: bool = True, package: bool = False, text: str = "none") -> None:
        super().__init__()
        if text not in TEXT:
            raise ValueError(f"text must be one of {', '.join(TEXT)}, got '{text}'")
        self.shrinkage, self.package, self.text = shrinkage, package, text
        self.needs = self.needs_with({"text": text})
        self.changes_text = text != "none"
        self.needs_reference = text == "same"

    @classmethod
    def needs_with(cls, options: Mapping[str, object]) -> frozenset[str]:
        """Bias prompts where text has a map of its own."""
        return frozenset({"bias_prompts"}) if options.get("text") == "own" else frozenset()

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Return copies of the queries or, with the option `text`, mapped unit queries.

        Raises
        ------
        ValueError
            Prompts or reference images are needed and missing, or cannot be fitted.
        """
        self.check(groups)
        if self.text == "own":
            maps = once_per_prompts(groups, lambda group: group.bias_prompts, self._fit_on_prompts)
            return [each.apply(unit(group.queries)) for each, group in zip(maps, groups, strict=True)]
        if self.text == "same":
            if reference is None:
                raise ValueError(f"{self.name} needs labelled reference images")
            folds = [self.image_transform((), fold, reference) for fold in range(len(reference.folds))]
            maps = [AffineTransform(fit.left, fit.right, 0 * fit.offset) for fit in folds]
            return [torch.stack([each.apply(unit(group.queries)) for each in maps]) for group in groups]
        return super().debias_text(groups)

    def _fit(self, rows: LabelledRows, reference: ReferenceImages, fold: int) -> AffineTransform:
        return erasure(rows.images, rows.labels, shrinkage=self.shrinkage, package=self.package)

    def _fit_on_prompts(self, group: QueryGroup) -> AffineTransform:
        prompts, labels = bias_prompt_rows(group, self.name)
        return erasure(prompts, labels, shrinkage=self.shrinkage, package=self.package)


def erasure(
    images: Tensor, labels: Tensor, *, shrinkage: bool = True, package: bool = False
) -> AffineTransform:
    """Fit LEACE on labelled rows.

    Parameters
    ----------
    images : Tensor of shape (n, d)
        Of any length; they are taken as unit, in float64.
    labels : LongTensor of shape (n,)
        0 to C − 1.
    shrinkage, package : bool
        As for `Leace`.

    Returns
    -------
    AffineTransform
        ``left = Wᵀ U``, ``right = (W⁺U)ᵀ``, ``offset = x̄ · left · right``.

    Warns
    -----
    RankWarning
        There are no more rows than coordinates and no shrinkage.
    """
    n, d = images.shape
    if n <= d and not shrinkage:
        warnings.warn(
            f"leace: {n} images do not span {d} dimensions; without shrinkage the directions that they "
            f"leave out are kept, and may show the class in other images",
            RankWarning,
            stacklevel=2,
        )
    mean, scatter, cross = _moments(images, labels)
    whitening, coloring = _roots(_covariance(scatter, n, shrinkage=shrinkage))
    u, singular, _ = torch.linalg.svd(whitening @ (cross / (n - 1)), full_matrices=False)
    u = u[:, singular > (PACKAGE_SVD_TOLERANCE if package else SVD_TOLERANCE * singular[0])]
    left, right = whitening @ u, u.T @ coloring
    return AffineTransform(left, right, (mean[None] @ left @ right)[0])


def _moments(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(d,)``, ``Σ(x−x̄)ᵀ(x−x̄)`` ``(d, d)`` and ``Σ(x−x̄)ᵀ(z−z̄)`` ``(d, C)`` of unit rows, float64."""
    parts = list(chunks(len(images), _MOMENT_ROWS))
    mean = sum(unit(images[rows].to(torch.float64)).sum(dim=0) for rows in parts) / len(images)
    z = torch.nn.functional.one_hot(labels).to(mean)
    scatter, cross = mean.new_zeros(len(mean), len(mean)), mean.new_zeros(len(mean), z.shape[1])
    for rows in parts:
        centered = unit(images[rows].to(torch.float64)) - mean
        scatter += gram(centered)
        cross += centered.T @ z[rows]  # Σ(x−x̄)ᵀz̄ is zero
    return mean, scatter, cross


def _covariance(scatter: Tensor, n: int, *, shrinkage: bool) -> Tensor:
    """Covariance ``(d, d)``; shrunk toward ``(t/d) I`` by ``β = (t²/n) / (‖S‖² − t²/d)``, t = tr S."""
    if not shrinkage:
        return scatter / (n - 1)
    s, d = scatter / n, len(scatter)
    trace = s.diagonal().sum()
    spread = s.square().sum() - trace**2 / d
    beta = ((trace**2 / n) / spread).clamp(0, 1) if spread > 0 else torch.ones_like(trace)
    return (1 - beta) * s + beta * (trace / d) * torch.eye(d).to(s)


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse square root and square root ``(d, d)``; what is numerically null stays null in both."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root = values.clamp(min=0).sqrt()
    inverse = torch.where(kept, 1 / root.clamp(min=torch.finfo(root.dtype).tiny), 0)
    return (vectors * inverse) @ vectors.T, (vectors * torch.where(kept, root, 0)) @ vectors.T
