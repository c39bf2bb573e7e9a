"""SAE latents of the study's sentences, and whether the SAE goes with the backbone.

Symbols: n sentences, d embedding dimension, s latents.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.grid.configs import Backbone
from debiasing_methods.chunks import chunks
from debiasing_methods.sae import SparseAutoencoder


def sae_latents(sae: SparseAutoencoder, embeddings: Tensor) -> np.ndarray:
    """SAE latents ``(n, s)``, float32, of raw embeddings ``(n, d)``."""
    out = np.empty((len(embeddings), sae.n_latents), dtype=np.float32)
    for rows in chunks(len(embeddings)):
        out[rows] = sae.encode(embeddings[rows]).numpy()
    return out


def sae_facts(
    sae: SparseAutoencoder, embeddings: Tensor, latents: np.ndarray, backbone: Backbone, path: Path
) -> dict[str, float]:
    """How dense the latents are, and how well the SAE rebuilds the sentences; a warning where it does not.

    An SAE of another backbone of the same width passes every check of shapes; what gives it away is that it
    rebuilds the embeddings worse than their mean does. It is no error: an SAE trained on other data may, too.
    """
    error = 0.0
    for rows in chunks(len(embeddings)):
        rebuilt = sae.decode(torch.from_numpy(latents[rows]))
        error += float((embeddings[rows] - rebuilt).square().sum())
    fvu = error / float((embeddings - embeddings.mean(0)).square().sum())
    if fvu >= 1:
        print(
            f"warning: {path} rebuilds the text embeddings of {backbone.name} worse than their mean does "
            f"(fraction of variance unexplained {fvu:.2f}); is it the SAE of another backbone?",
            file=sys.stderr,
        )
    return {"fvu": fvu, "active_share": float(np.count_nonzero(latents) / latents.size)}
