"""Dataset folders: fold indices, and the checked arrays that evaluation works on (metadata: `metadata.py`).

One row an image: `metadata.feather`, `CLIP_<backbone>_embeddings.npy` (N, d) and the fold indices
`train_indices.npy`, `val_indices.npy` (F, ·) all number the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bias_evaluation.datasets.metadata import METADATA, contradiction, read_metadata
from bias_evaluation.grid.configs import Labels
from safe_io.arrays import check_matrix, load_array
from safe_io.documents import choices
from safe_io.errors import InputError
from safe_io.files import read_json, sha256_json
from safe_io.notices import note_once

TRAIN_INDICES = "train_indices.npy"
VAL_INDICES = "val_indices.npy"
FOLD_SEED = 42
RELEASE = "the paper's release"  # in manifests of embeddings that were imported


def embeddings_name(backbone: str) -> str:
    """File name of a backbone's image embeddings."""
    return f"CLIP_{backbone}_embeddings.npy"


def residuals_name(backbone: str) -> str:
    """File name of what a backbone's last block gives for each image, before the projection."""
    return f"CLIP_{backbone}_residuals.npy"


def head_path(residuals: Path) -> Path:
    """File beside residuals that holds the layers after them."""
    return residuals.with_suffix(".head.npz")


def manifest_path(target: Path) -> Path:
    """File beside an embedding file that says what it was made from."""
    return target.with_suffix(".manifest.json")


def read_manifest(target: Path) -> dict[str, Any]:
    """Read what an embedding file was made from; empty where no manifest says so.

    Raises
    ------
    InputError
        The manifest is damaged.
    """
    path = manifest_path(target)
    manifest = read_json(path, "manifest of embeddings") if path.is_file() else {}
    if not isinstance(manifest, dict):
        raise InputError(f"manifest of embeddings is not a JSON object: {path}; remove it")
    return manifest


# --- folds ------------------------------------------------------------------------------------------------


def make_folds(n: int, k_folds: int = 10, val_proportion: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Draw the reference ("train") and evaluation ("val") rows of each fold.

    The permutations accumulate: each fold shuffles the indices as the fold before left them, from NumPy's
    legacy generator with seed 42, so that the published index files come out.

    Parameters
    ----------
    n : int
        Number of images.
    k_folds : int
        Number of folds F.
    val_proportion : float
        Share of evaluation rows, strictly between 0 and 1.

    Returns
    -------
    train, val : ndarray of shape (F, ·), uint32

    Raises
    ------
    InputError
        A proportion outside (0, 1), fewer than one fold, or too few images for both parts.
    """
    if not 0 < val_proportion < 1:
        raise InputError(f"the evaluation share must lie strictly between 0 and 1, got {val_proportion}")
    n_train = int(n * (1 - val_proportion))
    if k_folds < 1 or n_train < 1 or n_train >= n:
        raise InputError(
            f"{k_folds} fold(s) of {n} images with evaluation share {val_proportion} leave a part empty; "
            f"give more images or another share"
        )
    random = np.random.RandomState(FOLD_SEED)
    indices = np.arange(n)
    train = np.empty((k_folds, n_train), np.uint32)
    val = np.empty((k_folds, n - n_train), np.uint32)
    for fold in range(k_folds):
        random.shuffle(indices)
        train[fold], val[fold] = indices[:n_train], indices[n_train:]
    return train, val


# --- evaluation arrays ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DatasetRows:
    """The images of one dataset, whatever the backbone.

    Attributes
    ----------
    metadata : pandas.DataFrame
        N rows.
    train, val : ndarray of shape (F, ·), int64
        Reference and evaluation rows of each fold.
    folder : pathlib.Path
        Where the files lie.
    """

    metadata: pd.DataFrame
    train: np.ndarray
    val: np.ndarray
    folder: Path

    def codes(self, labels: Labels) -> np.ndarray:
        """Class codes of all rows.

        Parameters
        ----------
        labels : Labels
            Column, and the values of class 0, 1, ….

        Returns
        -------
        ndarray of shape (N,), int64

        Raises
        ------
        InputError
            The column is missing, or a row has a value that is no class.
        """
        column = self._column(labels.column)
        codes = np.full(len(column), -1, np.int64)
        for code, value in enumerate(labels.values):
            codes[_equal(column, value)] = code
        self._check_repeats(labels.column, codes)
        strange = np.flatnonzero(codes < 0)
        if len(strange):
            raise InputError(
                f"{self.folder / METADATA}: {len(strange)} row(s) have a '{labels.column}' that is no class, "
                f"first row {strange[0]}: {column.iloc[strange[0]]!r}; classes: {choices(labels.values)}"
            )
        return codes

    def _check_repeats(self, column: str, codes: np.ndarray) -> None:
        """Raise if an image is there twice with different labels: it may be in both parts of a fold."""
        if "file_path" not in self.metadata:
            return
        paths = self.metadata["file_path"]
        if pair := contradiction(paths.tolist(), codes.tolist()):
            first, second = pair
            values = [self.metadata[column].iloc[row] for row in pair]
            raise InputError(
                f"{self.folder / METADATA}: {paths.iloc[first]} is there twice, in row {first} with {column} "
                f"= '{values[0]}' and in row {second} with '{values[1]}'; keep the right row"
            )
        if n := int(paths.duplicated().sum()):
            note_once(
                f"{self.folder / METADATA}: {n} rows repeat an image, the first: "
                f"{paths[paths.duplicated()].iloc[0]}; it may be in both parts of a fold"
            )

    def is_value(self, column: str, value: object) -> np.ndarray:
        """Which rows hold a value: bool ``(N,)``; `InputError` where the column is missing or none does."""
        found = _equal(self._column(column), value)
        if not found.any():
            raise InputError(f"{self.folder / METADATA}: no row has {column} = {value!r}")
        return found

    def _column(self, name: str) -> pd.Series:
        if name not in self.metadata.columns:
            raise InputError(
                f"{self.folder / METADATA} lacks the column '{name}'; "
                f"it has: {choices(list(self.metadata.columns))}"
            )
        return self.metadata[name]


@dataclass(frozen=True, eq=False)
class EvaluationData(DatasetRows):
    """The images of one dataset under one backbone.

    Attributes
    ----------
    embeddings : ndarray of shape (N, d)
        As stored (float16 or float32, memory-mapped), not normalised.
    """

    embeddings: np.ndarray


def _equal(column: pd.Series, value: object) -> np.ndarray:
    """Which rows hold a value; a missing entry does not."""
    return (column == value).to_numpy(dtype=bool, na_value=False)


def load_rows(folder: Path) -> DatasetRows:
    """Read metadata and folds of a dataset.

    Raises
    ------
    InputError
        A file is missing or damaged; fold indices are out of range, repeat a row, or have it in both parts of
        a fold.
    """
    metadata = read_metadata(folder / METADATA)
    folds = []
    for name in (TRAIN_INDICES, VAL_INDICES):
        indices = load_array(folder / name, "fold indices", "generate_splits.py")
        folds.append(check_folds(indices, folder / name, len(metadata)))
    train, val = folds
    if len(train) != len(val):
        raise InputError(f"{folder}: {TRAIN_INDICES} has {len(train)} folds, {VAL_INDICES} has {len(val)}")
    check_disjoint(train, val, folder)
    return DatasetRows(metadata, train, val, folder)


def open_embeddings(rows: DatasetRows, backbone: str, dim: int) -> EvaluationData:
    """Open a backbone's embeddings of a dataset, of the width `dim`.

    Raises
    ------
    InputError
        The file is missing or damaged; rows, width or dtype do not fit; or it was made from another list of
        images.
    """
    path = rows.folder / embeddings_name(backbone)
    embeddings = load_array(path, "embeddings", "precompute_embeddings.py")
    check_embeddings(embeddings, path, len(rows.metadata), dim)
    check_images(path, rows.metadata)
    return EvaluationData(rows.metadata, rows.train, rows.val, rows.folder, embeddings)


def check_embeddings(embeddings: np.ndarray, path: Path, rows: int, dim: int | None) -> None:
    """Raise `InputError` unless embeddings are a float matrix ``(rows, dim)``; None allows any width."""
    check_matrix(embeddings, path)
    if embeddings.shape[0] != rows:
        raise InputError(
            f"{path} has {embeddings.shape[0]} rows, but {METADATA} beside it has {rows}; "
            f"make both anew with precompute_embeddings.py"
        )
    if dim is not None and embeddings.shape[1] != dim:
        raise InputError(f"{path} has width {embeddings.shape[1]}, but the backbone has width {dim}")


def check_images(
    path: Path, metadata: pd.DataFrame, table: Path | None = None, columns: Sequence[str] = ("file_path",)
) -> bool:
    """Compare the rows of metadata with the images that embeddings were made from.

    Parameters
    ----------
    path : pathlib.Path
        File of embeddings; beside it, its manifest.
    metadata : pandas.DataFrame
        One row per embedding.
    table : pathlib.Path, optional
        File of the metadata, for the error line; `metadata.feather` beside the embeddings by default.
    columns : sequence of str
        Columns that may hold the paths of the images.

    Returns
    -------
    bool
        Whether it could be checked: there is a manifest that says it, and one of the columns.

    Raises
    ------
    InputError
        The metadata lists other images, or in another order.
    """
    expected = read_manifest(path).get("images")
    present = [column for column in dict.fromkeys(columns) if column in metadata]
    if expected is None or not present:
        return False
    if expected not in (images_digest(metadata, column) for column in present):
        raise InputError(
            f"{table or path.parent / METADATA} lists other images, or in another order, than {path.name} "
            f"was made from; make the embeddings again with precompute_embeddings.py --overwrite, or give "
            f"the metadata that they were made with"
        )
    return True


def images_digest(metadata: pd.DataFrame, column: str = "file_path") -> str:
    """Digest of which image each row is."""
    return sha256_json(metadata[column].astype(str).tolist())


def check_disjoint(train: np.ndarray, val: np.ndarray, folder: Path) -> None:
    """Raise `InputError` where a row is in both parts, ``(F, ·)`` each, of a fold."""
    for fold, (reference, evaluation) in enumerate(zip(train, val, strict=True)):
        shared = np.intersect1d(reference, evaluation, assume_unique=True)
        if len(shared):
            raise InputError(
                f"{folder}: {TRAIN_INDICES} and {VAL_INDICES} share {len(shared)} row(s) in fold {fold}, the "
                f"first: {shared[0]}; make both anew with generate_splits.py"
            )


def check_folds(indices: np.ndarray, path: Path, rows: int) -> np.ndarray:
    """Return fold indices as int64; raise `InputError` where they are out of range or repeat a row."""
    if indices.ndim != 2 or indices.dtype.kind not in "iu" or indices.size == 0:
        raise InputError(
            f"{path} holds {indices.dtype} of shape {indices.shape}; whole numbers (folds, rows) are needed"
        )
    indices = indices.astype(np.int64)
    if indices.min() < 0 or indices.max() >= rows:
        raise InputError(
            f"{path} names rows {indices.min()} to {indices.max()}, but there are {rows} images; "
            f"make it anew with generate_splits.py"
        )
    ordered = np.sort(indices, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise InputError(f"{path} names a row twice in one fold; make it anew with generate_splits.py")
    return indices
