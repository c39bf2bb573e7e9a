"""Arrays on disk (npy, npz, safetensors), read without executing anything, and the checks of embedding rows.

Symbols: n rows, d embedding dimension.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from safe_io.documents import choices
from safe_io.errors import InputError, plain_reason
from safe_io.files import atomic_path, dump_weights

# torch takes seconds to import; commands that only split or list arrays need none of it.
if TYPE_CHECKING:
    from torch import Tensor

MATRIX = "embeddings"  # name of the matrix in a file of several tensors
RECOMPUTE = "recompute the embeddings"
_ANY_BYTES, _RATIO = 1 << 26, 200  # texts of very different length compress to a hundredth; numbers hardly


# --- reading and writing ----------------------------------------------------------------------------------


def existing(path: Path, what: str, make: str | None = None) -> Path:
    """Return a path; `InputError` if there is no such file, with the command that makes it."""
    if not path.is_file():
        raise InputError(f"{what} not found: {path}" + (f"; {make} makes it" if make else ""))
    return path


def load_array(path: Path, what: str, make: str) -> np.ndarray:
    """Memory-map a ``.npy`` file; nothing in it is executed.

    Parameters
    ----------
    path : pathlib.Path
    what : str
        What the file holds, for the error line.
    make : str
        The command that makes the file, for the error line.

    Returns
    -------
    ndarray
        Copy-on-write: what is written to it does not reach the file.

    Raises
    ------
    InputError
        The file is missing, damaged, or an array of Python objects.
    """
    existing(path, what, make)
    try:
        # copy-on-write: torch takes only what could be written to, and the file stays as it is
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # the readers raise many kinds for damaged files
        raise InputError(
            f"{what} cannot be read: {path}: {plain_reason(error)}; make it again with {make}"
        ) from None
    if not isinstance(array, np.ndarray):  # NumPy opens a zip archive as well
        raise InputError(f"{what} cannot be read: {path}: not one array; make it again with {make}")
    return array


def load_arrays(path: Path, what: str, names: Sequence[str]) -> list[np.ndarray]:
    """Read some arrays of a ``.npz`` file; nothing in it is executed.

    Parameters
    ----------
    path : pathlib.Path
    what : str
        What the file holds, for the error line.
    names : sequence of str
        Arrays to read.

    Returns
    -------
    list of ndarray
        In the order of `names`.

    Raises
    ------
    InputError
        The file is missing or damaged, lacks an array, holds Python objects, or unpacks to far more than it
        should.
    """
    existing(path, what)
    try:
        _check_unpacked_size(path)
        with np.load(path, allow_pickle=False) as archive:
            if missing := [name for name in names if name not in archive]:
                raise InputError(
                    f"{path} has no array '{missing[0]}'; it must hold {' and '.join(names)}, and it holds: "
                    f"{choices(archive.files)}"
                )
            return [archive[name] for name in names]
    except InputError:
        raise
    except Exception as error:  # zip and npy readers raise many kinds for damaged files
        raise InputError(f"{what} cannot be read: {path}: {plain_reason(error)}") from None


def _check_unpacked_size(path: Path) -> None:
    """Raise `InputError` if a zip file unpacks to far more than arrays of numbers do."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    size = path.stat().st_size
    if unpacked > max(_ANY_BYTES, _RATIO * size):
        raise InputError(
            f"{path} would unpack from {size} to {unpacked} bytes, far more than arrays of numbers do, so it "
            f"is not read; make it again"
        )


def save_matrix(path: Path, matrix: np.ndarray) -> None:
    """Write a matrix ``(n, d)`` atomically as ``.npy`` or ``.safetensors``, as the suffix says."""
    with atomic_path(path) as temporary:
        write_matrix(temporary, matrix)


def write_matrix(path: Path, matrix: np.ndarray) -> None:
    """Write a matrix as `save_matrix` does, into a file of the caller's own, such as `atomic_path` gives."""
    if path.suffix.lower() != ".safetensors":
        path.write_bytes(array_bytes(matrix))
        return
    import torch

    dump_weights(path, {MATRIX: torch.from_numpy(matrix)})


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a ``.npy`` file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(array_bytes(array))


def array_bytes(array: np.ndarray) -> memoryview:
    """Return the content of a ``.npy`` file; NumPy's own writing does not say that the disk is full."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getbuffer()


# --- checks of embeddings ---------------------------------------------------------------------------------


def check_matrix(array: np.ndarray | Tensor, where: str | os.PathLike[str], width: int | None = None) -> None:
    """Raise `InputError` unless an array is a float matrix ``(n, d)`` that is not empty.

    Parameters
    ----------
    array : ndarray or Tensor
    where : str or path-like
        File or argument that the array comes from, for the error line.
    width : int, optional
        d that is needed; any by default.
    """
    is_float = array.dtype.kind == "f" if isinstance(array, np.ndarray) else array.is_floating_point()
    if array.ndim != 2 or not is_float or 0 in array.shape or width not in (None, array.shape[1]):
        raise InputError(
            f"{os.fspath(where)}: {str(array.dtype).removeprefix('torch.')} of shape {tuple(array.shape)}; a "
            f"float matrix (rows, {width or 'width'}) is needed"
        )


def float_rows(rows: np.ndarray) -> Tensor:
    """Copy rows as float32, ``(n, d)``; what that cannot hold becomes infinite or zero (`check_rows`)."""
    import torch

    with np.errstate(over="ignore", under="ignore"):
        return torch.from_numpy(np.array(rows, dtype=np.float32))


def finite_rows(rows: np.ndarray, where: str | os.PathLike[str]) -> Tensor:
    """Copy rows as float32, ``(n, d)``, after `check_rows`."""
    copied = float_rows(rows)
    check_rows(copied, where)
    return copied


def check_rows(
    rows: Tensor,
    where: str | os.PathLike[str],
    *,
    name: Callable[[int], object] = "row {}".format,
    advice: str = RECOMPUTE,
) -> None:
    """Raise `InputError` if a row of ``(n, d)`` has no direction: it is NaN, infinite or all zero.

    Parameters
    ----------
    rows : Tensor of shape (n, d)
    where : str or path-like
        File or argument that the rows come from, for the error line.
    name : callable, optional
        Position → what the user calls that row; its number by default.
    advice : str
        What the user can do.

    Raises
    ------
    InputError
        The line counts such rows and names the first. A row counts as infinite or zero if its length is so as
        float32.
    """
    import torch

    check_norms(torch.linalg.vector_norm(rows.float(), dim=1), where, name=name, advice=advice)


def check_norms(
    norms: Tensor,
    where: str | os.PathLike[str],
    *,
    name: Callable[[int], object] = "row {}".format,
    advice: str = RECOMPUTE,
) -> None:
    """Do the check of `check_rows` with the rows' lengths ``(n,)``, for callers that have them."""
    import torch

    bad = torch.nonzero(~torch.isfinite(norms) | (norms == 0)).flatten().tolist()
    if bad:
        raise InputError(
            f"{os.fspath(where)}: {len(bad)} of {len(norms)} rows {'is' if len(bad) == 1 else 'are'} NaN, "
            f"infinite or all zero, the first: {name(bad[0])}; {advice}"
        )
