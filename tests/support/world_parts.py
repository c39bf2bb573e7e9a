"""What the small worlds of the tests are built from: sentences, autoencoders, YAML files, trees of files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from debiasing_methods.sae import SparseAutoencoder


def word_vector(word: str, dim: int) -> np.ndarray:
    """Give every word a random direction."""
    seed = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).normal(size=dim)


def word_sum(sentence: str, dim: int) -> np.ndarray:
    """Stand in for a text tower: the sum of a random direction for each word."""
    return np.sum([word_vector(word, dim) for word in re.findall(r"\w+", sentence.lower())], axis=0)


def random_sae(
    dim: int, latents: int, generator: torch.Generator, scales: Sequence[float] = (1, 1, 1, 1)
) -> SparseAutoencoder:
    """Draw an autoencoder: encoder, its bias, decoder, center, each times its scale."""
    shapes = ((latents, dim), (latents,), (dim, latents), (dim,))
    draws = (torch.randn(*shape, generator=generator) for shape in shapes)
    return SparseAutoencoder(*(draw * scale for draw, scale in zip(draws, scales, strict=True)))


def save_yaml(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder → its content, hidden ones too; a folder has a slash after its name."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found |= {f"{name}/": b""} if path.is_dir() else {name: path.read_bytes()}
    return found
