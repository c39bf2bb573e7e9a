"""Files written whole or not at all, digests, and weight files that cannot execute anything."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_io.errors import InputError
from safe_io.locks import PARTIAL, hold, remove_abandoned

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
    remove_abandoned(path.parent)
    handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with hold(temporary):  # a file that is not locked is taken for what a killed run has left
            with errors_named(path):
                yield temporary
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())  # a rename that survives a power cut must not overtake the data
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; ours are ordinary ones
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_paths(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """Give temporary siblings of files that belong together: all of them appear, or none (`atomic_path`)."""
    with ExitStack() as stack:
        yield [stack.enter_context(atomic_path(path)) for path in paths]


@contextmanager
def errors_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file in errors of the operating system that do not: those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


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
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Write a value as the text of a JSON document; NaN and infinities are refused, since JSON has none."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


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
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or a number of thousands of digits
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


def load_weights(path: str | os.PathLike[str], *, make: str, alone: str | None = None) -> dict[str, Any]:
    """Load a weight file without executing anything in it.

    Parameters
    ----------
    path : path-like
        A torch file (``.pth``, ``.pt``; read with ``weights_only=True``) or a ``.safetensors`` file.
    make : str
        How the user gets this file (the command that trains or downloads it), for the error line.
    alone : str, optional
        Name for the tensor of a torch file that is not in a dict; such a file is refused by default.

    Returns
    -------
    dict
        Names → tensors (and plain values, where the file has them), on the CPU.

    Raises
    ------
    InputError
        The file is missing, truncated, not a weight file, or holds more than tensors and plain values; it is
        compressed; or a tensor in it is not stored number by number, so that it grows when it is used.
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
        _check_size(path, make)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks about odd files; what counts is checked here
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is damaged or holds more than tensors and plain values, so it is not loaded "
            f"(nothing in it was executed); to get it again: {make}"
        ) from None
    except (MemoryError, InputError):
        raise
    except Exception:  # a damaged file makes the readers raise almost anything
        raise InputError(f"{path} cannot be read as weights (truncated?); to get it again: {make}") from None
    if alone is not None and isinstance(weights, torch.Tensor):
        weights = {alone: weights}
    if not isinstance(weights, Mapping):
        raise InputError(f"{path} holds a {type(weights).__name__}, not a dict of tensors; to get it: {make}")
    _check_storage(weights, path, make)
    return dict(weights)


def _check_size(path: Path, make: str) -> None:
    """Refuse a torch file whose parts unpack to more than it has: torch stores them as they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > path.stat().st_size:
        raise InputError(
            f"{path} is compressed and would unpack from {path.stat().st_size} to {unpacked} bytes; "
            f"weight files are not compressed, so it is not loaded; to get it again: {make}"
        )


def _check_storage(weights: Any, path: Path, make: str) -> None:
    """Refuse tensors that are not stored number by number: they grow, or fail, when they are used."""
    import torch

    todo, seen = [("", weights)], set()
    while todo:  # no recursion: a file may hold a mapping that contains itself, or is nested without end
        name, value = todo.pop()
        if isinstance(value, torch.Tensor):
            plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise InputError(
                    f"{path}: '{name}' of shape {tuple(value.shape)} is not stored number by number; "
                    f"to get it again: {make}"
                )
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            parts = value.items() if isinstance(value, Mapping) else enumerate(value)
            todo += [(str(key), part) for key, part in parts if not isinstance(part, str | float | int)]


def save_weights(path: str | os.PathLike[str], weights: Mapping[str, Any]) -> None:
    """Write weights atomically, in the format that the suffix names (``.safetensors``, else torch)."""
    with atomic_path(path) as temporary:
        dump_weights(temporary, weights)


def dump_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Write weights into a file of the caller's own, such as `atomic_path` gives."""
    import torch
    from safetensors.torch import save

    if path.suffix == ".safetensors":
        path.write_bytes(save({name: tensor.contiguous() for name, tensor in weights.items()}))
        return
    buffer = io.BytesIO()  # given the file, torch names it inside, and tells of a full disk in its own way
    torch.save(dict(weights), buffer)
    path.write_bytes(buffer.getbuffer())


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
