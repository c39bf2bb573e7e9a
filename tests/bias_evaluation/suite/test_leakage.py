"""Probes of the bias attribute: what they read, what they cannot, and that a seed repeats them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.suite.leakage import Leakage, ProbeSettings, method_leakage, probe
from debiasing_methods.base import IdentityTransform, QueryGroup, Vanilla
from debiasing_methods.projections import PrismMini

N, D = 1500, 8
FAST = ProbeSettings(folds=2, max_iter=60)


def _images(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32)


def test_what_is_planted_is_read():
    images = _images()
    codes = (images[:, 0] > 0.5).astype(int)
    found = probe(images, codes)
    assert found.linear > 0.95
    assert found.mlp > 0.9
    assert found.majority == pytest.approx((codes == 0).mean())
    assert found.n_images == N


def test_a_linear_probe_does_not_see_a_product_and_an_mlp_does():
    images = _images()
    found = probe(images, (images[:, 0] * images[:, 1] > 0).astype(int))
    assert found.linear < 0.6
    assert found.mlp > 0.85


def test_nothing_is_read_from_noise():
    codes = np.random.default_rng(1).choice(3, N, p=[0.5, 0.3, 0.2])
    found = probe(_images(), codes)
    assert abs(found.linear - found.majority) < 0.04  # the standard error is 0.013
    assert abs(found.mlp - found.majority) < 0.06


def test_probes_are_scored_on_images_that_they_were_not_fitted_to():
    """With more dimensions than images a linear probe fits any labels: only held-out images show that."""
    random = np.random.default_rng(2)
    found = probe(random.normal(size=(200, 400)), random.integers(0, 2, 200), FAST)
    assert found.linear < 0.7


def test_the_same_seed_gives_the_same_figures_and_most_images_are_drawn():
    images = _images()
    codes = (images[:, 0] > 0).astype(int)
    settings = ProbeSettings(most_images=300, folds=2, seed=3)
    first = probe(images, codes, settings)
    assert first == probe(images, codes, settings)
    assert first != probe(images, codes, ProbeSettings(most_images=300, folds=2, seed=4))
    assert first.n_images == 300


def test_images_without_a_class_are_left_out():
    images = _images()
    codes = (images[:, 0] > 0).astype(int)
    codes[::3] = -1
    assert probe(images, codes, FAST) == probe(images[codes >= 0], codes[codes >= 0], FAST)


@pytest.mark.parametrize(
    ("codes", "line"),
    [
        (np.zeros(N, int), "at least two classes, found 1"),
        (np.array([1] + [0] * (N - 1)), "class 1 has 1 of 1500 images"),
    ],
)
def test_too_few_images_are_named(codes, line):
    with pytest.raises(ValueError, match=line):
        probe(_images(), codes)


def test_images_must_be_finite():
    images = _images()
    images[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        probe(images, np.arange(N) % 2)


class TestOfAMethod:
    """The attribute is along the bias prompt: PRISM-mini removes it, vanilla does not."""

    @pytest.fixture
    def world(self) -> tuple[StoredImages, np.ndarray, list[QueryGroup]]:
        images = _images()
        codes = np.random.default_rng(5).integers(0, 2, N)
        images[:, 0] += 4 * codes
        axis = torch.eye(D)[:1]
        groups = [QueryGroup(torch.ones(1, D), name="one", spurious=axis)]
        return StoredImages(images, Path("images.npy")), codes, groups

    def test_leakage_falls_to_the_majority_where_the_attribute_is_removed(self, world):
        images, codes, groups = world
        rows = np.arange(0, N, 2)
        before = method_leakage(Vanilla(), IdentityTransform(), images, codes, rows, settings=FAST)["unit"]
        method = PrismMini()
        after = method_leakage(method, method.image_transform(groups), images, codes, rows, settings=FAST)
        assert before.linear > 0.9
        assert after["returned"].linear < 0.65
        assert before.majority == after["unit"].majority
        assert before.n_images == len(rows)

    def test_a_text_method_leaves_images_as_they_are(self, world):
        images, codes, _ = world
        rows = np.arange(N)
        of_method = method_leakage(Vanilla(), IdentityTransform(), images, codes, rows, settings=FAST)
        expected = probe(images.take(slice(0, N), normalize=True).numpy(), codes, FAST)
        assert of_method == {"returned": expected, "unit": expected}

    def test_several_groups_give_their_mean(self, world):
        images, codes, groups = world
        other = QueryGroup(torch.ones(1, D), name="two", spurious=torch.eye(D)[1:2])
        method, rows = PrismMini(), np.arange(N)
        transform = method.image_transform([*groups, other])
        one, two, both = (
            method_leakage(method, transform, images, codes, rows, chosen, FAST)["unit"]
            for chosen in ((0,), (1,), (0, 1))
        )
        assert two.linear > one.linear + 0.2
        assert both.linear == pytest.approx((one.linear + two.linear) / 2)
        assert isinstance(both, Leakage)
