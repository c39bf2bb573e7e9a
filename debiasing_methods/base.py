"""The contract of all debiasing methods: embeddings in, embeddings out.

Symbols: N images, n some of them, d embedding dimension, Q queries of a group, F folds. Vectors are rows.
"raw" means as the text tower returns them, not normalised; "unit" means of length 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from debiasing_methods.linalg import unit

# Every kind of prompt that a method may declare in `needs`, beside the queries themselves.
PROMPT_KINDS = (
    "spurious",
    "candidates",
    "augmentations",
    "harmful",
    "helpful",
    "paraphrases",
    "bias_prompts",
    "attribute_prompts",
    "diverse",
)

# Every kind of trained weights, and the keyword of a constructor that takes it.
WEIGHT_KINDS = {"sae": "sae", "prism": "maps", "zsdebias": "vae"}


@dataclass(frozen=True, eq=False)
class QueryGroup:
    """Raw text embeddings of the queries that are debiased together, with the prompts a method declared.

    A retrieval query is a group of its own; the classes of a zero-shot classification are one group. Groups
    that share prompts should share the very tensors: methods then do the work of those prompts once.

    Attributes
    ----------
    queries : Tensor of shape (Q, d)
        The prompts to debias.
    name : str
        The query class, or the setting in a classification; names the group's trained weights, if any.
    spurious : Tensor of shape (m, d) or None
        Prompts that name the bias classes and nothing of the query.
    candidates : Tensor of shape (c, d) or None
        Queries written with the bias classes (orth-cali), query by query.
    candidate_pairs : LongTensor of shape (p, 2) or None
        Candidates that should coincide; without them all pairs of one query's candidates.
    augmentations : Tensor of shape (a, d) or None
        Queries written with the bias classes (bendvlm, cfd), query by query, class by class; equally many per
        query.
    harmful, helpful : Tensor of shape (pairs, 2, d) or None
        Pairs whose differences an image should lose, or keep (roboshot).
    paraphrases : tuple of Tensor of shape (n_q, d)
        For each query, other wordings of it.
    bias_prompts : tuple of Tensor of shape (n_c, d)
        For each bias class, prompts that describe it.
    attribute_prompts : tuple of Tensor of shape (q, v, d)
        For each bias class, v wordings of each of q queries written with it: those of a whole setting, the
        same tensors in every group, for methods whose basis the groups share (cfd). The group's own
        augmentations have wordings of the classes in the same proportion.
    concepts : Tensor of shape (Q, d) or None
        For each query, the sentence that says what its concept is, where that is not the query itself (sem-b
        in the qualitative study: the same sentence without the bias value).
    """

    queries: Tensor
    name: str = ""
    spurious: Tensor | None = None
    candidates: Tensor | None = None
    candidate_pairs: Tensor | None = None
    augmentations: Tensor | None = None
    harmful: Tensor | None = None
    helpful: Tensor | None = None
    paraphrases: tuple[Tensor, ...] = ()
    bias_prompts: tuple[Tensor, ...] = ()
    attribute_prompts: tuple[Tensor, ...] = ()
    concepts: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that the matrices go together."""
        if self.queries.ndim != 2 or self.queries.shape[0] == 0:
            raise ValueError(f"queries must be a (Q, d) matrix with Q >= 1, got {tuple(self.queries.shape)}")
        for kind in fields(self):
            for prompts in _tensors(getattr(self, kind.name)):
                if kind.name != "candidate_pairs" and prompts.shape[-1] != self.queries.shape[1]:
                    raise ValueError(
                        f"{kind.name} have width {prompts.shape[-1]}, but the queries have width "
                        f"{self.queries.shape[1]}"
                    )
        if self.paraphrases and len(self.paraphrases) != len(self.queries):
            raise ValueError(f"{len(self.paraphrases)} lists of paraphrases for {len(self.queries)} queries")
        if self.concepts is not None and len(self.concepts) != len(self.queries):
            raise ValueError(f"{len(self.concepts)} concept sentences for {len(self.queries)} queries")


def _tensors(value: object) -> tuple[Tensor, ...]:
    if isinstance(value, Tensor):
        return (value,)
    return value if isinstance(value, tuple) else ()


@dataclass(frozen=True, eq=False)
class ReferenceImages:
    """Labelled images that some methods need beside text: the reference part of every fold.

    Attributes
    ----------
    images : Tensor of shape (N, d)
        All images as stored, of any length and floating dtype: methods take them as unit, but for clip-clip.
    labels : LongTensor of shape (N,)
        Code of each image's bias class, an index into `classes`; −1 where it is not known.
    classes : tuple of str
        Names of the bias classes.
    folds : LongTensor of shape (F, n)
        Rows of `images` that form the reference part of each fold.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    folds: Tensor


class ImageTransform(ABC):
    """What a method does to images, one transform for each query group it was made for.

    Scores belong here, so that a low-rank or linear transform need not materialise n debiased images for
    each of 25 queries.

    Rows do not depend on each other, so any split of the images into chunks gives the same values. A
    transform that draws noise keeps that promise by drawing as a function of the row's position: a caller
    that hands over chunks says in `first_row` where a chunk starts.
    """

    @abstractmethod
    def apply(self, images: Tensor, group: int = 0, first_row: int = 0) -> Tensor:
        """Transform images for one group.

        Parameters
        ----------
        images : Tensor of shape (n, d)
            What the method's `prepare_images` gave, or rows of it; not changed.
        group : int
            Which of the query groups that the transform was made for.
        first_row : int
            Position of the first row among all rows that are transformed; it matters to noise alone.

        Returns
        -------
        Tensor of shape (n, d)
            Debiased images, not normalised unless the method's definition normalises.
        """

    def scores(self, images: Tensor, text: Sequence[Tensor], first_row: int = 0) -> Tensor:
        """Cosine between each transformed image and each debiased query.

        Parameters
        ----------
        images : Tensor of shape (n, d)
            As for `apply`.
        text : sequence of Tensor of shape (Q_g, d)
            Debiased queries, one matrix a group, in the order of the groups.
        first_row : int
            As for `apply`.

        Returns
        -------
        Tensor of shape (n, Q_1 + Q_2 + …)
        """
        columns = [unit(self.apply(images, g, first_row)) @ unit(queries).T for g, queries in enumerate(text)]
        return torch.cat(columns, dim=1)


class IdentityTransform(ImageTransform):
    """Images as they are: of unit images the scores are one matrix product for all groups."""

    def apply(self, images: Tensor, group: int = 0, first_row: int = 0) -> Tensor:
        """Return the images themselves."""
        return images

    def scores(self, images: Tensor, text: Sequence[Tensor], first_row: int = 0) -> Tensor:
        """Cosines of unit images with the queries of all groups."""
        return images @ unit(torch.cat(list(text))).T


class DebiasingMethod(ABC):
    """A post-hoc debiasing method.

    The contract, tested for every method of the registry: inputs are never changed; outputs have the
    queries' shape, dtype and device and are finite; the same inputs give the same outputs; a list of groups
    gives what each group gives alone.

    Attributes
    ----------
    name : str
        The result name: in configs, file names and on the command line; lower-case letters, digits and '-'.
    display_name : str
        Name in tables and figures.
    group : str
        What the method needs beside the query, a key of `registry.GROUPS`: the group of table rows it is in.
    needs : frozenset of str
        Kinds of prompts (`PROMPT_KINDS`) that the method's groups must hold.
    weights : str or None
        Kind of trained weights that the constructor takes, one of `WEIGHT_KINDS`.
    changes_text, changes_images : bool
        Which side of the cosine the method works on.
    needs_reference : bool
        Whether `debias_text` needs labelled reference images; its result then has a leading fold axis.
    fits_images : bool
        Whether the image transform is fitted on labelled reference images: one for each fold, the same for
        every query.
    normalize : bool
        Whether images are made unit before they are given to the method.
    random_images : bool
        Whether the image transform draws noise: a draw belongs to a fold.
    seeded : bool
        Whether there is one result for each of several seeds. A constructor's keyword `seed` is given it.
    """

    name: ClassVar[str]
    display_name: ClassVar[str]
    group: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    weights: ClassVar[str | None] = None
    changes_text: ClassVar[bool] = False
    changes_images: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    fits_images: ClassVar[bool] = False
    normalize: ClassVar[bool] = True
    random_images: ClassVar[bool] = False
    seeded: ClassVar[bool] = False

    @classmethod
    def takes_labelled_images(cls) -> bool:
        """Whether the method needs labelled reference images, for text or for images."""
        return cls.needs_reference or cls.fits_images

    @classmethod
    def needs_with(cls, options: Mapping[str, object]) -> frozenset[str]:
        """Kinds of prompts that the method needs with some options: `needs`, and what an option adds."""
        return cls.needs

    @abstractmethod
    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Debias the queries of each group.

        Parameters
        ----------
        groups : sequence of QueryGroup
            Raw text embeddings.
        reference : ReferenceImages, optional
            Needed, and used, only where `needs_reference` is true.

        Returns
        -------
        list of Tensor
            For each group the debiased queries, ``(Q, d)``; ``(F, Q, d)``, one for each fold of `reference`,
            where `needs_reference` is true. Raw or unit as the method defines; scoring normalises.

        Raises
        ------
        ValueError
            A group lacks a kind of prompt that the method needs, or `reference` is needed and missing.
        """

    def prepare_images(self, images: Tensor) -> Tensor:
        """Do the part of the image transform that neither queries nor folds change (here: nothing).

        Parameters
        ----------
        images : Tensor of shape (n, d)
            Unit rows where `normalize` is true, else as stored.

        Returns
        -------
        Tensor of shape (n, …)
            What the image transform takes.
        """
        return images

    def image_transform(
        self, groups: Sequence[QueryGroup], fold: int = 0, reference: ReferenceImages | None = None
    ) -> ImageTransform:
        """Make the image transform of each group (here: the identity).

        Parameters
        ----------
        groups : sequence of QueryGroup
            Raw text embeddings.
        fold : int
            Which fold's noise to draw, where `random_images` is true; which fold's reference images to fit,
            where `fits_images` is.
        reference : ReferenceImages, optional
            Needed, and used, only where `fits_images` is true.

        Raises
        ------
        ValueError
            `reference` is needed and missing, or cannot be fitted.
        """
        return IdentityTransform()

    def check(self, groups: Sequence[QueryGroup]) -> None:
        """Raise `ValueError` where a group lacks a kind of prompt that this method needs."""
        for group in groups:
            for kind in sorted(self.needs - {"diverse"}):
                prompts = getattr(group, kind)
                if prompts is None or len(prompts) == 0:
                    where = f" of '{group.name}'" if group.name else ""
                    what = kind.replace("_", " ")
                    raise ValueError(f"{self.name} needs {what}, but the query group{where} has none")


class Vanilla(DebiasingMethod):
    """CLIP as it is (Radford et al. 2021): raw text, images as stored."""

    name = "vanilla"
    display_name = "Base CLIP"
    group = "base"

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Return copies of the queries."""
        return [group.queries.clone() for group in groups]
