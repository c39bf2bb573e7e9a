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
from safe_io.arrays import finite_rows
from safe_io.documents import choices
from safe_io.errors import InputError
from safe_io.matrix_files import (
    METADATA_PARTS,
    TENSORS,
    part_files,
    plain_columns,
    read_matrix,
    split_column,
)

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
TABLES = (*_SEPARATORS, ".feather", ".parquet")
_NESTED = "nested columns"


def read_queries(path: Path, column: str | None = None) -> list[str] | np.ndarray:
    """Read queries, one a row.

    Parameters
    ----------
    path : pathlib.Path
        ``.txt``: one query a line; ``.csv``, ``.tsv``, ``.feather``, ``.parquet``: a column of a table;
        ``.npy``, ``.safetensors``, ``.pt``, ``FILE.parquet:COLUMN``: raw text embeddings.
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
    if column is not None and suffix not in TABLES:
        raise InputError(f"--column is for tables ({', '.join(TABLES)}), but the queries are in {path}")
    if suffix in TENSORS or split_column(path)[1] is not None:
        return finite_rows(read_matrix(path, "query embeddings"), path).numpy()
    if suffix == ".txt":
        return _checked(_lines(path), path, "line", 1)
    if suffix in TABLES:
        table = read_table(path, "queries")
        return _checked(_column(table, column, path).map(str, na_action="ignore").tolist(), path, "row", 1)
    raise InputError(
        f"{path}: queries are read from .txt, .csv, .tsv, .feather, .parquet, .npy, .safetensors or .pt, not "
        f"'{path.suffix}'"
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
    """Read a table; cells of a text table are text, empty ones missing.

    Parameters
    ----------
    path : pathlib.Path
        ``.csv``, ``.tsv``, ``.feather`` or ``.parquet``; or a folder of Parquet parts, also that of
        clip-retrieval (``metadata/*.parquet``). Columns of lists or structures are left out.
    what : str
        What the table is, for the error line.

    Raises
    ------
    InputError
        The file is missing, or is no table; parts differ in their columns.
    """
    if path.is_dir():
        inner = path / METADATA_PARTS
        return _parquet_table(part_files(inner if inner.is_dir() else path, ".parquet", what), what)
    if not path.is_file():
        raise InputError(f"{what} not found: {path}")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_table([path], what)
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


def _parquet_table(paths: list[Path], what: str) -> pd.DataFrame:
    """Read Parquet parts of one table, without their columns of lists and structures."""
    columns = [plain_columns(path) for path in paths]
    plain, nested = columns[0]
    for path, found in zip(paths, columns, strict=True):
        if set(found[0]) != set(plain):
            odd = sorted(set(found[0]) ^ set(plain))[0]
            raise InputError(f"{what}: {path} and {paths[0].name} differ in the column '{odd}'")
        if twice := repeated(found[0]):
            raise InputError(f"{path} has the column '{twice}' twice; keep one of them")
    try:
        table = pd.concat([pd.read_parquet(path, columns=plain) for path in paths], ignore_index=True)
    except Exception as error:  # pandas and pyarrow raise many kinds for damaged files
        raise InputError(f"{what} cannot be read as a table: {paths[0]}: {str(error).strip()}") from None
    table.attrs[_NESTED] = nested
    return table


def _column(table: pd.DataFrame, column: str | None, path: Path) -> pd.Series:
    names = list(table.columns)
    if column is None and len(names) != 1:
        raise InputError(
            f"{path} has several columns; say with --column which holds the queries: {choices(names)}"
        )
    return take_column(table, names[0] if column is None else column, path)


def take_column(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """Take a column of a table; `InputError` where it has none of that name."""
    if column in table.attrs.get(_NESTED, ()):
        raise InputError(f"{path}: the column '{column}' holds lists or structures; give one of plain values")
    if column not in table.columns:
        raise InputError(f"{path} lacks the column '{column}'; it has: {choices(list(table.columns))}")
    return table[column]
