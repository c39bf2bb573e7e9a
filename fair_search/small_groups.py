"""Warnings about groups that are too small for their shares to say much."""

from __future__ import annotations

from collections.abc import Mapping

from fair_search.audit_settings import FEW_IMAGES
from safe_io.documents import choices

FEW_EXPECTED = 5  # images of a group among K retrieved ones


def small_groups(attribute: str, counts: Mapping[str, int], k: int) -> list[str]:
    """Name the groups with few images, and those of which few can be expected among K: a line each.

    Parameters
    ----------
    attribute : str
    counts : mapping
        Group → its number of images.
    k : int
        The largest depth K.
    """
    lines = []
    if few := [f"{name} {n}" for name, n in counts.items() if n < FEW_IMAGES]:
        lines.append(
            f"groups of '{attribute}' with fewer than {FEW_IMAGES} images: {choices(few)}; their shares say "
            f"little"
        )
    total = max(sum(counts.values()), 1)
    expected = {name: k * n / total for name, n in counts.items()}
    if rare := [f"{name} {n:.1f}" for name, n in expected.items() if n < FEW_EXPECTED]:
        lines.append(
            f"groups of '{attribute}' of which fewer than {FEW_EXPECTED} images are expected among K = {k}: "
            f"{choices(rare)}; their shares move by chance"
        )
    return lines
