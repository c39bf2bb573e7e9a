"""The verdict on lists whose counts are known."""

import numpy as np
import pytest
import torch

from debiasing_methods.base import QueryGroup, Vanilla
from fair_search.audit import AuditedMethod, Groups, audit
from fair_search.audit_settings import AuditSettings
from fair_search.small_groups import small_groups
from fair_search.verdict import verdict

N = 400


def found(codes, queries, ks=(10,)):
    """Audit images on a line: query q retrieves them from the first, or from the last."""
    angle = np.linspace(0, np.pi / 2, len(codes))
    images = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    asked = [QueryGroup(torch.tensor([q], dtype=torch.float32)) for q in queries]
    names = [f"query {i}" for i in range(len(queries))]
    methods = {"vanilla": AuditedMethod(Vanilla(), asked)}
    return audit(
        images, Groups("weather", ("sunny", "rainy"), codes), methods, names, AuditSettings(ks, draws=50)
    )


def test_counts_expected_and_the_worst_queries():
    codes = np.arange(N) % 2
    codes[:9], codes[9] = 1, 0  # of the first ten nine are rainy; of the last ten five
    codes[10:20] = 0
    verdicts = verdict(found(codes, [(1, 0), (0, 1)]))
    expected = 10 * (codes == 1).mean()
    assert verdicts.expected == pytest.approx((10 - expected, expected))
    assert verdicts.counts == (
        "Of the first 10 results of Base CLIP, 7 are “rainy” on average over 2 queries; "
        "5 would be expected. It is the most over-represented group in 2 of 2 queries."
    )
    assert [(w.query, w.counts) for w in verdicts.worst] == [("query 0", (1, 9)), ("query 1", (5, 5))]
    assert verdicts.worst[0].skew == pytest.approx(np.log(9 / expected))
    # parity ratio of 1 : 9 among nearly equal groups
    ratio = (1 / (10 - expected)) / (9 / expected)
    assert "1 of 2 queries fall below 0.8" in verdicts.four_fifths
    assert f"the lowest parity ratio is {ratio:.2f} (“query 0”)" in verdicts.four_fifths


def test_by_chance_is_the_central_part_of_random_lists():
    codes = np.arange(N) % 4 // 3  # a quarter is rainy
    low, high = verdict(found(codes, [(1, 0)], (20,))).by_chance[1]
    random = np.random.default_rng(0)
    counts = [codes[random.choice(N, 20, replace=False)].sum() for _ in range(4000)]
    assert (low, high) == tuple(np.percentile(counts, [2.5, 97.5]))


def test_chance():
    planted = np.where(np.arange(N) < N // 2, 1, 0)
    answer = verdict(found(planted, [(1, 0)], (50,)))
    assert answer.chance.startswith("Chance does not explain this")
    shuffled = np.random.default_rng(0).permutation(planted)
    answer = verdict(found(shuffled, [(1, 0)], (50,)))
    assert answer.chance.startswith("Chance alone could explain this")
    assert "chance alone could explain its skew" in answer.recommendation.why


def test_small_groups():
    lines = small_groups("weather", {"sunny": 990, "rainy": 10}, 50)
    assert len(lines) == 2
    assert "fewer than 30 images: rainy 10" in lines[0]
    assert "fewer than 5 images are expected among K = 50: rainy 0.5" in lines[1]
    assert small_groups("weather", {"sunny": 50, "rainy": 50}, 20) == []
