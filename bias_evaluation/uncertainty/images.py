"""The uncertainty of stored images, from their residuals.

Symbols: N images, w width of the residual stream, d embedding dimension, Q texts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.uncertainty.factors import Factors
from debiasing_methods.chunks import IMAGE_ROWS, chunks
from debiasing_methods.encoder_head import EncoderHead
from debiasing_methods.linalg import unit
from debiasing_methods.uncertainty import Spread, cosine_moments
from safe_io.arrays import check_matrix
from safe_io.errors import InputError

_CHECKED = 64  # rows
_LEAST_COSINE = 0.999  # embeddings in half precision reach 0.99999


def check_residuals(residuals: np.ndarray, head: EncoderHead, images: StoredImages, path: Path) -> None:
    """Raise `InputError` unless residuals give the stored embeddings, of some rows."""
    check_matrix(residuals, path, head.width)
    if len(residuals) != len(images):
        raise InputError(
            f"{path} has {len(residuals)} rows, but there are {len(images)} embeddings; make both again with "
            f"precompute_embeddings.py --residuals --overwrite"
        )
    rows = torch.from_numpy(np.linspace(0, len(images) - 1, min(_CHECKED, len(images))).astype(np.int64))
    made = unit(head.embeddings(torch.from_numpy(residuals[rows.numpy()]).float()))
    cosines = (made * images.take(rows.to(images.device), normalize=True).cpu()).sum(1)
    worst = int(cosines.argmin())
    if not cosines[worst] >= _LEAST_COSINE:
        raise InputError(
            f"{path}: row {int(rows[worst])} gives another embedding than is stored (cosine "
            f"{float(cosines[worst]):.4f}); make both again with precompute_embeddings.py --residuals "
            f"--overwrite"
        )


def image_spread(residuals: np.ndarray, factors: Factors) -> Spread:
    """Uncertainty of images with residuals ``(N, w)``."""
    posterior, parts = factors.posterior("image"), []
    for rows in chunks(len(residuals), IMAGE_ROWS):
        features = factors.image.head.features(torch.from_numpy(residuals[rows]).float())
        parts.append(posterior.spread(features))
    return Spread(torch.cat([part.spreads for part in parts]), parts[0].diagonal)


def mean_variances(images: StoredImages, spread: Spread, texts: Tensor, text_variances: Tensor) -> Tensor:
    """Mean over the texts of the variance of each image's cosines, ``(N,)`` float64, on the CPU.

    Parameters
    ----------
    images : StoredImages
    spread : Spread
        Of the N images.
    texts, text_variances : Tensor of shape (Q, d)
        Raw embeddings and their variances.
    """
    found = torch.empty(len(images), dtype=torch.float64)
    for rows in chunks(len(images), IMAGE_ROWS):
        taken = images.take(rows, normalize=False)
        _, variances = cosine_moments(taken, spread[rows].variances, texts, text_variances)
        found[rows] = variances.mean(1).cpu()
    return found
