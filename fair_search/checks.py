"""What embeddings must be, before a method sees them.

Symbols: Q queries, n images, d embedding dimension.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def check_query_embeddings(queries: Tensor, width: int | None) -> None:
    """Raise `ValueError` unless queries are a finite float matrix ``(Q, width)`` without zero rows.

    `width` None allows any.
    """
    if queries.ndim != 2 or not queries.is_floating_point() or width not in (None, queries.shape[1]):
        raise ValueError(
            f"query embeddings must be a float matrix (queries, {width or 'width'}), got {queries.dtype} of "
            f"shape {tuple(queries.shape)}"
        )
    bad = torch.nonzero(~torch.isfinite(queries).all(dim=1) | ~queries.any(dim=1)).flatten()
    if len(bad):
        raise ValueError(
            f"{len(bad)} query embedding(s) are NaN, infinite or all zero, the first in row {int(bad[0])}"
        )


def check_images(images: np.ndarray | Tensor, width: int | None) -> None:
    """Raise `ValueError` unless images are a matrix ``(n, width)``; `width` None allows any."""
    if images.ndim != 2 or width not in (None, images.shape[1]):
        raise ValueError(
            f"image embeddings must be a matrix (images, {width or 'width'}), got shape "
            f"{tuple(images.shape)}; they must come from the same backbone as the queries"
        )
