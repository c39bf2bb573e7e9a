"""Files written whole or not at all, digests, and weight files that cannot execute anything."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debiasing_methods.errors import InputError

# torch takes seconds to import; commands that only read tables and JSON need none of it.
if TYPE_CHECKING:
    from torch import Tensor

_CHUNK_BYTES = 1 << 22


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary sibling of `path` that replaces `path` when the block ends well.

    Parameters
    ----------
    path : path-like
        Final name. Its folder is made where it is missing.

    Yields
    ------
    pathlib.Path
        Temporary name in the same folder with the same suffix (some writers choose a format by it).
        After an exception it is removed and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:  # a rename that survives a power cut must not overtake the data
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; ours are ordinary ones
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON document atomically; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """Read a JSON document.

    Parameters
    ----------
    path : path-like
        File to read.
    what : str
        What the file is, for the error line.

    Returns
    -------
    object
        The parsed document.

    Raises
    ------
    InputError
        The file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{what} not found: {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{what} is not valid JSON: {path}: {error}") from None


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON (sorted keys, no spaces) as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load_weights(path: str | os.PathLike[str], *, make: str) -> dict[str, Any]:
    """Load a weight file without executing anything in it.

    Parameters
    ----------
    path : path-like
        A torch file (``.pth``, ``.pt``; read with ``weights_only=True``) or a ``.safetensors`` file.
    make : str
        How the user gets this file (the command that trains or downloads it), for the error line.

    Returns
    -------
    dict
        Names → tensors (and plain values, where the file has them), on the CPU.

    Raises
    ------
    InputError
        The file is missing, truncated, not a weight file, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights not found: {path}; to get them: {make}")
    import torch
    from safetensors.torch import load_file

    path.open("rb").close()  # a file that may not be read is its own error; what follows is a damaged one
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is damaged or holds more than tensors and plain values, so it is not loaded "
            f"(nothing in it was executed); to get it anew: {make}"
        ) from None
    except MemoryError:
        raise
    except Exception:  # a damaged file makes the readers raise almost anything
        raise InputError(f"{path} cannot be read as weights (truncated?); to get it anew: {make}") from None
    if not isinstance(weights, Mapping):
        raise InputError(f"{path} holds a {type(weights).__name__}, not a dict of tensors; to get it: {make}")
    return dict(weights)


def save_weights(path: str | os.PathLike[str], weights: Mapping[str, Any]) -> None:
    """Write weights atomically, in the format that the suffix names (``.safetensors``, else torch)."""
    import torch
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        if Path(path).suffix == ".safetensors":
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary)
        else:
            with temporary.open("wb") as file:  # given a name, torch would write it into the file
                torch.save(dict(weights), file)


def take_matrix(weights: Mapping[str, Any], name: str, *, ndim: int, path: str | os.PathLike[str]) -> Tensor:
    """Take one finite float32 tensor of `ndim` dimensions out of loaded weights.

    Raises
    ------
    InputError
        The tensor is missing, has another number of dimensions, is not floating point, or is not finite.
    """
    import torch

    tensor = weights.get(name)
    if not isinstance(tensor, torch.Tensor):
        raise InputError(
            f"{path} has no tensor '{name}'; it holds: {', '.join(map(str, weights)) or 'nothing'}"
        )
    if tensor.ndim != ndim or not tensor.is_floating_point():
        raise InputError(
            f"{path}: '{name}' is {tensor.dtype} {tuple(tensor.shape)}; a float tensor of {ndim} "
            f"dimension(s) is needed"
        )
    tensor = tensor.detach().to(torch.float32)
    if not torch.isfinite(tensor).all():
        raise InputError(f"{path}: '{name}' holds NaN or infinite values; the file is not usable")
    return tensor
