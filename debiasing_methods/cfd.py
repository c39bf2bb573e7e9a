"""CFD: the closed-form compromise between a vector's attribute part and the rest, on both sides.

Symbols: n images, d embedding dimension, Q queries of a group, C bias classes, r rank of the attribute basis;
e a unit image or query (a row), A (r, d) orthonormal rows, ``e∥ = eAᵀA``, ``e⊥ = e − e∥``, ``a = ‖e∥‖``,
``b = ‖e⊥‖``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages
from debiasing_methods.chunks import chunks
from debiasing_methods.linalg import span_basis, unit
from debiasing_methods.transforms import distinct_objects, once_per_prompts, owners

BASES = ("query", "shared")
VARIANTS = ("none", "bias_prompts")
N_VARIANTS = 3  # bias prompts of a class that the option `variants` adds
_RANK_TOLERANCE = 1e-6  # times max(d, C − 1), as a share of the largest singular value
_SMALLEST_PART = 1e-12


class Cfd(DebiasingMethod):
    """CFD: closed-form debiasing of queries and images.

    Source: Lian et al. 2026, arXiv:2603.12998; from the equations.

    Parameters
    ----------
    basis : {'query', 'shared'}
        Whose prompts span the attribute subspace: the group's own (in a classification the mean over its
        classes, so that all classes score the same image vector); or those of the whole setting, so that a
        query's result depends on the other queries. The paper describes the first, the published retrieval
        and classification do the second. [?]
    variants : {'none', 'bias_prompts'}
        Other wordings of each class: none, since the paper's are not published; or the class's first three
        bias prompts, which is ours and not the paper's.

    Notes
    -----
    1. Prototype of a class: ``p_g = n(mean of n(texts written with g))``; A spans the differences
       ``p_g − p_1``.
    2. ``u = √(1 − α²) e⊥/b + α e∥/a`` with ``α = aρ``, ``ρ = (c − b√(c² − 1)) / (a²c² + b²)``,
       ``c = (2 + b)/(1 + b)``: the α that minimizes ``max(α/a, (1 − u·e)/(1 − b))``. Where a or b is below
       1e-12, e is left as it is.

    ρ lies between 0.382 and 0.5: each side keeps 38 to 50 % of its attribute part. It is a compromise, not
    an erasure.

    Differs from the published code: α in a form without the difference ``1 − b``, which float32 loses (2 %
    at a = 1e-3); the basis of the query is the default.
    """

    name = "cfd"
    display_name = "CFD"
    group = "both-prompts"
    needs = frozenset({"augmentations", "attribute_prompts"})
    changes_text = True
    changes_images = True

    def __init__(self, *, basis: str = "query", variants: str = "none") -> None:
        for option, value, allowed in (("basis", basis, BASES), ("variants", variants, VARIANTS)):
            if value not in allowed:
                raise ValueError(f"{option} must be one of {', '.join(allowed)}, got '{value}'")
        self.basis, self.variants = basis, variants
        self.needs = self.needs_with({"variants": variants})

    @classmethod
    def needs_with(cls, options: Mapping[str, object]) -> frozenset[str]:
        """Bias prompts too, where they are the variants."""
        return cls.needs | ({"bias_prompts"} if options.get("variants") == "bias_prompts" else set())

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Compromise between the parts of each unit query; ``(Q, d)``, unit rows.

        Raises
        ------
        ValueError
            Prompts are missing, there is one bias class only, or the prompts of a class cancel.
        """
        pairs = zip(groups, self._bases(groups), strict=True)
        return [compromise(group.queries, basis).to(group.queries.dtype) for group, basis in pairs]

    def image_transform(
        self, groups: Sequence[QueryGroup], fold: int = 0, reference: ReferenceImages | None = None
    ) -> ImageTransform:
        """Make the transform of each group; groups with the same prompts share it."""
        return CompromiseTransform(self._bases(groups))

    def _bases(self, groups: Sequence[QueryGroup]) -> list[Tensor]:
        self.check(groups)
        return once_per_prompts(groups, self._sources, lambda group: attribute_basis(self._by_class(group)))

    def _sources(self, group: QueryGroup) -> tuple[Tensor, ...]:
        own = group.attribute_prompts if self.basis == "shared" else (group.augmentations,)
        return (*own, *group.bias_prompts) if self.variants == "bias_prompts" else own

    def _by_class(self, group: QueryGroup) -> list[Tensor]:
        """Wordings of each bias class, ``(q, v, d)``."""
        shared = self.basis == "shared"
        found = list(group.attribute_prompts) if shared else self._own_by_class(group)
        if self.variants == "none":
            return found
        if len(group.bias_prompts) != len(found):
            raise ValueError(
                f"{self.name}: bias prompts are of {len(group.bias_prompts)} classes, but the queries are "
                f"written with {len(found)}"
            )
        more = [prompts[:N_VARIANTS] for prompts in group.bias_prompts]
        return [torch.cat([a, b.expand(len(a), *b.shape)], dim=1) for a, b in zip(found, more, strict=True)]

    def _own_by_class(self, group: QueryGroup) -> list[Tensor]:
        """Take the augmentations of each class: they are listed query by query, class by class."""
        sizes = [wordings.shape[1] for wordings in group.attribute_prompts]
        q, rows = len(group.queries), group.augmentations
        if len(rows) % (sum(sizes) * q):
            where = f" of '{group.name}'" if group.name else ""
            raise ValueError(
                f"{self.name} needs each query{where} written with each of {len(sizes)} bias classes, but "
                f"there are {len(rows)} augmentations of {q} queries"
            )
        templates = len(rows) // (sum(sizes) * q)
        return list(rows.view(q, -1, rows.shape[1]).split([templates * n for n in sizes], dim=1))


def attribute_basis(wordings: Sequence[Tensor]) -> Tensor:
    """Return an orthonormal basis of the differences between the classes' prototypes.

    Parameters
    ----------
    wordings : sequence of Tensor of shape (q, v, d)
        For each bias class, v wordings of each of q queries written with it; of any length.

    Returns
    -------
    Tensor of shape (r, d), float64
        Orthonormal rows, r ≤ C − 1; none where all prototypes are equal.

    Raises
    ------
    ValueError
        There is one class only, or the wordings of a class have a mean of zero.
    """
    if len(wordings) < 2:
        raise ValueError(f"cfd needs at least two bias classes, found {len(wordings)}")
    prototypes = torch.stack([_prototype(each, code) for code, each in enumerate(wordings)])
    differences = prototypes[1:] - prototypes[:1]
    if float(differences.abs().max()) < _SMALLEST_PART:
        return differences[:0]
    return span_basis(differences, _RANK_TOLERANCE * max(prototypes.shape[1], len(differences)))


def _prototype(wordings: Tensor, code: int) -> Tensor:
    """Prototype ``(d,)`` of a class: the mean over its wordings and then over queries, unit each time."""
    mean = unit(unit(wordings.to(torch.float64)).mean(dim=1)).mean(dim=0)
    if float(mean.norm()) < _SMALLEST_PART:
        raise ValueError(
            f"cfd: the prompts of bias class {code + 1} have a mean of zero; change their wording"
        )
    return unit(mean)


def compromise(e: Tensor, basis: Tensor) -> Tensor:
    """Return u for each row, which is taken as unit.

    Parameters
    ----------
    e : Tensor of shape (n, d)
    basis : Tensor of shape (r, d), float64
        A.

    Returns
    -------
    Tensor of shape (n, d), float64
        Unit rows.
    """
    e = unit(e.to(torch.float64))
    along = (e @ basis.T) @ basis
    across = e - along
    a, b = (torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in (along, across))
    sigma, rho = _weights(a, b)
    return sigma * across + rho * along


def _weights(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Factors σ of e⊥ and ρ of e∥; 1 and 1 where a part is missing."""
    c = (2 + b) / (1 + b)
    rho = (c - b * (c**2 - 1).sqrt()) / (a**2 * c**2 + b**2)
    sigma = (1 - (a * rho) ** 2).clamp(min=0).sqrt() / b.clamp(min=_SMALLEST_PART)
    whole = (a < _SMALLEST_PART) | (b < _SMALLEST_PART)
    return torch.where(whole, 1, sigma), torch.where(whole, 1, rho)


class CompromiseTransform(ImageTransform):
    """CFD of images, scored from thin products: ``u·t = σ(e·t) + (ρ − σ)(eAᵀ)·(tAᵀ)``, ``‖u‖ = 1``.

    Parameters
    ----------
    bases : sequence of Tensor of shape (r, d), float64
        A of each group; groups that share a basis should share the tensor.
    """

    def __init__(self, bases: Sequence[Tensor]) -> None:
        self.bases = tuple(bases)

    def apply(self, images: Tensor, group: int = 0, first_row: int = 0) -> Tensor:
        """Debias the images, ``(n, d)``, unit rows."""
        result = images.new_empty(images.shape)
        for rows in chunks(len(images)):
            result[rows] = compromise(images[rows], self.bases[group]).to(images.dtype)
        return result

    def scores(self, images: Tensor, text: Sequence[Tensor], first_row: int = 0) -> Tensor:
        """Cosines ``(n, Q)`` from one thin product of the images for all groups."""
        t = [unit(queries.to(torch.float64)) for queries in text]
        bases = distinct_objects(self.bases)
        owner = owners(self.bases, text)
        shares = self._text_shares(t, bases)
        columns = torch.cat([*t, *bases]).T.contiguous()
        cosines = images.new_empty(len(images), len(owner))
        sizes = [len(basis) for basis in bases]
        for rows in chunks(len(images)):
            e = unit(images[rows].to(torch.float64))
            dots, along = (e @ columns).split([len(owner), sum(sizes)], dim=1)
            a = torch.stack([part.norm(dim=1) for part in along.split(sizes, dim=1)], dim=1)
            sigma, rho = (w[:, owner] for w in _weights(a, (1 - a**2).clamp(min=0).sqrt()))
            cosines[rows] = (sigma * dots + (rho - sigma) * (along @ shares)).to(images.dtype)
        return cosines

    def _text_shares(self, text: Sequence[Tensor], bases: Sequence[Tensor]) -> Tensor:
        """``tAᵀ`` of every query in the rows of its own basis, ``(Σr, Q)``; zero elsewhere."""
        start, place = 0, {}
        for basis in bases:
            place[id(basis)] = slice(start, start + len(basis))
            start += len(basis)
        columns = []
        for queries, basis in zip(text, self.bases, strict=True):
            shares = queries.new_zeros(start, len(queries))
            shares[place[id(basis)]] = basis @ queries.T
            columns.append(shares)
        return torch.cat(columns, dim=1)
