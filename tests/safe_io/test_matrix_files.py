"""Embeddings in the layouts of other tools come back row by row; what does not go together is one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from safe_io.digests import remembered_sha256
from safe_io.errors import InputError
from safe_io.matrix_files import matrix_digest, read_matrix

MATRIX = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float16)


def write_parts(folder: Path, sizes: tuple[int, ...] = (5, 4, 3), name: str = "img_emb_{}.npy") -> Path:
    """Write the rows of `MATRIX` as parts, the last first."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum(sizes)
    for i in reversed(range(len(sizes))):
        np.save(folder / name.format(i), MATRIX[ends[i] - sizes[i] : ends[i]])
    return folder


def write_clip_retrieval(folder: Path, sizes: tuple[int, ...] = (5, 4, 3)) -> Path:
    """Write parts with their metadata, as ``clip-retrieval inference`` does."""
    write_parts(folder / "img_emb", sizes)
    (folder / "metadata").mkdir()
    rows = pd.DataFrame({"image_path": [f"{i}.jpg" for i in range(12)], "group": ["a", "b"] * 6})
    start = 0
    for i, size in enumerate(sizes):
        rows[start : start + size].to_parquet(folder / "metadata" / f"metadata_{i}.parquet")
        start += size
    return folder


def save_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def lists(matrix: np.ndarray, kind: Any = None) -> pa.Array:
    return pa.array(list(matrix.astype(np.float32)), type=kind)


def test_parts_are_joined_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    read = read_matrix(write_parts(tmp_path / "parts", (1,) * 12), "embeddings")  # 10 comes after 9
    assert read.dtype == np.float16
    assert not read.flags.writeable
    np.testing.assert_array_equal(read, MATRIX)


def test_clip_retrievals_folder_is_read(tmp_path: Path) -> None:
    folder = write_clip_retrieval(tmp_path / "out")
    for path in (folder, folder / "img_emb"):
        np.testing.assert_array_equal(read_matrix(path, "embeddings"), MATRIX)


@pytest.mark.parametrize(
    "kind", [None, pa.large_list(pa.float32()), pa.list_(pa.float32(), 4), pa.list_(pa.float64())]
)
def test_a_parquet_column_of_lists_is_a_matrix(tmp_path: Path, kind: Any) -> None:
    path = save_parquet(tmp_path / "x.parquet", name=list("abcdefghijkl"), vector=lists(MATRIX, kind))
    np.testing.assert_array_equal(read_matrix(path, "embeddings"), MATRIX)
    np.testing.assert_array_equal(read_matrix(Path(f"{path}:vector"), "embeddings"), MATRIX)


def test_row_groups_of_a_parquet_file_are_joined(tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": lists(MATRIX)}), tmp_path / "x.parquet", row_group_size=5)
    np.testing.assert_array_equal(read_matrix(tmp_path / "x.parquet", "embeddings"), MATRIX)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"embeddings": x, "labels": torch.ones(3)}])
def test_a_file_of_pytorch_is_a_matrix(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(torch.from_numpy(MATRIX)), tmp_path / "x.pt")
    np.testing.assert_array_equal(read_matrix(tmp_path / "x.pt", "embeddings"), MATRIX)


class Trap:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_of_pytorch_is_executed(tmp_path: Path) -> None:
    torch.save({"embeddings": torch.from_numpy(MATRIX), "x": Trap(tmp_path / "made")}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt .* more than tensors and plain values"):
        read_matrix(tmp_path / "x.pt", "embeddings")
    assert not (tmp_path / "made").exists()


def test_the_digest_is_of_all_parts_and_of_the_chosen_column(tmp_path: Path) -> None:
    first, second = write_parts(tmp_path / "a"), write_parts(tmp_path / "b")
    assert matrix_digest(first) == matrix_digest(second)
    np.save(second / "img_emb_1.npy", -MATRIX[5:9])
    assert matrix_digest(first) != matrix_digest(second)
    path = save_parquet(tmp_path / "x.parquet", a=lists(MATRIX), b=lists(-MATRIX))
    assert matrix_digest(Path(f"{path}:a")) != matrix_digest(Path(f"{path}:b"))
    np.save(tmp_path / "x.npy", MATRIX)
    assert matrix_digest(tmp_path / "x.npy") == remembered_sha256(tmp_path / "x.npy")


def wider(folder: Path) -> None:
    np.save(folder / "img_emb" / "img_emb_1.npy", np.ones((4, 5), np.float16))


def missing(folder: Path) -> None:
    (folder / "img_emb" / "img_emb_1.npy").unlink()


def doubled(folder: Path) -> None:
    shutil.copy(folder / "img_emb" / "img_emb_1.npy", folder / "img_emb" / "again_01.npy")


def unnumbered(folder: Path) -> None:
    np.save(folder / "img_emb" / "last.npy", MATRIX)


def shorter(folder: Path) -> None:
    np.save(folder / "img_emb" / "img_emb_1.npy", MATRIX[5:8])


def without_table(folder: Path) -> None:
    (folder / "metadata" / "metadata_2.parquet").unlink()


def damaged(folder: Path) -> None:
    (folder / "metadata" / "metadata_0.parquet").write_bytes(b"PAR1")


def empty(folder: Path) -> None:
    for path in (folder / "img_emb").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (wider, r"img_emb_1\.npy has width 5, but img_emb_0\.npy has width 4; parts must be of one model"),
        (missing, r"holds parts 0 to 2, but part 1 is missing; rows after it would belong to other images"),
        (doubled, r"have the same number; keep one of them"),
        (unnumbered, r"last\.npy has no number, which gives the parts of .* their order"),
        (shorter, r"img_emb_1\.npy has 3 rows, but its metadata .*metadata_1\.parquet has 4"),
        (without_table, r"3 parts of embeddings, but 2 parts of metadata"),
        (damaged, r"cannot be read as Parquet: .*metadata_0\.parquet"),
        (empty, r"holds no \.npy file"),
    ],
)
def test_parts_that_do_not_go_together_are_one_line(tmp_path: Path, change: Any, line: str) -> None:
    change(folder := write_clip_retrieval(tmp_path / "out"))
    with pytest.raises(InputError, match=line) as error:
        read_matrix(folder, "image embeddings")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "chosen", "line"),
    [
        ({"a": lists(MATRIX), "b": lists(MATRIX)}, "", r"several columns .* choose one with .*:COLUMN: a, b"),
        ({"a": [1, 2]}, "", r"has no column of lists of numbers"),
        ({"a": lists(MATRIX)}, ":vec", r"unknown column of lists of numbers 'vec'; choose from: a"),
        ({"a": [[1.0, 2.0], [1.0]]}, "", r"embeddings have different widths: 1, 2"),
        ({"a": [[1.0, 2.0], None]}, "", r"1 of 2 rows have no embedding"),
        ({"a": [[1.0, 2.0], [None, 1.0]]}, "", r"embeddings hold empty values"),
    ],
)
def test_parquet_files_without_a_matrix_are_one_line(
    tmp_path: Path, columns: dict[str, Any], chosen: str, line: str
) -> None:
    path = save_parquet(tmp_path / "x.parquet", **columns)
    with pytest.raises(InputError, match=line):
        read_matrix(Path(f"{path}{chosen}"), "image embeddings")


def test_a_parquet_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image embeddings not found: .*none\.parquet$"):
        read_matrix(tmp_path / "none.parquet:vector", "image embeddings")
