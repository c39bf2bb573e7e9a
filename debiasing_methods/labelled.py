"""What the methods share that are fitted on labelled reference images.

Symbols: n reference images of a fold, d embedding dimension, C bias classes.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages
from debiasing_methods.linalg import unit

_FEWEST = 2  # images of a class that anything can be fitted on

T = TypeVar("T")


class UnlabelledImagesWarning(UserWarning):
    """Reference images without a label are left out; the message counts them."""


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """The labelled reference images of one fold.

    Attributes
    ----------
    images : Tensor of shape (n, d)
        As stored, neither unit nor of a certain dtype.
    labels : LongTensor of shape (n,)
        Codes of the bias classes, 0 to C − 1.
    classes : tuple of str
        Names of the C bias classes.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def unit(self) -> Tensor:
        """Return the images as unit rows, ``(n, d)``, float64."""
        return unit(self.images.to(torch.float64))


def labelled_rows(reference: ReferenceImages | None, fold: int, method: str) -> LabelledRows:
    """Take the reference part of a fold, without the images that have no label (code −1).

    Parameters
    ----------
    reference : ReferenceImages or None
    fold : int
    method : str
        Name of the method, for error lines.

    Raises
    ------
    ValueError
        `reference` is None, there is one bias class only, or a class has fewer than two images.

    Warns
    -----
    UnlabelledImagesWarning
        Images have no label; the warning counts them.
    """
    if reference is None:
        raise ValueError(f"{method} needs labelled reference images")
    classes = reference.classes
    if len(classes) < 2:
        raise ValueError(f"{method} needs at least two bias classes, found only {', '.join(classes)}")
    rows = reference.folds[fold]
    labels = reference.labels[rows]
    known = labels >= 0
    if not bool(known.all()):
        warnings.warn(
            f"{int((~known).sum())} of {len(rows)} reference images of fold {fold} have no label and are "
            f"left out",
            UnlabelledImagesWarning,
            stacklevel=2,
        )
        rows, labels = rows[known], labels[known]
    sizes = torch.bincount(labels, minlength=len(classes)).tolist()
    for name, size in zip(classes, sizes, strict=True):
        if size < _FEWEST:
            raise ValueError(
                f"{method} needs at least {_FEWEST} reference images of every bias class, but the reference "
                f"part of fold {fold} has {size} of '{name}': check labels and folds, or leave the method out"
            )
    return LabelledRows(reference.images[rows], labels, classes)


def bias_prompt_rows(group: QueryGroup, method: str) -> tuple[Tensor, Tensor]:
    """Take all bias prompts of a group, raw ``(n, d)``, and the codes of their classes ``(n,)``.

    Raises
    ------
    ValueError
        There is one class only, or a class has fewer than two prompts.
    """
    sizes = [len(prompts) for prompts in group.bias_prompts]
    if len(sizes) < 2 or min(sizes) < _FEWEST:
        raise ValueError(
            f"{method} needs at least two bias classes with at least {_FEWEST} bias prompts each, found "
            f"{', '.join(map(str, sizes))}"
        )
    prompts = torch.cat(group.bias_prompts)
    return prompts, torch.arange(len(sizes), device=prompts.device).repeat_interleave(
        torch.tensor(sizes, device=prompts.device)
    )


class FoldFits:
    """Values that are made once for each reference object and key; they go with the reference object."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[ReferenceImages, dict[Hashable, Any]] = WeakKeyDictionary()

    def get(self, reference: ReferenceImages | None, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, such as a fold; made when it is first asked for."""
        if reference is None:
            return make()
        made = self._made.setdefault(reference, {})
        if key not in made:
            made[key] = make()
        return made[key]


class LabelledImageMethod(DebiasingMethod):
    """A method that fits one image transform per fold on labelled images; text stays as it is.

    The fit does not see the queries, so it is made once for each reference object and fold.
    """

    group = "image-labels"
    changes_images = True
    fits_images = True

    def __init__(self) -> None:
        self._fits = FoldFits()

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Return copies of the queries."""
        return [group.queries.clone() for group in groups]

    def image_transform(
        self, groups: Sequence[QueryGroup], fold: int = 0, reference: ReferenceImages | None = None
    ) -> ImageTransform:
        """Return the transform of a fold; the same object serves all groups and is made once.

        Raises
        ------
        ValueError
            As for `labelled_rows`, or the images cannot be fitted.
        """
        return self._fits.get(
            reference, fold, lambda: self._fit(labelled_rows(reference, fold, self.name), reference, fold)
        )

    @abstractmethod
    def _fit(self, rows: LabelledRows, reference: ReferenceImages, fold: int) -> ImageTransform:
        """Fit the transform on the labelled images of a fold."""
