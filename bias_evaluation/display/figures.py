"""What figures share: numbers beside points, and files that repeat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from safe_io.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Where a point's number may stand, in typographic points from it, the best place first.
_OFFSETS = tuple((r * x, r * y) for r in (9.0, 18.0, 27.0) for x, y in
                 ((0.8, 0.6), (-0.8, 0.6), (0.8, -0.6), (-0.8, -0.6), (0, 1), (0, -1)))  # fmt: skip


def place_numbers(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each point's number where it hides neither another number nor another point."""
    pixels = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken: list[np.ndarray] = list(pixels)
    scale = axes.figure.dpi / 72  # offsets are in points, distances in pixels
    for (x, y, number), pixel in zip(points, pixels, strict=True):
        free = [min(np.hypot(*(pixel + np.multiply(o, scale) - t)) for t in taken) for o in _OFFSETS]
        offset = _OFFSETS[int(np.argmax(np.minimum(free, 10 * scale)))]  # the first that is far enough
        taken.append(pixel + np.multiply(offset, scale))
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5"} if max(map(abs, offset)) > 12 else None
        axes.annotate(
            number,
            (x, y),
            offset,
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            arrowprops=line,
        )


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure atomically; the suffix of `path` names the format. Equal figures give equal files."""
    from matplotlib import rc_context

    undated = {"pdf": {"CreationDate": None}, "png": {"Software": None}}[path.suffix[1:]]
    with atomic_path(path) as temporary, rc_context({"pdf.fonttype": 42}):
        figure.savefig(temporary, dpi=dpi, metadata=undated)


def save_both(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and PDF; `path` has no suffix."""
    for suffix in (".png", ".pdf"):
        save_figure(figure, path.with_name(path.name + suffix))
    print(f"written: {path}.png, .pdf")
