"""Arrays on disk: what is written comes back, damaged files are one line, and rows without a direction."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safe_io import arrays
from safe_io.arrays import (
    check_matrix,
    check_norms,
    check_rows,
    finite_rows,
    float_rows,
    load_array,
    load_arrays,
    save_array,
    save_matrix,
)
from safe_io.errors import InputError
from safe_io.files import save_weights
from safe_io.matrix_files import read_matrix

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3) + 1


class Trap:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def as_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


# --- reading and writing ----------------------------------------------------------------------------------


def test_arrays_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    save_array(path, np.arange(3))
    with pytest.raises(ValueError, match="allow_pickle"):
        save_array(path, np.array([{}], object))
    np.testing.assert_array_equal(load_array(path, "x", "y"), np.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_a_loaded_array_may_be_written_to_and_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    save_array(path, MATRIX)
    before = path.read_bytes()
    load_array(path, "x", "y")[:] = 0
    assert path.read_bytes() == before


READERS: dict[str, Callable[[Path], object]] = {
    "x.npy": lambda path: load_array(path, "embeddings", "the_command"),
    "x.npz": lambda path: load_arrays(path, "embeddings", ["a"]),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pickle", "objects", "broken zip", "text", "empty", "cut"])
def test_damaged_files_are_one_line_and_never_executed(tmp_path: Path, name: str, kind: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / name
    if name == "x.npy":
        save_array(path, MATRIX)
    else:
        np.savez(path, a=MATRIX)
    whole = path.read_bytes()
    objects = as_npy(np.array([Trap(trap)], object))
    if name == "x.npz" and kind == "objects":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", objects)
    else:
        contents = {
            "broken zip": b"PK\x03\x04 and no more",
            "text": b"0.1 0.2\n",
            "empty": b"",
            "cut": whole[:-10],
        }
        path.write_bytes({"pickle": pickle.dumps(Trap(trap)), "objects": objects, **contents}[kind])
    with pytest.raises(InputError, match=f"embeddings cannot be read: {re.escape(str(path))}"):
        READERS[name](path)
    assert not trap.exists()


@pytest.mark.parametrize("name", READERS)
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"embeddings not found: .*{name}"):
        READERS[name](tmp_path / name)


def test_an_archive_is_not_one_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=MATRIX)
    with pytest.raises(InputError, match="not one array; make it again with the_command"):
        load_array(tmp_path / "x.npz", "embeddings", "the_command")


def test_named_arrays_come_in_the_order_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(2), b=np.array(["ä", "b"]), c=MATRIX)
    b, a = load_arrays(tmp_path / "x.npz", "numbers", ["b", "a"])
    assert (a.tolist(), b.tolist()) == ([0, 1], ["ä", "b"])
    with pytest.raises(InputError, match="no array 'd'; it must hold a and d, and it holds: a, b, c"):
        load_arrays(tmp_path / "x.npz", "numbers", ["a", "d"])


def test_an_archive_that_unpacks_to_far_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1 << 20))
    load_arrays(tmp_path / "x.npz", "numbers", ["a"])
    monkeypatch.setattr(arrays, "_ANY_BYTES", 1 << 20)
    with pytest.raises(InputError, match="would unpack from"):
        load_arrays(tmp_path / "x.npz", "numbers", ["a"])


# --- matrices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_matrix_survives_the_disk_and_is_read_only(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    save_matrix(path, MATRIX)
    read = read_matrix(path, "embeddings")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, MATRIX)
    assert not read.flags.writeable


def test_the_only_tensor_of_a_file_needs_no_name(tmp_path: Path) -> None:
    path, matrix = tmp_path / "x.safetensors", torch.from_numpy(MATRIX)
    save_weights(path, {"other": matrix})
    np.testing.assert_array_equal(read_matrix(path, "embeddings"), MATRIX)
    save_weights(path, {"a": matrix, "b": matrix + 1})
    with pytest.raises(InputError, match="must hold a tensor 'embeddings'; it holds: a, b"):
        read_matrix(path, "embeddings")


@pytest.mark.parametrize(
    "wrong", [np.ones(3, np.float32), np.ones((2, 3), np.int64), np.ones((0, 3)), np.ones((2, 3, 1))]
)
def test_what_is_no_float_matrix_is_refused(tmp_path: Path, wrong: np.ndarray) -> None:
    save_array(tmp_path / "x.npy", wrong)
    for check in (
        lambda: read_matrix(tmp_path / "x.npy", "x"),
        lambda: check_matrix(torch.tensor(wrong), "x"),
    ):
        with pytest.raises(InputError) as error:
            check()
        assert f"{wrong.dtype} of shape {wrong.shape}; a float matrix (rows, width)" in str(error.value)


def test_a_matrix_of_another_width_is_refused() -> None:
    check_matrix(MATRIX, "x.npy", 3)
    with pytest.raises(InputError, match=r"x.npy: float32 of shape \(4, 3\); a float matrix \(rows, 5\)"):
        check_matrix(MATRIX, "x.npy", 5)


# --- rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_without_a_direction_are_counted(value: float, dtype: type) -> None:
    rows = np.ones((5, 3), dtype)
    torch.testing.assert_close(finite_rows(rows, "x.npy"), torch.ones(5, 3), rtol=0, atol=0)
    rows[2], rows[4] = value, value
    line = "x.npy: 2 of 5 rows are NaN, infinite or all zero, the first: row 2; recompute the embeddings"
    with pytest.raises(InputError, match=line):
        finite_rows(rows, Path("x.npy"))
    with pytest.raises(InputError, match=line):
        check_norms(torch.linalg.vector_norm(torch.from_numpy(rows), dim=1), "x.npy")


@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_what_float32_cannot_hold_has_no_direction(value: float) -> None:
    rows = np.ones((3, 2))
    rows[1] = value
    with pytest.raises(InputError, match="1 of 3 rows is NaN, infinite or all zero, the first: row 1"):
        check_rows(float_rows(rows), "x.npy")


def test_a_caller_may_name_rows_and_say_what_to_do() -> None:
    rows = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    with pytest.raises(InputError, match=r"backbone: 1 of 2 rows is .*, the first: b\.png; check$"):
        check_rows(rows, "backbone", name=["a.png", "b.png"].__getitem__, advice="check")
