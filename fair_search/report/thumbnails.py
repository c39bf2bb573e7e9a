"""Small pictures of retrieved images, as JPEG data URIs."""

from __future__ import annotations

import io
from pathlib import Path

from bias_evaluation.datasets.rgb import Reading, as_rgb
from fair_search.report.page import data_uri

SIZE = 112  # pixels of the longer side
_QUALITY = 80


def thumbnail(path: Path, reading: Reading | None = None) -> str:
    """Return an image file as a small JPEG in a data URI; empty where it cannot be read as an image.

    It shows what the model saw: `reading` says how the image was read when it was embedded.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * SIZE, 2 * SIZE))  # JPEG: decode at a fraction of the size
            small, _ = as_rgb(image, reading)
            small.thumbnail((SIZE, SIZE))
            content = io.BytesIO()
            small.save(content, "JPEG", quality=_QUALITY)
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ):  # what Pillow raises for bad files
        return ""
    return data_uri(content.getvalue(), "image/jpeg")
