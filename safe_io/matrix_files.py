"""Matrices of embeddings in the layouts of other tools: parts in a folder, PyTorch files, Parquet columns.

=========================  ================================================================================
a folder of ``.npy``       parts, in the order of the numbers in their names; one embeddings width
``img_emb`` in a folder    the layout of clip-retrieval: its parts, beside ``metadata/*.parquet``
``.pt``, ``.pth``          a tensor, or a mapping with one tensor, or with one named `MATRIX`
``.parquet``               the one column of lists of numbers; ``FILE.parquet:COLUMN`` chooses one
=========================  ================================================================================

Parts, PyTorch files and Parquet columns are read into memory; a single ``.npy`` is memory-mapped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safe_io.arrays import MATRIX, check_matrix, existing, load_array
from safe_io.digests import remembered_sha256
from safe_io.documents import choices, unknown
from safe_io.errors import InputError, plain_reason
from safe_io.files import load_weights, sha256_json

TENSORS = (".npy", ".safetensors", ".pt", ".pth")
CLIP_RETRIEVAL = "img_emb"
METADATA_PARTS = "metadata"


def read_matrix(path: Path, what: str) -> np.ndarray:
    """Read a float matrix ``(n, d)``; it is read-only.

    Parameters
    ----------
    path : pathlib.Path
        ``.npy`` (memory-mapped); ``.safetensors``, ``.pt`` or ``.pth`` with one tensor, or one of the name
        `MATRIX`; ``.parquet`` or ``FILE.parquet:COLUMN``; a folder of ``.npy`` parts, or of
        clip-retrieval's.
    what : str
        What the file holds, for the error line.

    Returns
    -------
    ndarray of shape (n, d)
        As stored, but float32 from files of PyTorch; rows are not checked (see `check_rows`).

    Raises
    ------
    InputError
        The file is missing or damaged, or holds no float matrix; parts do not go together.
    """
    file, column = split_column(path)
    suffix = file.suffix.lower()
    if path.is_dir():
        array = read_folder(path, what)
    elif suffix == ".parquet":
        array = read_parquet_matrix(existing(file, what), what, column)
    elif suffix in (".pt", ".pth", ".safetensors"):
        make = f"save it with one tensor, or with one named '{MATRIX}'"
        weights = load_weights(existing(path, what), make=make, alone=MATRIX)
        tensors = {name: value for name, value in weights.items() if hasattr(value, "is_floating_point")}
        if MATRIX not in tensors and len(tensors) != 1:
            raise InputError(f"{path} must hold a tensor '{MATRIX}'; it holds: {choices(sorted(tensors))}")
        tensor = tensors.get(MATRIX, next(iter(tensors.values())))
        check_matrix(tensor, path)  # before the conversion: labels and quantized values are whole numbers
        array = tensor.detach().float().numpy()
    else:
        array = load_array(path, what, "np.save")
    check_matrix(array, path)
    array.flags.writeable = False  # so that whoever reads it in chunks may give its pages back
    return array


# --- folders of parts -------------------------------------------------------------------------------------


def part_files(folder: Path, suffix: str, what: str) -> list[Path]:
    """List the files of a folder with a suffix, in the order of the last numbers in their names.

    Parameters
    ----------
    folder : pathlib.Path
    suffix : str
        '.npy' or '.parquet'.
    what : str
        What the parts hold, for the error line.

    Returns
    -------
    list of pathlib.Path
        At least one.

    Raises
    ------
    InputError
        There is none, several have no number or the same one, or a number is missing between the first and
        the last.
    """
    files = [path for path in folder.iterdir() if path.suffix == suffix and not path.name.startswith(".")]
    if not files:
        raise InputError(f"{what}: the folder {folder} holds no {suffix} file")
    if len(files) == 1:
        return files
    numbers: dict[int, Path] = {}
    for path in sorted(files):
        found = re.findall(r"\d+", path.stem)
        if not found:
            raise InputError(f"{what}: {path} has no number, which gives the parts of {folder} their order")
        if other := numbers.get(int(found[-1])):
            raise InputError(f"{what}: {other} and {path.name} have the same number; keep one of them")
        numbers[int(found[-1])] = path
    missing = sorted(set(range(min(numbers), max(numbers))) - set(numbers))
    if missing:
        raise InputError(
            f"{what}: {folder} holds parts {min(numbers)} to {max(numbers)}, but part {missing[0]} is "
            f"missing; rows after it would belong to other images"
        )
    return [numbers[number] for number in sorted(numbers)]


def read_folder(folder: Path, what: str) -> np.ndarray:
    """Read the parts of a matrix in a folder, ``(n, d)``; see the module for layouts.

    Raises
    ------
    InputError
        As for `part_files`; parts are damaged or differ in width, or have other numbers of rows than the
        parts of their metadata.
    """
    files = _files(folder, what)
    parts = [load_array(path, what, "np.save") for path in files]
    for path, part in zip(files, parts, strict=True):
        check_matrix(part, path)
        if part.shape[1] != parts[0].shape[1]:
            raise InputError(
                f"{what}: {path} has width {part.shape[1]}, but {files[0].name} has width "
                f"{parts[0].shape[1]}; parts must be of one model"
            )
    _check_metadata_parts(folder, files, [len(part) for part in parts])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _files(folder: Path, what: str) -> list[Path]:
    inner = folder / CLIP_RETRIEVAL
    return part_files(inner if inner.is_dir() else folder, ".npy", what)


def _check_metadata_parts(folder: Path, files: Sequence[Path], counts: Sequence[int]) -> None:
    """Compare the rows of each part with those of its metadata, in clip-retrieval's layout."""
    root = folder if (folder / CLIP_RETRIEVAL).is_dir() else folder.parent
    beside = root / METADATA_PARTS
    if not (root / CLIP_RETRIEVAL).is_dir() or not beside.is_dir():
        return
    tables = part_files(beside, ".parquet", "metadata of the embeddings")
    if len(tables) != len(files):
        raise InputError(f"{root}: {len(files)} parts of embeddings, but {len(tables)} parts of metadata")
    for file, count, table in zip(files, counts, tables, strict=True):
        if (rows := _parquet(table).metadata.num_rows) != count:
            raise InputError(f"{file} has {count} rows, but its metadata {table} has {rows}; make both again")


def matrix_digest(path: Path) -> str:
    """Digest of the files that a matrix or a table is read from; that of its bytes if it is one file."""
    if path.is_dir():
        inside = [path, path / CLIP_RETRIEVAL, path / METADATA_PARTS]
        files = [file for folder in inside if folder.is_dir() for file in sorted(folder.iterdir())]
        parts = [file for file in files if file.suffix in (".npy", ".parquet")]
        return sha256_json([[file.name, remembered_sha256(file)] for file in parts])
    file, column = split_column(path)
    digest = remembered_sha256(file)
    return digest if column is None else sha256_json([digest, column])


# --- Parquet ----------------------------------------------------------------------------------------------


def split_column(path: Path) -> tuple[Path, str | None]:
    """Split ``FILE.parquet:COLUMN``; a path of another form, or that exists as it is, has no column."""
    file, colon, column = str(path).rpartition(":")
    if colon and file.lower().endswith(".parquet") and not path.exists():
        return Path(file), column
    return path, None


def read_parquet_matrix(path: Path, what: str, column: str | None = None) -> np.ndarray:
    """Read a column of equally long lists of numbers, ``(n, d)``.

    Parameters
    ----------
    path : pathlib.Path
    what : str
        What the file holds, for the error line.
    column : str, optional
        By default the only column of lists of floats.

    Raises
    ------
    InputError
        The file is damaged, has no such column or several, or its lists are empty or of different lengths.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    file = _parquet(path)
    names = [field.name for field in file.schema_arrow if _is_vector(field.type)]
    if column is None and len(names) != 1:
        listed = f"several columns of lists of numbers; choose one with {path}:COLUMN: {choices(names)}"
        raise InputError(f"{what}: {path} has {listed if names else 'no column of lists of numbers'}")
    if column is not None and column not in names:
        raise unknown("column of lists of numbers", column, names, str(path))
    table = file.read(columns=[column or names[0]])
    lists = table.column(0).combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else lists.chunk(0)
    if lists.null_count:
        raise InputError(f"{what}: {path}: {lists.null_count} of {len(lists)} rows have no embedding")
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(lengths) != 1:
        raise InputError(f"{what}: {path}: embeddings have different widths: {choices(sorted(lengths)[:5])}")
    values = lists.flatten()
    if values.null_count:
        raise InputError(f"{what}: {path}: embeddings hold empty values")
    return values.to_numpy(zero_copy_only=False).reshape(len(lists), lengths[0])


def plain_columns(path: Path) -> tuple[list[str], list[str]]:
    """List the columns of a Parquet file: those of plain values, and those of lists or structures."""
    import pyarrow.types as pt

    fields = list(_parquet(path).schema_arrow)
    nested = [field.name for field in fields if pt.is_nested(field.type)]
    return [field.name for field in fields if field.name not in nested], nested


def _is_vector(kind: Any) -> bool:
    import pyarrow.types as pt

    lists = pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)
    return lists and pt.is_floating(kind.value_type)


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise InputError(f"cannot be read as Parquet: {path}: {plain_reason(error)}") from None
