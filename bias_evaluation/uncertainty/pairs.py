"""Image–text pairs on disk: a table of captions, or a folder of images with their texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from safe_io.documents import choices
from safe_io.errors import InputError

COLUMNS = ("file_path", "caption")
TABLE = "captions.csv"
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_pairs(source: Path) -> tuple[Path, pd.DataFrame]:
    """List image–text pairs.

    Parameters
    ----------
    source : pathlib.Path
        A ``.csv`` table with the columns `file_path` (relative to the table's folder) and `caption`; or a
        folder that holds ``captions.csv``, or images with a ``.txt`` file of the same name beside each, as
        img2dataset writes them.

    Returns
    -------
    folder : pathlib.Path
        What the paths are relative to.
    pairs : pandas.DataFrame
        Columns `file_path` and `caption`; at least one row, no empty caption.

    Raises
    ------
    InputError
        There are no pairs, a column is missing, a caption is empty, or a text is not UTF-8.
    """
    if not source.exists():
        raise InputError(f"--pairs {source}: not found; give a table of captions, or a folder of images")
    if source.is_dir() and not (source / TABLE).is_file():
        return source, _checked(_beside_each_other(source), source)
    table = source / TABLE if source.is_dir() else source
    try:
        pairs = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{table} cannot be read as a CSV table: {error}") from None
    for column in COLUMNS:
        if column not in pairs:
            raise InputError(
                f"{table} lacks the column '{column}'; it needs {choices(COLUMNS)} and has "
                f"{choices(list(pairs.columns))}"
            )
    return table.parent, _checked(pairs[list(COLUMNS)], table)


def _beside_each_other(folder: Path) -> pd.DataFrame:
    """Pair images and ``.txt`` files of one name, in the order of the names."""
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES)
    found = [(path, path.with_suffix(".txt")) for path in images if path.with_suffix(".txt").is_file()]
    rows = [(path.relative_to(folder).as_posix(), _text(text)) for path, text in found]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8; remove it, or save it in UTF-8") from None


def _checked(pairs: pd.DataFrame, where: Path) -> pd.DataFrame:
    if pairs.empty:
        raise InputError(
            f"{where} holds no pairs; give a table with the columns {choices(COLUMNS)}, or images with a "
            f".txt file of the same name beside each"
        )
    for column in COLUMNS:
        empty = np.flatnonzero(pairs[column].str.strip() == "")
        if len(empty):
            raise InputError(
                f"{where}: {len(empty)} of {len(pairs)} pairs have an empty {column}, the first: pair "
                f"{empty[0] + 1}; leave them out"
            )
    return pairs


def sample_pairs(pairs: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Draw n pairs without replacement, or all if there are fewer, in random order; the index is new."""
    order = np.random.default_rng(seed).permutation(len(pairs))[:n]
    return pairs.iloc[order].reset_index(drop=True)
