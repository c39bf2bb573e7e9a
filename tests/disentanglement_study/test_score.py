"""The score by its definition, and the paper's figures."""

from __future__ import annotations

import math

import pytest

from disentanglement_study.generate_disentanglement_plot import published_bars
from disentanglement_study.score import score_folds, score_means


def test_score_and_spread_by_hand() -> None:
    score = score_folds([0.9, 1.0], [0.6, 0.8], 0.5)
    direct, leak = 0.95 - 0.5, 0.7 - 0.5
    assert score.value == pytest.approx(1 - leak / direct)
    assert score.spread == pytest.approx(leak / direct * math.sqrt((0.1 / leak) ** 2 + (0.05 / direct) ** 2))
    assert score.undefined is None


@pytest.mark.parametrize(
    ("direct", "leak", "name"), [(0.5, 0.7, "a_direct"), (0.9, 0.5, "a_leak"), (0.4, 0.4, "a_direct")]
)
def test_no_score_where_an_accuracy_is_not_above_chance(direct: float, leak: float, name: str) -> None:
    score = score_means(direct, 0.0, leak, 0.0, 0.5)
    assert (score.value, score.spread) == (None, None)
    assert name in score.undefined


def test_published_scores() -> None:
    bars = {(b.backbone, b.bias, b.feature): b.score for b in published_bars()}
    assert len(bars) == 8
    score = bars["ViT-B-16", "gender", "sae"]
    assert score.value == pytest.approx(1 - (0.7995 - 0.5) / (0.997 - 0.5))
    for backbone in ("ViT-B-16", "ViT-L-14@336px"):  # the paper's claim, by its own figures
        for bias in ("gender", "ethnicity"):
            assert bars[backbone, bias, "sae"].value > bars[backbone, bias, "clip"].value
