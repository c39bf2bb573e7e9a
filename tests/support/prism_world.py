"""Sizes of PRISM's text sets, random embeddings of their sentences, and training on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from debiasing_methods.linalg import unit
from debiasing_methods.training.prism import train_maps
from debiasing_methods.training.prism_sampling import (
    PrismSamples,
    TextSetSizes,
)

GENDER = TextSetSizes(20, (5, 4), (1, 1))
RACE = TextSetSizes(20, (5, 4), (3, 1, 2, 1, 1, 1, 4))
SIZES = {"gender": GENDER, "race": RACE, "many targets": TextSetSizes(3, (2, 1, 4), (6, 5))}


def random_embeddings(sizes: TextSetSizes, d: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    drift = torch.randn(d, generator=generator, dtype=torch.float64)
    return unit(torch.randn(sizes.sentences, d, generator=generator, dtype=torch.float64) + drift).to(dtype)


def train(
    samples: Sequence[PrismSamples], embeddings: Tensor, epochs: int = 1, **options: Any
) -> tuple[Tensor, Tensor]:
    """Train maps of some samples together, from their own starting values."""
    starts = [one.start(embeddings.shape[1], epochs) for one in samples]
    return train_maps(
        torch.stack([w for w, _ in starts]).to(embeddings.dtype),
        embeddings,
        torch.stack([one.positives for one in samples]),
        torch.stack([one.negatives for one in samples]),
        torch.stack([order for _, order in starts]),
        **options,
    )
