"""Embeddings and prompts that trainers are given as files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from bias_evaluation.embedding.text_store import read_text_embeddings
from safe_io.arrays import finite_rows
from safe_io.errors import InputError
from safe_io.files import read_json
from safe_io.matrix_files import read_matrix


def read_embeddings(path: str | os.PathLike[str]) -> Tensor:
    """Read embeddings from a file.

    Parameters
    ----------
    path : path-like
        ``.npy`` or ``.safetensors`` with a float matrix, or ``.npz`` with `embeddings` (P, d) and `prompts`
        (P,).

    Returns
    -------
    Tensor of shape (P, d), float32

    Raises
    ------
    InputError
        The file is missing, is no such file, or holds unusable rows.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return read_text_embeddings(path)[1]
    return finite_rows(read_matrix(path, "embeddings"), path)


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
