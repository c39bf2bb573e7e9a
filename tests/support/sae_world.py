"""A small training of an SAE: its configuration and its rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from debiasing_methods.training.hyperparameters import SaeTrainingConfig

SMALL = SaeTrainingConfig(n_latents=24, levels=(2, 5), lr=1e-3, batch_size=32, epochs=4)


def small_rows() -> Tensor:
    """Rows (90, 8), float32."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(90, 8)).astype(np.float32)) + 0.5
