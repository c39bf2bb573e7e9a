"""Labelled images that some methods need beside the queries."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from debiasing_methods.base import ReferenceImages
from safe_io.arrays import finite_rows
from safe_io.documents import choices
from safe_io.errors import InputError


class MissingLabelWarning(UserWarning):
    """Images without a label are left out; the message counts them."""


def reference_images(
    images: np.ndarray | Tensor, labels: ArrayLike, classes: Sequence[str], *, device: str = "cpu"
) -> ReferenceImages:
    """Put labelled images together for the methods that need them.

    Parameters
    ----------
    images : array of shape (N, d)
        Image embeddings, raw or unit, of any floating dtype.
    labels : array-like of shape (N,)
        Bias class of each image; one that is missing (None, NaN, empty) leaves its image out, with a warning.
    classes : sequence of str
        Bias classes; labels are compared with them as text.
    device : str
        Where the images go.

    Returns
    -------
    ReferenceImages
        Images as given, float32, in one fold that holds all that are labelled.

    Raises
    ------
    InputError
        Images and labels are not equally many, a label is no class, or a class has no image.
    """
    labels = pd.Series(np.asarray(labels, dtype=object))
    if len(labels) != len(images):
        raise InputError(f"{len(images)} reference images have {len(labels)} labels; there must be one each")
    codes = label_codes(labels, classes)
    chosen = np.flatnonzero(codes >= 0)
    absent = [name for code, name in enumerate(classes) if not (codes == code).any()]
    if absent:
        raise InputError(
            f"no reference image has the label {choices(absent)}; each of {choices(classes)} needs at least "
            f"one"
        )
    rows = finite_rows(images[chosen], "reference images").to(device)
    codes = torch.from_numpy(codes[chosen]).to(device)
    return ReferenceImages(rows, codes, tuple(classes), torch.arange(len(rows), device=device)[None])


def label_text(label: object) -> str:
    """Write a label as text; a column of whole numbers with gaps is read as 0.0, 1.0."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def label_codes(labels: pd.Series, classes: Sequence[str]) -> np.ndarray:
    """Return the class code of each label, ``(N,)`` int64; -1, with a warning, where it is missing.

    Raises
    ------
    InputError
        A label is no class; the line counts them and names the first.
    """
    text = labels.map(label_text, na_action="ignore")
    missing = (labels.isna() | (text == "")).to_numpy(dtype=bool)
    codes = text.map({name: code for code, name in enumerate(classes)})
    strange = codes.isna().to_numpy(dtype=bool) & ~missing
    if strange.any():
        raise InputError(
            f"{strange.sum()} label(s) are no bias class, the first in row {np.flatnonzero(strange)[0]}: "
            f"'{text[strange].iloc[0]}'; classes: {choices(classes)}"
        )
    if missing.any():
        warnings.warn(
            f"{missing.sum()} of {len(labels)} reference images have no label and are left out",
            MissingLabelWarning,
            stacklevel=3,
        )
    return codes.fillna(-1).to_numpy(dtype=np.int64)
