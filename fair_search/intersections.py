"""Intersections of attributes, such as ``gender*race``, as one column of groups.

Symbols: N images.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fair_search.query_files import take_column
from fair_search.reference import label_text
from safe_io.documents import choices
from safe_io.errors import InputError

SIGN, JOIN = "*", " × "
POOLED = "(other intersections)"


def is_product(attribute: str, metadata: pd.DataFrame) -> bool:
    """Whether a name means the intersections of columns; a column of this very name comes first."""
    return SIGN in attribute and attribute not in metadata


def product_column(
    metadata: pd.DataFrame, attribute: str, path: Path, min_images: int
) -> tuple[pd.Series, list[str]]:
    """Make the column of the intersections of attributes.

    Intersections with fewer than `min_images` images are pooled into one group, `POOLED`. If that group still
    has fewer, it is kept and the warnings about small groups name it.

    Parameters
    ----------
    metadata : pandas.DataFrame
        N rows.
    attribute : str
        Names of columns with ``*`` between them.
    path : pathlib.Path
        Of the metadata, for error lines.
    min_images : int

    Returns
    -------
    column : pandas.Series of shape (N,)
        "Female × Black" …; missing if one of the attributes is.
    notes : list of str
        Which intersections have no image, and which are pooled.

    Raises
    ------
    InputError
        A column does not exist, is named twice, or nothing is between two signs.
    """
    names = [name.strip() for name in attribute.split(SIGN)]
    if "" in names or len(set(names)) < len(names):
        raise InputError(f"--attribute '{attribute}': give different columns with * between, as gender*race")
    parts = [take_column(metadata, name, path).map(label_text, na_action="ignore") for name in names]
    parts = [part.where(part.astype(object).str.strip() != "") for part in parts]
    column = parts[0].astype(object)
    for part in parts[1:]:
        column = column + JOIN + part.astype(object)
    counts = column.value_counts()
    possible = pd.MultiIndex.from_product([sorted(part.dropna().unique()) for part in parts])
    empty = [name for name in map(JOIN.join, possible) if name not in counts.index]
    notes = [f"no image is {choices(empty)}"] if empty else []
    small = sorted(counts[counts < min_images].index)
    if len(small) > 1:
        notes.append(
            f"intersections with fewer than {min_images} images (--min-group) are pooled into '{POOLED}': "
            f"{choices([f'{name} {counts[name]}' for name in small])}"
        )
        column = column.where(~column.isin(small), POOLED)
    return column, notes
