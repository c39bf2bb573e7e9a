"""Image transforms that score without making n debiased images for each of 25 queries.

Symbols: n images, G groups, Q queries in all groups together, d embedding dimension; x an image, t a unit
debiased query, both rows; R (r, d) and U (u, d) orthonormal rows, W (d, d) a linear map.

A linear transform A has ``cos(Ax, t) = x·(Aᵀt) / ‖Ax‖``: the numerators of all groups are one product of the
images with Q vectors, and the norms belong to the transform alone, so groups that share it share them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from debiasing_methods.base import ImageTransform, QueryGroup
from debiasing_methods.chunks import chunks
from debiasing_methods.linalg import remove_span, unit

# Columns of a triangular factor that are multiplied together: fewer would save more, but run slower.
_BLOCK = 64

_SMALLEST_NORM = 1e-12  # the bound of torch's `normalize`: a vector that is removed altogether scores 0

T = TypeVar("T")


def once_per_prompts(
    groups: Sequence[QueryGroup],
    prompts: Callable[[QueryGroup], Sequence[Tensor]],
    make: Callable[[QueryGroup], T],
) -> list[T]:
    """Make something for each group, once for all groups whose prompts are the very same tensors.

    Parameters
    ----------
    groups : sequence of QueryGroup
    prompts : callable
        The tensors of a group that the result depends on.
    make : callable
        Makes the result of a group.

    Returns
    -------
    list
        One result a group; groups with the same tensors have the same object.
    """
    made: dict[Hashable, T] = {}
    results = []
    for group in groups:
        key = tuple(map(id, prompts(group)))
        if key not in made:
            made[key] = make(group)
        results.append(made[key])
    return results


class SpanEdit:
    """The linear map ``A = (I + UᵀU)(I − RᵀR)``: one span is removed, what lies along another is doubled.

    Parameters
    ----------
    removed : Tensor of shape (r, d), float64
        R: orthonormal rows.
    doubled : Tensor of shape (u, d), float64, optional
        U: orthonormal rows, not necessarily orthogonal to those of R. Without it nothing is doubled.
    """

    def __init__(self, removed: Tensor, doubled: Tensor | None = None) -> None:
        self.removed = removed
        self.doubled = removed[:0] if doubled is None else doubled

    def apply(self, x: Tensor) -> Tensor:
        """Return Ax for each row x of ``(n, d)``; float64."""
        rest = remove_span(x, self.removed)
        return rest + (rest @ self.doubled.T) @ self.doubled

    def transpose(self, t: Tensor) -> Tensor:
        """Return Aᵀt for each row t of ``(Q, d)``; float64."""
        t = t.to(torch.float64)
        return remove_span(t + (t @ self.doubled.T) @ self.doubled, self.removed)

    def norm_form(self) -> tuple[Tensor, Tensor]:
        """Return probes B ``(r + u, d)`` and weights w ``(r + u,)`` of the norm.

        ``‖Ax‖² = ‖x‖² + Σ_i w_i (x·b_i)²``: with ``y = (I − RᵀR)x``, ``‖y‖² = ‖x‖² − ‖Rx‖²`` and
        ``‖y + UᵀUy‖² = ‖y‖² + 3‖Uy‖²``, where ``Uy = U(I − RᵀR)x``.
        """
        probes = torch.cat([self.removed, remove_span(self.doubled, self.removed)])
        weights = torch.cat([-torch.ones_like(self.removed[:, 0]), 3 * torch.ones_like(self.doubled[:, 0])])
        return probes, weights


class SpanTransform(ImageTransform):
    """One `SpanEdit` a group, scored from thin products in float64.

    The norm is a difference of squares: where a ten-thousandth of an image's length is left, float64 still
    gives it to 1e-8, float32 nothing.

    Parameters
    ----------
    edits : sequence of SpanEdit
        One a group; groups that share an edit should share the object, for then they share its norms.
    normalize : bool
        Whether `apply` makes the result unit.
    """

    def __init__(self, edits: Sequence[SpanEdit], *, normalize: bool) -> None:
        self.edits = tuple(edits)
        self.normalize = normalize

    def apply(self, images: Tensor, group: int = 0, first_row: int = 0) -> Tensor:
        """Edit the images, ``(n, d)``; unit if the transform was made so."""
        edited = images.new_empty(images.shape)
        for rows in chunks(len(images)):
            x = self.edits[group].apply(images[rows])
            edited[rows] = (unit(x) if self.normalize else x).to(images.dtype)
        return edited

    def scores(self, images: Tensor, text: Sequence[Tensor], first_row: int = 0) -> Tensor:
        """Cosines ``(n, Q)`` from one thin product of the images for all groups."""
        pairs = zip(self.edits, text, strict=True)
        directions = torch.cat([edit.transpose(unit(t.to(torch.float64))) for edit, t in pairs])
        probes, form = self._norm_form
        columns = torch.cat([directions, probes]).T.contiguous()
        owner = owners(self.edits, text)
        cosines = images.new_empty(len(images), len(directions))
        for rows in chunks(len(images)):
            x = images[rows].to(torch.float64)
            dots, coordinates = (x @ columns).split([len(directions), len(probes)], dim=1)
            length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            squared = (coordinates.square() @ form).add_(length.square_())
            norms = squared.clamp_(min=_SMALLEST_NORM**2).sqrt_()
            cosines[rows] = (dots / norms[:, owner]).to(images.dtype)
        return cosines

    @cached_property
    def _norm_form(self) -> tuple[Tensor, Tensor]:
        """Probes of all distinct edits, ``(probes, d)``, and their weights, ``(probes, edits)``."""
        probes, weights = zip(*(edit.norm_form() for edit in distinct_objects(self.edits)), strict=True)
        return torch.cat(probes), torch.block_diag(*(w[:, None] for w in weights))


class LinearTransform(ImageTransform):
    """One linear map a group: images ``x Wᵀ``, not made for scores.

    Parameters
    ----------
    maps : sequence of Tensor of shape (d, d)
        One a group; groups that share a map should share the tensor, for then they share its norms.

    Notes
    -----
    The norms are what scores cost: n · d² multiplications a map. With ``W = OR``, O orthogonal and R upper
    triangular, ``‖Wx‖ = ‖Rx‖``, and the zeros of R save almost half of them.
    """

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self.maps = tuple(maps)
        self._blocks: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}

    def apply(self, images: Tensor, group: int = 0, first_row: int = 0) -> Tensor:
        """Map the images, ``(n, d)``; not normalised."""
        return images @ self.maps[group].to(images).T

    def scores(self, images: Tensor, text: Sequence[Tensor], first_row: int = 0) -> Tensor:
        """Cosines ``(n, Q)``: one product for all groups, and chunk by chunk the norms ‖Wx‖ of each map."""
        n_maps, owner = len(distinct_objects(self.maps)), owners(self.maps, text)
        blocks = self._blocks_like(images)
        pairs = zip(self.maps, text, strict=True)
        directions = torch.cat([unit(t.to(images)) @ w.to(images) for w, t in pairs]).T
        cosines = images.new_empty(len(images), directions.shape[1])
        for rows in chunks(len(images)):
            x = images[rows]
            squared = x.new_zeros(len(x), n_maps)
            for block in blocks:
                mapped = (x[:, -len(block) :] @ block).square_()
                squared += mapped.view(len(x), n_maps, -1).sum(dim=2)
            norms = squared.sqrt().clamp(min=_SMALLEST_NORM)
            cosines[rows] = (x @ directions) / norms[:, owner]
        return cosines

    def _blocks_like(self, images: Tensor) -> list[Tensor]:
        """Blocks in the images' dtype and on their device; made once for all calls."""
        kind = images.dtype, images.device
        if kind not in self._blocks:
            self._blocks[kind] = [block.to(images) for block in self._triangular_blocks]
        return self._blocks[kind]

    @cached_property
    def _triangular_blocks(self) -> list[Tensor]:
        """Factors R of the distinct maps, cut into blocks of rows, those of all maps side by side; float64.

        Blocks ``(d − start, maps · width)`` are transposed and lack the columns before `start`, where R is 0:
        the last coordinates of x times a block give `width` coordinates of Rx for every map.
        """
        maps = [w.to(torch.float64) for w in distinct_objects(self.maps)]
        factors = torch.stack([torch.linalg.qr(w, mode="r").R for w in maps])  # (maps, d, d)
        return [
            factors[:, start : start + _BLOCK, start:].flatten(0, 1).T.contiguous()
            for start in range(0, factors.shape[-1], _BLOCK)
        ]


class AffineTransform(ImageTransform):
    """One affine map of low rank for all groups: ``x′ = x − (x·left)·right + offset``.

    Scores come from ``x·t``, the r columns ``x·left`` and ``‖x′‖²`` by r × r forms; in float64, for the norm
    is a difference of squares.

    Parameters
    ----------
    left : Tensor of shape (d, r), float64
    right : Tensor of shape (r, d), float64
    offset : Tensor of shape (d,), float64
    """

    def __init__(self, left: Tensor, right: Tensor, offset: Tensor) -> None:
        self.left, self.right, self.offset = left, right, offset

    def apply(self, images: Tensor, group: int = 0, first_row: int = 0) -> Tensor:
        """Map the images, ``(n, d)``; not normalised."""
        mapped = images.new_empty(images.shape)
        for rows in chunks(len(images)):
            x = images[rows].to(torch.float64)
            mapped[rows] = (x - (x @ self.left) @ self.right + self.offset).to(images.dtype)
        return mapped

    def scores(self, images: Tensor, text: Sequence[Tensor], first_row: int = 0) -> Tensor:
        """Cosines ``(n, Q)`` from one thin product of the images."""
        t = unit(torch.cat(list(text)).to(torch.float64))
        directions, constants = t - (t @ self.right.T) @ self.left.T, t @ self.offset
        columns = torch.cat([directions, self.left.T, self.right, self.offset[None]]).T.contiguous()
        r = len(self.right)
        cosines = images.new_empty(len(images), len(t))
        for rows in chunks(len(images)):
            x = images[rows].to(torch.float64)
            dots, removed, along, shift = (x @ columns).split([len(t), r, r, 1], dim=1)
            squared = x.square().sum(dim=1) + self._added(removed, along, shift[:, 0])
            norms = squared.clamp_(min=_SMALLEST_NORM**2).sqrt_()
            cosines[rows] = ((dots + constants) / norms[:, None]).to(images.dtype)
        return cosines

    def _added(self, removed: Tensor, along: Tensor, shift: Tensor) -> Tensor:
        """``‖x′‖² − ‖x‖²`` from ``x·left``, ``x·rightᵀ`` and ``x·offset``."""
        gram, cross = self.right @ self.right.T, self.right @ self.offset
        inner = (removed @ gram - 2 * along - 2 * cross) * removed
        return inner.sum(dim=1) + 2 * shift + self.offset.square().sum()


class CoordinateTransform(ImageTransform):
    """Some coordinates stay, the others become a constant; the same for all groups.

    Parameters
    ----------
    kept : Tensor of shape (d,), bool
        Which coordinates stay, bit for bit.
    constant : Tensor of shape (d,)
        What the others become.
    renormalize : bool
        Whether scores are cosines. Otherwise they are plain products with the debiased queries, whose
        lengths then count.
    """

    def __init__(self, kept: Tensor, constant: Tensor, *, renormalize: bool = True) -> None:
        self.kept, self.constant, self.renormalize = kept, constant, renormalize

    def apply(self, images: Tensor, group: int = 0, first_row: int = 0) -> Tensor:
        """Replace coordinates, ``(n, d)``; not normalised."""
        return torch.where(self.kept, images, self.constant.to(images))

    def scores(self, images: Tensor, text: Sequence[Tensor], first_row: int = 0) -> Tensor:
        """Cosines (or products) ``(n, Q)`` from one product of the images."""
        t = torch.cat(list(text)).to(images)
        t = unit(t) if self.renormalize else t
        constant = torch.where(self.kept, 0, self.constant).to(images)
        products = images @ torch.where(self.kept, t, 0).T + t @ constant
        if not self.renormalize:
            return products
        for rows in chunks(len(images)):
            length = torch.linalg.vector_norm(torch.where(self.kept, images[rows], constant), dim=1)
            products[rows] /= length.clamp_(min=_SMALLEST_NORM)[:, None]
        return products


def distinct_objects(items: Sequence[T]) -> list[T]:
    """Return each object once, in the order of its first place; tensors count by identity."""
    return list({id(item): item for item in items}.values())


def owners(items: Sequence[object], text: Sequence[Tensor]) -> Tensor:
    """For each query, the position of its group's object among the distinct ones."""
    position = {id(item): i for i, item in enumerate(distinct_objects(items))}
    owner = [position[id(item)] for item, queries in zip(items, text, strict=True) for _ in queries]
    return torch.tensor(owner, device=text[0].device)
