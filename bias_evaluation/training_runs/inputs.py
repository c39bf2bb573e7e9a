"""Embeddings and prompts that trainers are given as files."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safe_io.errors import InputError
from safe_io.files import check_unpacked_size, read_json


def read_embeddings(path: str | os.PathLike[str]) -> Tensor:
    """Read embeddings from a file.

    Parameters
    ----------
    path : path-like
        ``.npy`` with a float matrix, or ``.npz`` with `embeddings` (P, d) and `prompts` (P,).

    Returns
    -------
    Tensor of shape (P, d), float32

    Raises
    ------
    InputError
        The file is missing, is no such file, or holds unusable rows.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            check_unpacked_size(path)
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)  # a header may promise more than follows
        array = _from_npz(loaded, path) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except FileNotFoundError:
        raise InputError(f"embeddings not found: {path}") from None
    except InputError:
        raise
    except (ValueError, EOFError, OverflowError, SyntaxError, TypeError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{path} is not a readable .npy or .npz file of numbers") from None
    if array.dtype.kind != "f":
        raise InputError(f"{path}: embeddings are {array.dtype}; floating point is needed")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        embeddings = torch.from_numpy(array.astype(np.float32))
    check_embeddings(embeddings, str(path))
    return embeddings


def _from_npz(archive: Any, path: Path) -> np.ndarray:
    with archive:
        missing = [name for name in ("prompts", "embeddings") if name not in archive]
        if missing:
            raise InputError(
                f"{path} has no array '{missing[0]}'; it needs prompts (P,) and embeddings (P, d), and "
                f"holds: {', '.join(archive.files) or 'nothing'}"
            )
        prompts, embeddings = archive["prompts"], archive["embeddings"]
    if len(prompts) != len(embeddings):
        raise InputError(f"{path}: {len(prompts)} prompts, but {len(embeddings)} rows of embeddings")
    return embeddings


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """Read prompts: a JSON or YAML list of strings (``.json``, ``.yml``, ``.yaml``), else one a line.

    Raises
    ------
    InputError
        The file is missing, is not a list of non-empty strings, or is empty.
    """
    path = Path(path)
    if path.suffix == ".json":
        prompts = read_json(path, "prompt list")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"prompt list not found: {path}") from None
        except UnicodeDecodeError:
            raise InputError(f"prompt list is not UTF-8 text: {path}") from None
        is_yaml = path.suffix in (".yml", ".yaml")
        prompts = _parse_yaml(text, path) if is_yaml else [line for line in text.splitlines() if line.strip()]
    if not isinstance(prompts, list) or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise InputError(f"{path}: a list of non-empty strings is needed")
    if not prompts:
        raise InputError(f"{path} holds no prompt")
    return [prompt.strip() for prompt in prompts]


def _parse_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"prompt list is not valid YAML: {path}: {error}") from None


def check_embeddings(embeddings: Tensor, where: str) -> None:
    """Raise `InputError` unless `embeddings` are a finite (n, d) float matrix without all-zero rows."""
    if embeddings.ndim != 2 or 0 in embeddings.shape or not embeddings.is_floating_point():
        raise InputError(
            f"{where}: {str(embeddings.dtype).removeprefix('torch.')} of shape {tuple(embeddings.shape)}; a "
            f"float matrix (rows, width) is needed"
        )
    for bad, what in (
        (~embeddings.isfinite().all(1), "NaN or infinite values"),
        (~embeddings.any(1), "zeros only"),
    ):
        if bad.any():
            first = int(bad.nonzero()[0])
            raise InputError(
                f"{where}: {int(bad.sum())} of {len(bad)} rows hold {what} (the first is row {first}); "
                f"remove or recompute them"
            )
