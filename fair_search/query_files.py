"""Queries from files: a text file, a column of a table, or embeddings.

Symbols: Q queries, n rows, d embedding dimension.
"""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from bias_evaluation.datasets.metadata import repeated
from safe_io.arrays import finite_rows, read_matrix
from safe_io.documents import choices
from safe_io.errors import InputError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_queries(path: Path, column: str | None = None) -> list[str] | np.ndarray:
    """Read queries, one a row.

    Parameters
    ----------
    path : pathlib.Path
        ``.txt``: one query a line; ``.csv``, ``.tsv``, ``.feather``: a column of a table; ``.npy``,
        ``.safetensors``: raw text embeddings.
    column : str, optional
        Which column; needed for a table that has several, and only there.

    Returns
    -------
    list of str, or ndarray of shape (Q, d), float32

    Raises
    ------
    InputError
        The file is missing, empty or of another kind, a query is blank, or an embedding is not usable.
    """
    suffix = path.suffix.lower()
    if column is not None and suffix not in {*_SEPARATORS, ".feather"}:
        raise InputError(f"--column is for tables (.csv, .tsv, .feather), but the queries are in {path}")
    if suffix in (".npy", ".safetensors"):
        return finite_rows(read_matrix(path, "query embeddings"), path).numpy()
    if suffix == ".txt":
        return _checked(_lines(path), path, "line", 1)
    if suffix in {*_SEPARATORS, ".feather"}:
        table = read_table(path, "queries")
        return _checked(_column(table, column, path).map(str, na_action="ignore").tolist(), path, "row", 1)
    raise InputError(
        f"{path}: queries are read from .txt, .csv, .tsv, .feather, .npy or .safetensors, not '{path.suffix}'"
    )


def _checked(queries: list[str], path: Path, unit: str, first: int) -> list[str]:
    """Raise where there is no query or one is blank; rows of the result must be those of the file."""
    if not queries:
        raise InputError(f"{path} holds no query")
    blank = [i for i, query in enumerate(queries) if not isinstance(query, str) or not query.strip()]
    if blank:
        raise InputError(
            f"{path}: {len(blank)} of {len(queries)} queries are blank, the first in {unit} "
            f"{blank[0] + first}; every row needs text, since rows of the result are those of the file"
        )
    return [query.strip() for query in queries]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"queries not found: {path}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"queries are not UTF-8 text: {path}: {error}") from None
    return text.rstrip().split("\n") if text.strip() else []


def read_table(path: Path, what: str) -> pd.DataFrame:
    """Read a ``.csv``, ``.tsv`` or ``.feather`` table; cells of a text table are text, empty ones missing.

    Raises
    ------
    InputError
        The file is missing, or is no table.
    """
    if not path.is_file():
        raise InputError(f"{what} not found: {path}")
    suffix = path.suffix.lower()
    try:
        if suffix == ".feather":
            table = pd.read_feather(path)
            if twice := repeated(list(table.columns)):
                raise InputError(f"{path} has the column '{twice}' twice; keep one of them")
            return table
        separator = _SEPARATORS.get(suffix, ",")
        options = {"dtype": str, "keep_default_na": False, "na_values": [""], "skip_blank_lines": False}
        with warnings.catch_warnings():
            # rows with more fields than the header: pandas takes the first for an index, or drops the last
            warnings.simplefilter("error", pd.errors.ParserWarning)
            text = path.read_text(encoding="utf-8-sig").rstrip("\r\n ")  # blank lines at the end are no rows
            if twice := repeated(next(csv.reader(text.splitlines()[:1], delimiter=separator), [])):
                raise InputError(
                    f"{path} has the column '{twice}' twice; keep one of them"
                )  # pandas renames it
            return pd.read_csv(io.StringIO(text), sep=separator, index_col=False, **options)
    except InputError:
        raise
    except pd.errors.ParserWarning:
        raise InputError(
            f"{what} cannot be read as a table: {path}: rows have more fields than the header; put quotes "
            f"around texts that hold '{separator}'"
        ) from None
    except Exception as error:  # pandas and pyarrow raise many kinds for damaged files
        raise InputError(f"{what} cannot be read as a table: {path}: {str(error).strip()}") from None


def _column(table: pd.DataFrame, column: str | None, path: Path) -> pd.Series:
    names = list(table.columns)
    if column is None and len(names) != 1:
        raise InputError(
            f"{path} has several columns; say with --column which holds the queries: {choices(names)}"
        )
    return take_column(table, names[0] if column is None else column, path)


def take_column(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """Take a column of a table; `InputError` where it has none of that name."""
    if column not in table.columns:
        raise InputError(f"{path} lacks the column '{column}'; it has: {choices(list(table.columns))}")
    return table[column]
