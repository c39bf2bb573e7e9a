"""SFID (Jung et al. 2024): the coordinates that are replaced, by what, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn
import torch
from torch.nn.functional import normalize

from debiasing_methods.base import ReferenceImages
from debiasing_methods.forest import ForestOptions, grow_forest, uncertain_mean
from debiasing_methods.sfid import Sfid

TAU = {2: 0.9, 7: 0.7}  # nobody is below 0.7 for gender
SAME_VERSION = sklearn.__version__.startswith("1.9.")


@pytest.mark.parametrize("n_classes", [2, 7])
def test_coordinates_are_the_published_ones(n_classes, peer_oracle):
    oracle = peer_oracle("sfid", n_classes)
    fit = Sfid(tau=TAU[n_classes]).image_transform((), 0, oracle.reference)
    ours, theirs = set(np.flatnonzero(~fit.kept)), set(oracle.arrays[f"{n_classes}/indices"].tolist())
    assert len(ours) == 100
    assert len(ours & theirs) >= (100 if SAME_VERSION else 90)


@pytest.mark.parametrize("n_classes", [2, 7])
def test_the_neutral_mean_is_that_of_the_definition(n_classes, peer_oracle):
    """Out-of-bag probabilities on the reference rows, and the published ones on the evaluation rows."""
    oracle, tau = peer_oracle("sfid", n_classes), TAU[n_classes]
    published = torch.from_numpy(oracle.arrays[f"{n_classes}/max_probability"])
    low = uncertain_mean(oracle.raw[oracle.rows("val")], published, tau, "sfid")
    torch.testing.assert_close(low, oracle.tensor(f"{n_classes}/x_low"), rtol=0, atol=1e-6)
    if SAME_VERSION:
        train = oracle.rows("train")
        fit = grow_forest(oracle.raw[train], oracle.labels[train], ForestOptions())
        low = uncertain_mean(oracle.raw[train], fit.largest, tau, "sfid")
        torch.testing.assert_close(low, oracle.tensor(f"{n_classes}/oob_x_low"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 7])
def test_images_are_the_published_ones(n_classes, peer_oracle):
    oracle = peer_oracle("sfid", n_classes)
    transform = Sfid(tau=TAU[n_classes]).image_transform((), 0, oracle.reference)
    transform.kept = torch.ones(512, dtype=torch.bool)
    transform.kept[oracle.arrays[f"{n_classes}/indices"]] = False
    transform.constant = oracle.tensor(f"{n_classes}/x_low")
    images = oracle.unit_rows(torch.from_numpy(oracle.arrays[f"{n_classes}/out_rows"]))
    applied, expected = transform.apply(images), torch.from_numpy(oracle.arrays[f"{n_classes}/out"])
    assert torch.equal(applied[:, transform.kept], images[:, transform.kept])
    torch.testing.assert_close(applied, expected, rtol=0, atol=1e-7)  # the other side normalizes by NumPy


def planted(n=300, d=20):
    """Images whose class shows in coordinate 3 alone, and in half of the images only."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    labels = torch.arange(n) % 2
    x[: n // 2, 3] = 8.0 * (2 * labels[: n // 2] - 1)
    return ReferenceImages(x, labels, ("a", "b"), torch.arange(n)[None])


def test_a_planted_coordinate_is_replaced():
    reference = planted()
    for options in ({}, {"holdout": 0.3}, {"max_samples": 100}):
        transform = Sfid(m=1, **options).image_transform((), 0, reference)
        assert np.flatnonzero(~transform.kept).tolist() == [3]
        x = normalize(reference.images, dim=1)
        changed = transform.apply(x)
        assert torch.equal(changed[:, transform.kept], x[:, transform.kept])
        assert changed[:, 3].unique().tolist() == [float(transform.constant[3])]
        assert abs(float(transform.constant[3])) < 0.1 < float(x[: len(x) // 2, 3].abs().min())


def test_more_rows_per_tree_than_there_are_is_the_whole_forest():
    reference = planted()
    one, other = (Sfid(m=4, max_samples=n).image_transform((), 0, reference) for n in (None, 300))
    assert torch.equal(one.kept, other.kept)
    assert torch.equal(one.constant, other.constant)


def test_ties_go_to_the_higher_index():
    transform = Sfid(m=2)._replacing(torch.tensor([0.5, 0.0, 0.0, 0.0]), torch.zeros(4))
    assert transform.kept.tolist() == [False, True, True, False]


def test_the_default_is_100_and_at_most_a_fifth():
    for d, m in ((1024, 100), (512, 100), (64, 12), (4, 1)):
        transform = Sfid()._replacing(torch.arange(float(d)), torch.zeros(d))
        assert int((~transform.kept).sum()) == m


def test_a_probability_of_exactly_tau_is_not_below():
    images = torch.eye(3, dtype=torch.float64)
    largest = torch.tensor([0.7 - 1e-15, 0.69, float("nan")], dtype=torch.float64)
    assert uncertain_mean(images, largest, 0.7, "sfid").tolist() == [0, 1, 0]


def test_no_image_below_tau():
    reference = planted()
    images = reference.images.clone()
    images[:, 3] = 50.0 * (2 * reference.labels - 1)
    with pytest.raises(ValueError, match=r"sfid: no reference image .* below tau = 0.6 \(the smallest is"):
        Sfid(tau=0.6).image_transform((), 0, replace(reference, images=images))


def test_text_with_a_forest_on_the_bias_prompts(make_world):
    world, method = make_world(), Sfid(text="prompts", m=3, tau=0.9)
    assert method.needs == {"bias_prompts"}
    for group, text in zip(world.groups, method.debias_text(world.groups), strict=True):
        changed = text != normalize(group.queries, dim=1)
        assert changed.any(dim=0).sum() == 3
    with pytest.raises(ValueError, match="sfid needs bias prompts"):
        method.debias_text([replace(world.groups[0], bias_prompts=())])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"m": 0}, "m must be at least 1, got 0"),
        ({"tau": 0.0}, "tau must lie above 0 and be at most 1"),
        ({"tau": float("nan")}, "tau must lie above 0"),
        ({"holdout": 1.0}, "holdout must lie strictly between 0 and 1"),
        ({"max_samples": 0}, "max_samples must be at least 1"),
        ({"text": "images"}, "text must be one of none, prompts"),
    ],
)
def test_options_out_of_range(options, line):
    with pytest.raises(ValueError, match=line):
        Sfid(**options)


def test_more_coordinates_than_there_are(make_world):
    with pytest.raises(ValueError, match="m = 17 coordinates cannot be replaced in embeddings of width 16"):
        make_world().transform(Sfid(m=17))
