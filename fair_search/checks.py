"""What embeddings must be, before a method sees them.

Symbols: Q queries, n images, d embedding dimension.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from safe_io.arrays import check_matrix, check_rows


def check_query_embeddings(queries: Tensor, width: int | None) -> None:
    """Raise `ValueError` unless queries are a finite float matrix ``(Q, width)`` without zero rows.

    `width` None allows any.
    """
    check_matrix(queries, "query embeddings", width)
    check_rows(queries, "query embeddings")


def check_images(images: np.ndarray | Tensor, width: int | None) -> None:
    """Raise `ValueError` unless images are a matrix ``(n, width)``; `width` None allows any."""
    if images.ndim != 2 or width not in (None, images.shape[1]):
        raise ValueError(
            f"image embeddings must be a matrix (images, {width or 'width'}), got shape "
            f"{tuple(images.shape)}; they must come from the same backbone as the queries"
        )
