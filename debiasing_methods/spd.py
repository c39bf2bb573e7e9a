"""SPD: a linear subspace of the bias class, found by repeated classifiers, gives way to a neutral constant.

Symbols: n reference images, d embedding dimension, C bias classes, r removed directions; U (r, d) orthonormal
rows, x̄_low mean of the images whose class is uncertain.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from debiasing_methods.base import ReferenceImages
from debiasing_methods.forest import ForestOptions, forest_of_fold, uncertain_mean
from debiasing_methods.labelled import LabelledImageMethod, LabelledRows
from debiasing_methods.linalg import remove_span, span_basis
from debiasing_methods.logistic import accuracy, fit_logistic, scatter_of
from debiasing_methods.transforms import AffineTransform

DEPTH_UNITS = ("directions", "rounds")
ORDERS = ("qr", "svd")
_HELD_OUT = 5  # with `stop_at_chance` every fifth image judges the classifiers

logger = logging.getLogger(__name__)


class Spd(LabelledImageMethod):
    """SPD: subspace projection debiasing.

    Source: Zhao et al. 2025, arXiv:2511.18123; its first part is INLP (Ravfogel et al. 2020,
    arXiv:2004.07667). The paper's classifier is not known: ours is logistic regression with an L2 penalty of
    C = 1 and an intercept, solved tightly. [?]

    Parameters
    ----------
    r : int
        How deep the subspace is.
    depth_unit : {'directions', 'rounds'}
        What `r` counts: directions, C − 1 of which come from one classifier; or classifiers. [?]
    order : {'qr', 'svd'}
        Order of the directions of one classifier: Gram-Schmidt of its rows in the order of the classes, or by
        singular value. With more than two classes and a depth that cuts a classifier, `qr` depends on how the
        classes are numbered; `svd` does not.
    put_back : bool
        Whether the removed part becomes that of x̄_low instead of zero.
    tau : float
        An image is uncertain where its largest class probability is below this. The paper can also be read
        as the lowest τ percent. [?]
    stop_at_chance : bool
        Whether the rounds end when a classifier is no better on held-out images than the largest class.
    holdout, max_samples
        As for `ForestOptions`. `max_samples` is ours: a forest on 50,000 images takes minutes.

    Notes
    -----
    1. Round by round, a linear classifier is fitted on the images without the directions found so far; the
       row space of its weights (rank C − 1) gives the next directions.
    2. ``x″ = x − xUᵀU + (x̄_low Uᵀ)U``; x̄_low from a random forest (`forest`).

    The part that is put back is the same for every image: it adds a constant to all dot products of a query,
    and acts on cosines through the images' lengths alone.

    Differs from the published code: C − 1 directions per classifier instead of C, one of which is arbitrary;
    out-of-bag probabilities; only the reference half is used.
    """

    name = "spd"
    display_name = "SPD"

    def __init__(
        self,
        *,
        r: int = 5,
        depth_unit: str = "directions",
        order: str = "qr",
        put_back: bool = True,
        tau: float = 0.7,
        stop_at_chance: bool = False,
        holdout: float | None = None,
        max_samples: int | None = None,
    ) -> None:
        super().__init__()
        if r < 1:
            raise ValueError(f"r must be at least 1, got {r}")
        if not 0 < tau <= 1:
            raise ValueError(f"tau must lie above 0 and be at most 1, got {tau}")
        for option, value, allowed in (("depth_unit", depth_unit, DEPTH_UNITS), ("order", order, ORDERS)):
            if value not in allowed:
                raise ValueError(f"{option} must be one of {', '.join(allowed)}, got '{value}'")
        self.depth = Depth(r, depth_unit, order, stop_at_chance)
        self.put_back, self.tau = put_back, tau
        self.forest = ForestOptions(holdout, max_samples)

    def _fit(self, rows: LabelledRows, reference: ReferenceImages, fold: int) -> AffineTransform:
        x, d = rows.unit(), rows.images.shape[1]
        if self.depth.r >= d:
            raise ValueError(
                f"{self.name}: r = {self.depth.r} leaves nothing of embeddings of width {d}; set r below {d}"
            )
        basis = attribute_subspace(x, rows.labels, len(rows.classes), self.depth)
        offset = torch.zeros_like(basis[0])
        if self.put_back:
            fit = forest_of_fold(rows, reference, fold, self.forest)
            try:
                low = uncertain_mean(rows.images, fit.largest, self.tau, self.name)
            except ValueError as error:
                raise ValueError(f"{error}, or put_back to false") from None
            offset = (low[None] @ basis.T @ basis)[0]
        return AffineTransform(basis.T, basis, offset)


@dataclass(frozen=True)
class Depth:
    """How many directions are taken and in which order; the fields are options of `Spd`."""

    r: int = 5
    unit: str = "directions"
    order: str = "qr"
    stop_at_chance: bool = False


def attribute_subspace(x: Tensor, labels: Tensor, n_classes: int, depth: Depth) -> Tensor:
    """Find the directions that show the class, by iterated null-space projection (INLP).

    Parameters
    ----------
    x : Tensor of shape (n, d), float64
        Unit rows.
    labels : LongTensor of shape (n,)
        0 to C − 1.
    n_classes : int
        C.
    depth : Depth

    Returns
    -------
    Tensor of shape (r, d), float64
        U, orthonormal rows; fewer than asked for where the classifiers find no more.

    Raises
    ------
    ValueError
        All directions would be removed.
    """
    judges = slice(None, None, _HELD_OUT) if depth.stop_at_chance else slice(None)
    fitted = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if depth.stop_at_chance:
        fitted[judges] = False
    chance = float(torch.bincount(labels[judges]).max() / len(labels[judges]))
    basis, rest, rounds = x.new_empty(0, x.shape[1]), x, 0
    scatter = scatter_of(x[fitted])
    while (rounds if depth.unit == "rounds" else len(basis)) < depth.r:
        weights, intercept = fit_logistic(rest[fitted], labels[fitted], n_classes, scatter)
        reached = accuracy(rest[judges], labels[judges], weights, intercept)
        logger.info("spd: round %d: accuracy %.4f, largest class %.4f", rounds + 1, reached, chance)
        if depth.stop_at_chance and reached <= chance:
            break
        found = _directions(remove_span(weights, basis), depth.order)
        if len(found) == 0:
            break
        basis, rounds = torch.cat([basis, found]), rounds + 1
        rest = remove_span(x, basis)
    if len(basis) == 0:
        raise ValueError("spd: the first classifier is no better than the largest class; nothing to remove")
    if len(basis) >= x.shape[1]:
        raise ValueError(f"spd: {depth.r} rounds remove all {x.shape[1]} dimensions; set r lower")
    return basis if depth.unit == "rounds" else basis[: depth.r]


def _directions(weights: Tensor, order: str) -> Tensor:
    """Orthonormal basis of the row space of weights ``(C, d)``, or of the one row of two classes.

    Multinomial weights sum to zero over the classes, so the first C − 1 rows span what all span.
    """
    by_size = span_basis(weights)
    if order == "svd":
        return by_size
    return torch.linalg.qr(weights[: len(by_size)].T).Q.T
