"""What an audit is made from, read from files and checked: groups of the images, queries, labels.

Symbols: N images, Q queries. Metadata has one row an image: in the order of the embeddings, or joined by id.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bias_evaluation.datasets.metadata import contradiction
from fair_search.bias_files import BiasFile
from fair_search.groups import Groups, QueryLabels
from fair_search.query_files import TABLES, read_queries, read_table, take_column
from fair_search.reference import label_text
from fair_search.small_groups import small_groups
from safe_io.documents import choices, read_alike, unknown
from safe_io.errors import InputError

MOST_GROUPS = 50
_MISSING = ("nan", "n/a", "na", "none", "null", "nil", "<na>", "nat", "#n/a", "?", "-", "--", ".", "missing")


class LabelWarning(UserWarning):
    """Labels look wrong, though they may be meant."""


@dataclass(frozen=True, eq=False)
class AuditQueries:
    """The queries of an audit.

    Attributes
    ----------
    names : tuple of str
        The texts, or the names of embeddings; all different.
    values : list of str or ndarray of shape (Q, d)
        What methods take.
    labels : tuple of str or None
        The label that each query asks for, where the file has them.
    """

    names: tuple[str, ...]
    values: list[str] | np.ndarray
    labels: tuple[str, ...] | None = None


def read_audit_queries(
    path: Path,
    *,
    column: str | None = None,
    label_column: str | None = None,
    names: Path | None = None,
) -> AuditQueries:
    """Read the queries of an audit.

    Parameters
    ----------
    path : pathlib.Path
        As for `query_files.read_queries`.
    column : str, optional
        Column of the texts, in a table.
    label_column : str, optional
        Column of the labels that the queries ask for, in the same table.
    names : pathlib.Path, optional
        Text file with a name for each query, one a line; without it embeddings are called "query 1" ….

    Returns
    -------
    AuditQueries

    Raises
    ------
    InputError
        As for `read_queries`; two queries have one name, names are not equally many, or a label is missing.
    """
    values = read_queries(path, column)
    if names is not None:
        called = read_queries(names)
        if not isinstance(called, list) or len(called) != len(values):
            raise InputError(f"{names}: {len(values)} queries need {len(values)} names, one a line")
    elif isinstance(values, list):
        called = values
    else:
        called = [f"query {i + 1}" for i in range(len(values))]
    doubles = pd.Series(called)[pd.Series(called).duplicated()]
    if len(doubles):
        raise InputError(
            f"{names or path}: {len(doubles)} queries stand there twice, the first: '{doubles.iloc[0]}'; "
            "keep one"
        )
    return AuditQueries(tuple(called), values, _labels(path, label_column))


def _labels(path: Path, column: str | None) -> tuple[str, ...] | None:
    if column is None:
        return None
    if path.suffix.lower() not in TABLES:
        raise InputError(f"labels of queries are a column of a table ({', '.join(TABLES)}), not of {path}")
    labels = take_column(read_table(path, "queries"), column, path)
    if labels.isna().any():
        raise InputError(
            f"{path}: {labels.isna().sum()} of {len(labels)} queries have no '{column}', the first in row "
            f"{int(np.flatnonzero(labels.isna())[0]) + 1}; precision needs one for each"
        )
    return tuple(map(label_text, labels))


def read_metadata_rows(
    path: Path, n_rows: int, id_column: str | None = None, ids: Path | None = None
) -> pd.DataFrame:
    """Read the metadata of N embeddings, in their order.

    Parameters
    ----------
    path : pathlib.Path
        As for `query_files.read_table`.
    n_rows : int
        N.
    id_column : str, optional
        Column that names each image.
    ids : pathlib.Path, optional
        Text file with the id of each embedding, one a line. Without it the rows of the metadata are those of
        the embeddings; with it they are joined by id, and the metadata may hold more images.

    Returns
    -------
    pandas.DataFrame
        N rows.

    Raises
    ------
    InputError
        A file or column is missing, ids repeat or do not match, or there are not N of them.
    """
    table = read_table(path, "metadata")
    if ids is not None and id_column is None:
        raise InputError("--ids needs --id-column: the column of the metadata that holds the same ids")
    if id_column is not None:
        named = take_column(table, id_column, path).map(str)
        if named.duplicated().any():
            raise InputError(
                f"{path}: {named.duplicated().sum()} rows repeat an id of '{id_column}', the first: "
                f"'{named[named.duplicated()].iloc[0]}'; ids must differ"
            )
    if ids is None:
        if len(table) != n_rows:
            raise InputError(
                f"{path} has {len(table)} rows, but there are {n_rows} embeddings; give one row for each, in "
                f"their order, or join them by --id-column and --ids"
            )
        return table
    return _joined(table, named, pd.Series(_read_ids(ids, n_rows)), path, ids)


def _read_ids(path: Path, n_rows: int) -> list[str]:
    found = read_queries(path)
    if not isinstance(found, list) or len(found) != n_rows:
        raise InputError(
            f"{path} has {len(found)} ids, but there are {n_rows} embeddings; one a line is needed"
        )
    return found


def _joined(table: pd.DataFrame, named: pd.Series, wanted: pd.Series, path: Path, ids: Path) -> pd.DataFrame:
    if wanted.duplicated().any():
        raise InputError(
            f"{ids}: {wanted.duplicated().sum()} ids stand there twice, the first: "
            f"'{wanted[wanted.duplicated()].iloc[0]}'; ids must differ"
        )
    at = pd.Index(named).get_indexer(wanted)
    if (at < 0).any():
        raise InputError(
            f"{(at < 0).sum()} of {len(wanted)} ids in {ids} are not in {path}, the first: "
            f"'{wanted[at < 0].iloc[0]}'; "
            + (f"ids there look like '{named.iloc[0]}'" if len(named) else "there are none")
        )
    return table.iloc[at].reset_index(drop=True)


def image_groups(
    metadata: pd.DataFrame,
    attribute: str,
    path: Path,
    *,
    values: Sequence[str] | None = None,
    drop_unlabelled: bool = False,
) -> Groups:
    """Sort the images into the groups that are compared.

    Parameters
    ----------
    metadata : pandas.DataFrame
        N rows.
    attribute : str
        Column of the bias attribute.
    path : pathlib.Path
        Of the metadata, for error lines.
    values : sequence of str, optional
        The groups, in the order of the tables; without it all values, sorted.
    drop_unlabelled : bool
        Leave out images whose value is missing or none of `values`; without it they are an error.

    Returns
    -------
    Groups

    Raises
    ------
    InputError
        The column or a value does not exist, values are missing, or there are fewer than two groups or too
        many.
    """
    text = take_column(metadata, attribute, path).map(label_text, na_action="ignore")
    text = text.astype(object)  # an empty column is one of floats, which have no text
    text = text.where(text.str.strip() != "")
    found = sorted(text.dropna().unique())
    for value in values or ():
        if value not in found:
            raise unknown(f"value of '{attribute}'", value, found[:MOST_GROUPS], str(path))
    classes = tuple(dict.fromkeys(values)) if values else tuple(found)
    if len(classes) < 2:
        raise InputError(
            f"{path}: '{attribute}' has {'one group only: ' + classes[0] if classes else 'no value at all'}; "
            f"an audit compares at least two groups"
        )
    if len(classes) > MOST_GROUPS:
        raise InputError(
            f"{path}: '{attribute}' has {len(classes)} different values ({choices(classes[:3])}, …), more "
            f"than {MOST_GROUPS} groups; choose some with --values, or put ranges into a column"
        )
    codes = pd.Categorical(text.where(text.isin(classes)), categories=list(classes)).codes  # int8
    _check_unlabelled(text, codes, attribute, path, drop_unlabelled)
    return Groups(attribute, classes, codes)


def describe_groups(groups: Groups) -> str:
    """List the groups with their numbers of images, in one line."""
    counts = np.bincount(groups.codes[groups.codes >= 0], minlength=len(groups.classes))
    out = int((groups.codes < 0).sum())
    left_out = f" ({out:,} images are left out)" if out else ""
    listed = ", ".join(f"{name} {count:,}" for name, count in zip(groups.classes, counts, strict=True))
    return f"groups of '{groups.attribute}': {listed}{left_out}"


def doubtful_groups(groups: Groups, ks: Sequence[int], bias: BiasFile | None = None) -> list[str]:
    """Say what looks wrong with groups, though it may be meant: a line each.

    Parameters
    ----------
    groups : Groups
    ks : sequence of int
        Depths K.
    bias : BiasFile, optional
        What the methods debias against.
    """
    counts = np.bincount(groups.codes[groups.codes >= 0], minlength=len(groups.classes))
    lines = [
        f"the groups {' and '.join(map(repr, alike))} of '{groups.attribute}' read alike; if they are one, "
        f"give them one spelling"
        for alike in read_alike(groups.classes)
    ]
    if absent := [name for name in groups.classes if looks_missing(name)]:
        lines.append(
            f"{choices(list(map(repr, absent)))} of '{groups.attribute}' looks like a missing value, but is "
            f"a group here; empty these cells, or name the groups with --values"
        )
    if bias is not None and not set(groups.classes) <= set(bias.classes):
        lines.append(
            f"the groups of '{groups.attribute}' ({choices(groups.classes)}) are not the classes of the bias "
            f"'{bias.attribute}' ({choices(bias.classes)}): methods debias against one, and are judged "
            f"on the other"
        )
    named = dict(zip(groups.classes, counts.tolist(), strict=True))
    lines += small_groups(groups.attribute, named, max(ks))
    return lines


def repeated_images(metadata: pd.DataFrame, column: str, groups: Groups) -> list[str]:
    """Say that images are there more than once, and whether with different groups: at most one line."""
    if column not in metadata:
        return []
    paths = metadata[column]
    if not (n := int(paths.duplicated().sum())):
        return []
    pair = contradiction(paths.tolist(), groups.codes.tolist())
    first = paths[paths.duplicated()].iloc[0] if pair is None else paths.iloc[pair[0]]
    differing = "" if pair is None else ", some with different groups"
    return [f"{n} rows of the metadata repeat an image{differing}, such as {first}; each counts as an image"]


def looks_missing(name: str) -> bool:
    """Whether a name is what programs write for a missing value."""
    return name.strip().casefold() in _MISSING


def _check_unlabelled(text: pd.Series, codes: np.ndarray, attribute: str, path: Path, drop: bool) -> None:
    missing, other = int(text.isna().sum()), text[text.notna() & (codes < 0)]
    if drop or not (missing or len(other)):
        return
    parts = [f"{missing} rows have no '{attribute}'"] if missing else []
    parts += [f"{len(other)} have another value, such as '{other.iloc[0]}'"] if len(other) else []
    raise InputError(
        f"{path}: {' and '.join(parts)} (of {len(text)}); complete them, or pass --drop-unlabelled to leave "
        f"these images out"
    )


def query_labels(metadata: pd.DataFrame, column: str, queries: AuditQueries, path: Path) -> QueryLabels:
    """Match the labels of queries with those of images.

    Parameters
    ----------
    metadata : pandas.DataFrame
        N rows.
    column : str
        Column of the images' labels.
    queries : AuditQueries
        With labels.
    path : pathlib.Path
        Of the metadata, for error lines.

    Returns
    -------
    QueryLabels

    Raises
    ------
    InputError
        The column does not exist, the queries have no labels, or no image has the label of a query.
    """
    if queries.labels is None:
        raise InputError(
            "--label-column needs --query-labels: the column of the query table with their labels"
        )
    text = take_column(metadata, column, path).map(label_text, na_action="ignore")
    images, names = pd.factorize(text)
    for alike in read_alike(list(map(str, names))):
        warnings.warn(
            f"{path}: the labels {' and '.join(map(repr, alike))} of '{column}' read alike, but count as "
            f"different",
            LabelWarning,
            stacklevel=2,
        )
    code = {name: i for i, name in enumerate(names)}
    for label in queries.labels:
        if label not in code:
            raise unknown(f"'{column}'", label, sorted(names)[:MOST_GROUPS], f"{path}: labels of the queries")
    return QueryLabels(images, np.array([code[label] for label in queries.labels]))
