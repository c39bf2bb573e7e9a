"""Hours at the paper's size follow from rates, and alternatives do not count."""

from __future__ import annotations

import pytest

from benchmarks.reproduce_cost import Row, format_rows


def test_hours_are_amount_over_rate() -> None:
    assert Row("text", "RN50", "512 sentences", 100.0, 720_000, "sentences").hours == pytest.approx(2.0)


def test_the_sum_leaves_alternatives_out() -> None:
    rows = [
        Row("images", "RN50", "4 images", 1.0, 5400, "images"),
        Row("images, bf16", "RN50", "4 images", 2.0, 5400, "images", optional=True),
    ]
    *_, alternative, total = format_rows(rows).splitlines()
    assert "(0.75)" in alternative
    assert total.endswith("1.5 hours")
