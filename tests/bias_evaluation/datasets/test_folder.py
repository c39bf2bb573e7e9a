"""Fold indices, and every way in which the files of a dataset folder may not belong together."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bias_evaluation.datasets.folder import (
    TRAIN_INDICES,
    VAL_INDICES,
    EvaluationData,
    embeddings_name,
    load_rows,
    make_folds,
    open_embeddings,
)
from bias_evaluation.datasets.metadata import METADATA, write_metadata
from bias_evaluation.grid.configs import Labels
from safe_io.arrays import save_array
from safe_io.errors import InputError

# --- folds ------------------------------------------------------------------------------------------------


def _sha(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("n", "train_sha", "train_rows", "val_sha", "val_rows"),
    [
        (202_599, "01ce9ade07d60097", 101_299, "5de6ee0bf856d914", 101_300),  # CelebA
        (97_698, "65ada240cdee5df1", 48_849, "ea645abf85268a09", 48_849),  # FairFace
        (23_705, "8b795e161bdcfb48", 11_852, "4eb7b64afe5cb5fc", 11_853),  # UTKFace
        (11_788, "eb6a8f51273836ea", 5_894, "4be63dbee56187fc", 5_894),  # Waterbirds
    ],
)
def test_published_folds_come_out(
    n: int, train_sha: str, train_rows: int, val_sha: str, val_rows: int
) -> None:
    train, val = make_folds(n)
    assert (train.shape, train.dtype) == ((10, train_rows), np.uint32)
    assert (val.shape, val.dtype) == ((10, val_rows), np.uint32)
    assert (_sha(train), _sha(val)) == (train_sha, val_sha)


def test_every_fold_divides_all_rows() -> None:
    train, val = make_folds(103, 5, 0.3)
    assert train.shape == (5, int(103 * 0.7))
    for both in np.concatenate([train, val], axis=1):
        np.testing.assert_array_equal(np.sort(both), np.arange(103))
    assert len({row.tobytes() for row in train}) == 5


def test_permutations_accumulate() -> None:
    expected, random = list(range(20)), np.random.RandomState(42)
    train, val = make_folds(20, 3, 0.25)
    for fold in range(3):
        random.shuffle(expected)  # the same list again
        assert [*train[fold], *val[fold]] == expected


def test_folds_leave_the_global_generator_alone() -> None:
    np.random.seed(5)  # noqa: NPY002 - the global generator is what must not move
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    make_folds(50)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    ("n", "k_folds", "share", "expected"),
    [
        (10, 10, 0.0, "strictly between 0 and 1, got 0.0"),
        (10, 10, 1.0, "strictly between 0 and 1, got 1.0"),
        (10, 10, float("nan"), "strictly between 0 and 1, got nan"),
        (10, 0, 0.5, "0 fold\\(s\\) of 10 images"),
        (1, 10, 0.5, "10 fold\\(s\\) of 1 images with evaluation share 0.5 leave a part empty"),
        (0, 10, 0.5, "of 0 images"),
    ],
)
def test_folds_that_cannot_be(n: int, k_folds: int, share: float, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        make_folds(n, k_folds, share)


# --- evaluation arrays ------------------------------------------------------------------------------------

N, DIM = 12, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a dataset folder whose files belong together."""
    write_metadata(tmp_path / METADATA, pd.DataFrame({"color": ["red", "blue", "green"] * 4}))
    random = np.random.default_rng(0)
    save_array(tmp_path / embeddings_name("B"), random.normal(size=(N, DIM)).astype(np.float16))
    for name, array in zip((TRAIN_INDICES, VAL_INDICES), make_folds(N, 3), strict=True):
        save_array(tmp_path / name, array)
    return tmp_path


def load(folder: Path) -> EvaluationData:
    return open_embeddings(load_rows(folder), "B", DIM)


def test_files_that_belong_together(folder: Path) -> None:
    data = load(folder)
    train, val = make_folds(N, 3)
    np.testing.assert_array_equal(data.train, train)
    np.testing.assert_array_equal(data.val, val)
    assert data.train.dtype == data.val.dtype == np.int64
    assert (data.embeddings.shape, data.embeddings.dtype) == ((N, DIM), np.float16)
    assert isinstance(data.embeddings, np.memmap)  # opened, not read
    assert (len(data.metadata), data.folder) == (N, folder)


def damage(folder: Path, name: str, content: Any) -> None:
    """Put bytes or an array in a file's place."""
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        np.save(folder / name, content, allow_pickle=True)


EMBEDDINGS = embeddings_name("B")
VALID = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
WRONG: dict[str, tuple[str, Any, str]] = {
    "too few rows": (
        EMBEDDINGS,
        np.ones((N - 1, DIM), np.float32),
        "has 11 rows, but metadata.feather beside it has 12; make both anew with precompute_embeddings.py",
    ),
    "too many rows": (EMBEDDINGS, np.ones((N + 1, DIM), np.float32), "has 13 rows, but metadata.feather"),
    "another width": (
        EMBEDDINGS,
        np.ones((N, 7), np.float32),
        "has width 7, but the backbone has width 4",
    ),
    "whole numbers": (
        EMBEDDINGS,
        np.ones((N, DIM), np.int64),
        "int64 of shape (12, 4); a float matrix (rows, width) is needed",
    ),
    "one dimension": (EMBEDDINGS, np.ones(N, np.float32), "float32 of shape (12,); a float matrix"),
    "objects": (EMBEDDINGS, np.array([[{}] * DIM] * N, object), "embeddings cannot be read"),
    "folds one dimension": (
        VAL_INDICES,
        np.arange(6),
        "holds int64 of shape (6,); whole numbers (folds, rows) are needed",
    ),
    "folds of fractions": (VAL_INDICES, VALID.astype(float), "holds float64 of shape (3, 3); whole numbers"),
    "folds of objects": (TRAIN_INDICES, VALID.astype(object), "fold indices cannot be read"),
    "folds empty": (TRAIN_INDICES, np.empty((3, 0), np.uint32), "of shape (3, 0); whole numbers"),
    "row too large": (
        VAL_INDICES,
        VALID + 4,
        "names rows 4 to 12, but there are 12 images; make it anew with generate_splits.py",
    ),
    "row negative": (TRAIN_INDICES, VALID - 1, "names rows -1 to 7, but there are 12 images"),
    "row beyond int64": (TRAIN_INDICES, np.array([[2**63 + 5]] * 3, np.uint64), "but there are 12 images"),
    "row twice": (VAL_INDICES, np.array([[0, 1, 0]] * 3), "names a row twice in one fold"),
    "other number of folds": (VAL_INDICES, VALID[:2], "train_indices.npy has 3 folds, val_indices.npy has 2"),
}


@pytest.mark.parametrize(("name", "content", "expected"), WRONG.values(), ids=WRONG)
def test_files_that_do_not_belong_together(folder: Path, name: str, content: Any, expected: str) -> None:
    damage(folder, name, content)
    with pytest.raises(InputError) as error:
        load(folder)
    assert expected in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [EMBEDDINGS, TRAIN_INDICES, VAL_INDICES, METADATA])
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"not found: .*{name}; (precompute|generate)_.* makes it"):
        load(folder)


class Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def _zip(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"nothing")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["pickle", "object array", "zip", "broken zip", "text", "empty", "cut"])
def test_damaged_arrays_are_never_executed(folder: Path, tmp_path: Path, kind: str) -> None:
    trap = tmp_path / "trap"
    path = folder / EMBEDDINGS
    content: Any = {
        "pickle": pickle.dumps(Trap(trap)),
        "object array": np.array([[Trap(trap)] * DIM] * N, object),
        "zip": _zip(tmp_path / "x.zip"),
        "broken zip": b"PK\x03\x04 and no more",
        "text": b"0.1 0.2\n",
        "empty": b"",
        "cut": path.read_bytes()[:-10],
    }[kind]
    damage(folder, EMBEDDINGS, content)
    with pytest.raises(InputError, match=r"embeddings cannot be read: .*make it again with precompute_emb"):
        load(folder)
    assert not trap.exists()


# --- labels -----------------------------------------------------------------------------------------------


def test_codes_follow_the_configs_order(folder: Path) -> None:
    codes = load(folder).codes(Labels("color", ("green", "red", "blue")))
    np.testing.assert_array_equal(codes, [1, 2, 0] * 4)
    assert codes.dtype == np.int64


def test_codes_of_a_missing_column(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"metadata\.feather lacks the column 'colour'; it has: color"
    ) as error:
        load(folder).codes(Labels("colour", ("red", "blue")))
    assert str(folder) in str(error.value)


def test_codes_of_a_value_that_is_no_class(folder: Path) -> None:
    with pytest.raises(InputError) as error:
        load(folder).codes(Labels("color", ("red", "blue")))
    assert "4 row(s) have a 'color' that is no class, first row 2: 'green'; classes: red, blue" in str(
        error.value
    )


@pytest.mark.parametrize("dtype", ["object", "str", "category", "string[pyarrow]"])
def test_a_missing_value_is_no_class(folder: Path, dtype: str) -> None:
    column = pd.Series(["red", None, "blue"] * 4).astype(dtype)
    write_metadata(folder / METADATA, pd.DataFrame({"color": column}))
    with pytest.raises(InputError, match=r"4 row\(s\) have a 'color' that is no class, first row 1"):
        load(folder).codes(Labels("color", ("red", "blue")))


@pytest.mark.parametrize(
    ("values", "dtype", "classes"),
    [
        ([-1, 1, 1], "int64", (-1, 1)),
        ([-1, 1, 1], "Int64", (-1, 1)),
        ([-1, 1, 1], "float64", (-1, 1)),
        ([False, True, True], "bool", (False, True)),
        (["a", "b", "b"], "category", ("a", "b")),
    ],
)
def test_codes_of_columns_of_several_types(
    folder: Path, values: list[Any], dtype: str, classes: tuple[Any, ...]
) -> None:
    write_metadata(folder / METADATA, pd.DataFrame({"x": pd.Series(values * 4).astype(dtype)}))
    np.testing.assert_array_equal(load(folder).codes(Labels("x", classes)), [0, 1, 1] * 4)


def test_rows_that_have_a_label(folder: Path) -> None:
    data = load(folder)
    np.testing.assert_array_equal(data.is_value("color", "blue"), [False, True, False] * 4)
    with pytest.raises(InputError, match=r"metadata\.feather: no row has color = 'pink'"):
        data.is_value("color", "pink")
    with pytest.raises(InputError, match="lacks the column 'shade'"):
        data.is_value("shade", "pink")
