"""How many rows are worked on at a time: the one definition of chunks and of their usual sizes.

No result depends on them. They bound memory, and what is worked on should stay in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

ROWS = 1024
"""Rows of a computation that makes several intermediates of a row, some in float64."""

IMAGE_ROWS = 4096
"""Images that are read, normalized and scored together: 8 MiB of float32 at d = 512."""


def chunks(n: int, size: int = ROWS) -> Iterator[slice]:
    """Give slices of at most `size` rows, in order."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
