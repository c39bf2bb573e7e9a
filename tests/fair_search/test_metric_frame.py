"""Metrics by group in the shape of fairlearn's MetricFrame, against fairlearn's definitions written down."""

import numpy as np
import pandas as pd
import pytest
import torch

from debiasing_methods.base import QueryGroup, Vanilla
from fair_search.audit import AuditedMethod, Groups, audit
from fair_search.audit_settings import AuditSettings
from fair_search.metric_frame import by_group_table, group_metrics

N, K = 60, 4


@pytest.fixture(scope="module")
def found():
    """Images on a line, retrieved from the first on; the groups in turn are a, a, b."""
    angle = np.linspace(0, np.pi / 2, N)
    images = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    groups = [QueryGroup(torch.tensor([[1.0, 0.0]]))]
    codes = np.arange(N) % 3 // 2
    methods = {"vanilla": AuditedMethod(Vanilla(), groups)}
    return audit(images, Groups("kind", ("a", "b"), codes), methods, ["q"], AuditSettings((2, K), draws=5))


def test_by_hand(found):
    metrics = group_metrics(found, "vanilla", K)  # a, a, b, a
    weights = 1 / np.log2([2, 3, 4, 5])
    exposure = np.array([weights[[0, 1, 3]].sum(), weights[2]]) / weights.sum()
    expected = pd.DataFrame(
        {"selection_rate": [3 / 40, 1 / 20], "representation": [0.75 * 1.5, 0.75],
         "exposure": exposure * [1.5, 3]},
        index=pd.Index(["a", "b"], name="kind"),
    )  # fmt: skip
    pd.testing.assert_frame_equal(metrics.by_group, expected)
    assert metrics.difference()["selection_rate"] == pytest.approx(3 / 40 - 1 / 20)
    assert metrics.ratio()["selection_rate"] == pytest.approx((1 / 20) / (3 / 40))
    assert metrics.overall["selection_rate"] == K / N
    # the ratios are those of the audit's table
    table = found.table.set_index(["scope", "k", "metric", "method"])["value"]
    assert metrics.ratio()["representation"] == pytest.approx(table["mean", K, "dp_ratio", "vanilla"])
    assert metrics.ratio()["exposure"] == pytest.approx(table["mean", K, "exposure_ratio", "vanilla"])
    gap = table["mean", K, "exposure_difference", "vanilla"]
    assert metrics.difference()["exposure"] == pytest.approx(gap)


def test_overall_is_the_mean_weighted_by_images(found):
    metrics = group_metrics(found, "vanilla", K)
    mean = np.average(metrics.by_group.to_numpy(), axis=0, weights=found.counts)
    assert mean == pytest.approx(metrics.overall.to_numpy())


def test_table(found):
    table = by_group_table(found)
    assert len(table) == 2 * 2
    assert set(table["images"]) == {40, 20}
    assert (table.groupby("k")["representation"].max() >= 1).all()


def test_misuse(found):
    with pytest.raises(ValueError, match="'x' is not in the audit; choose from: vanilla"):
        group_metrics(found, "x", K)
    with pytest.raises(ValueError, match="K = 0 for lists of"):
        group_metrics(found, "vanilla", 0)
