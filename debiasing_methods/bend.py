"""BendVLM and BendSEM_bi: a query at equal distance from its nearest images of every bias class.

Symbols: N images, d embedding dimension, G groups, Q queries of a group, F folds, C bias classes; e₀ the
query after step 1, p_c the mean of the reference images of class c nearest to e₀, e the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from debiasing_methods.base import DebiasingMethod, QueryGroup, ReferenceImages
from debiasing_methods.chunks import chunks
from debiasing_methods.linalg import remove_span, span_basis, unit
from debiasing_methods.projections import pairs_within
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.sem import SemBI


def equalize(e0: Tensor, prototypes: Tensor) -> Tensor:
    """Maximise ``e·e₀`` subject to ``‖e‖ = 1`` and ``e·p_1 = e·p_c`` for every class c (step 3).

    Parameters
    ----------
    e0 : Tensor of shape (Q, d)
        Queries after step 1, on any scale.
    prototypes : Tensor of shape (C, d)
        p_c of each bias class.

    Returns
    -------
    Tensor of shape (Q, d), float64
        Unit rows.

    Notes
    -----
    The constraints say that e is orthogonal to ``span{p_1 − p_c}``; among the unit vectors of a subspace the
    one nearest to e₀ is its normalised projection on it.
    """
    prototypes = prototypes.to(torch.float64)
    return unit(remove_span(e0, span_basis(prototypes[:1] - prototypes[1:])))


def nearest_means(directions: Tensor, reference: ReferenceImages, num_neighbors: int) -> Tensor:
    """Average, for every fold, group and bias class, the reference images nearest to the group (step 2).

    Parameters
    ----------
    directions : Tensor of shape (G, d)
        Mean of the group's unit queries: its product with a unit image is the mean of their cosines.
    reference : ReferenceImages
        The product of all its images with the directions is taken once and serves all folds.
    num_neighbors : int
        How many images; all there are where a class has fewer.

    Returns
    -------
    Tensor of shape (F, G, C, d), float64

    Raises
    ------
    ValueError
        A bias class has no image in a fold's reference part.
    """
    images = reference.images
    cosines, lengths = _cosines(directions, images)
    shape = (len(reference.folds), len(directions), len(reference.classes), images.shape[1])
    means = cosines.new_empty(shape, dtype=torch.float64)
    for fold, rows in enumerate(reference.folds):
        labels = reference.labels[rows]
        for code, bias_class in enumerate(reference.classes):
            members = rows[labels == code]
            if len(members) == 0:
                raise ValueError(
                    f"bias class '{bias_class}' has no image in the reference part of fold {fold}; each of "
                    f"{', '.join(reference.classes)} needs at least one in every fold: check labels and folds"
                )
            k = min(num_neighbors, len(members))
            nearest = cosines.index_select(1, members).topk(k, dim=1, sorted=False).indices  # (G, k)
            chosen = members[nearest]
            unit_images = images[chosen].to(lengths) / lengths[chosen, None]
            means[fold, :, code] = unit_images.mean(dim=1, dtype=torch.float64)
    return means


def _cosines(directions: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines ``(G, N)`` up to a factor a direction, and the images' lengths ``(N,)``; at least float32.

    A part of the images at a time, since they may lie in a file.
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    directions = directions.to(images.device, dtype)
    cosines = images.new_empty(len(directions), len(images), dtype=dtype)
    lengths = images.new_empty(len(images), dtype=dtype)
    for rows in chunks(len(images)):
        part = images[rows].to(dtype)
        lengths[rows] = torch.linalg.vector_norm(part, dim=1).clamp(min=torch.finfo(dtype).tiny)
        cosines[:, rows] = directions @ part.T / lengths[rows]
    return cosines, lengths


class BendMethod(DebiasingMethod):
    """Steps 2 and 3, which the two methods share; step 1 is the subclass's.

    Parameters
    ----------
    num_neighbors : int
        Reference images of a bias class that make its prototype, at least 1.
    """

    changes_text = True
    needs_reference = True

    def __init__(self, *, num_neighbors: int) -> None:
        if num_neighbors < 1:
            raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}")
        self.num_neighbors = num_neighbors

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Bend the queries of each fold; ``(F, Q, d)`` with unit rows.

        Raises
        ------
        ValueError
            Prompts or `reference` are missing, or a bias class has no image in a fold's reference part.
        """
        self.check(groups)
        if reference is None:
            raise ValueError(f"{self.name} needs labelled reference images")
        first = self._first_step(groups)
        directions = torch.stack([unit(e0.to(torch.float64)).mean(dim=0) for e0 in first])
        means = nearest_means(directions, reference, self.num_neighbors)
        return [
            torch.stack([equalize(e0, prototypes) for prototypes in means[:, g]]).to(group.queries.dtype)
            for g, (group, e0) in enumerate(zip(groups, first, strict=True))
        ]

    def _first_step(self, groups: Sequence[QueryGroup]) -> list[Tensor]:
        """Return e₀ of each group, ``(Q, d)``, on any scale."""
        raise NotImplementedError


class BendVLM(BendMethod):
    """BendVLM: remove the query's own bias directions, then equalise it over labelled images.

    Source: Gerych et al. 2024, "BendVLM: Test-Time Debiasing of Vision-Language Embeddings",
    arXiv:2411.04420.

    Notes
    -----
    1. ``e₀ = n(n(q) P₀)``, P₀ the projector on the complement of the span of the unit spurious prompts and of
       ``(a_j − a_k)/2`` for every two unit augmentations of one query.
    2. p_c: mean of the `num_neighbors` reference images of bias class c with the highest cosine to e₀ (of
       several queries the mean of their cosines, so that a group has one set of prototypes). A class with
       fewer images gives all it has, as in the published code; a class without any is an error.
    3. ``max e·e₀`` subject to ``‖e‖ = 1`` and ``e·p_1 = e·p_c``.

    The result is as similar to the prototype of one class as to that of another; nothing is promised of
    images other than their means, nor of images that are not among the reference.

    Differs from the published code: step 3 in closed form instead of a numerical solver; the span of step 1
    is that of its vectors. The published code takes as many directions as there are vectors: for 7 race
    classes 28, which have rank 13, so 15 arbitrary directions go too.
    """

    name = "bendvlm"
    display_name = "BendVLM"
    group = "labelled-images"
    needs = frozenset({"spurious", "augmentations"})

    def _first_step(self, groups: Sequence[QueryGroup]) -> list[Tensor]:
        return [unit(remove_span(unit(group.queries), _local_basis(group))) for group in groups]


def _local_basis(group: QueryGroup) -> Tensor:
    """Orthonormal basis of the spurious prompts and the halved differences of augmentations; float64."""
    spurious, a = (unit(x.to(torch.float64)) for x in (group.spurious, group.augmentations))
    pairs = pairs_within(len(a), len(group.queries), "augmentations")
    return span_basis(torch.cat([spurious, (a[pairs[:, 0]] - a[pairs[:, 1]]) / 2]))


class BendSemBI(BendMethod):
    """BendSEM_bi: the sem-bi result in the place of BendVLM's first step.

    Source: SEM, arXiv:2603.19028, combined with steps 2 and 3 of `BendVLM`.

    Parameters
    ----------
    sae : SparseAutoencoder
        Of the backbone's text embeddings.
    diverse : Tensor of shape (n, d)
        Raw embeddings of the diverse prompts, on the SAE's device.
    num_neighbors : int
        As for `BendVLM`.
    """

    name = "bendsem-bi"
    display_name = "BendSEM_bi"
    group = "labelled-images"
    needs = SemBI.needs
    weights = "sae"

    def __init__(self, *, sae: SparseAutoencoder, diverse: Tensor, num_neighbors: int) -> None:
        super().__init__(num_neighbors=num_neighbors)
        self.sem = SemBI(sae=sae, diverse=diverse)

    def _first_step(self, groups: Sequence[QueryGroup]) -> list[Tensor]:
        return self.sem.debias_text(groups)
