"""CLIP-clip (Wang et al. 2021): mutual information of coordinates, and what is dropped on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from debiasing_methods.base import QueryGroup, ReferenceImages
from debiasing_methods.clip_clip import ClipClip, mutual_information


@pytest.mark.parametrize("n_classes", [2, 7])
def test_information_is_the_published_one(n_classes, peer_oracle):
    oracle = peer_oracle("clip_clip", n_classes)
    train = oracle.rows("train")
    columns, labels = oracle.raw[train].numpy(), oracle.labels[train].numpy()
    published = mutual_information(columns, labels, n_classes)
    np.testing.assert_allclose(published, oracle.arrays[f"{n_classes}/mi"], rtol=0, atol=1e-9)
    assert np.argsort(published, kind="stable").tolist() == oracle.arrays[f"{n_classes}/order"].tolist()
    plugin = mutual_information(columns, labels, n_classes, "plugin")
    np.testing.assert_allclose(plugin, oracle.arrays[f"{n_classes}/mi_plugin"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 7])
@pytest.mark.parametrize(("name", "renormalize"), [("scores", False), ("scores_cosine", True)])
def test_scores_are_the_published_ones(n_classes, name, renormalize, peer_oracle):
    oracle = peer_oracle("clip_clip", n_classes)
    method, images = ClipClip(renormalize=renormalize), oracle.unit_rows(oracle.rows("val")[:20])
    text = method.debias_text([QueryGroup(torch.from_numpy(oracle.world["q0/query"]))], oracle.reference)
    scores = method.image_transform((), 0, oracle.reference).scores(images, [text[0][0]])
    expected = oracle.tensor(f"{n_classes}/{name}").float()
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("estimator", ["published", "plugin"])
def test_bins_are_those_of_numpy(estimator):
    """Values on the edges of bins, and columns on very different scales."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 500)
    columns = np.stack(
        [
            np.linspace(0, 1, 65)[random.integers(0, 65, 500)],
            random.normal(size=500) * 1e-6 + 3,
            np.round(random.normal(size=500), 1),
        ],
        axis=1,
    ).astype(np.float32)
    ours = mutual_information(columns, labels, 3, estimator)
    for column, value in zip(columns.T, ours, strict=True):
        bins = 64 if estimator == "published" else (64, np.arange(4) - 0.5)
        joint = np.histogram2d(column, labels, bins=bins)[0]
        if estimator == "published":
            from scipy.ndimage import gaussian_filter

            joint = gaussian_filter(joint, 1, mode="constant") + np.finfo(float).eps
        p = joint / joint.sum()
        q = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
        assert value == pytest.approx(float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()), abs=1e-12)


def test_counted_information_of_a_known_table():
    """Two values that tell two equally frequent classes apart: ln 2."""
    labels = np.arange(100) % 2
    columns = np.stack([labels * 1.0, np.arange(100) // 50 % 2 * 1.0], axis=1)
    information = mutual_information(columns, labels, 2, "plugin")
    np.testing.assert_allclose(information, [np.log(2), 0], atol=1e-12)


def test_a_planted_coordinate_is_dropped_first_and_a_constant_one_last():
    random = np.random.default_rng(0)
    labels = torch.arange(400) % 3
    x = torch.from_numpy(random.normal(size=(400, 10)))
    x[:, 4] += 5 * labels
    x[:, 7] = 1.5
    reference = ReferenceImages(x, labels, ("a", "b", "c"), torch.arange(400)[None])
    for estimator in ("published", "plugin"):
        one = ClipClip(keep=9, estimator=estimator).image_transform((), 0, reference)
        assert np.flatnonzero(~one.kept).tolist() == [4]
        last = ClipClip(keep=1, estimator=estimator).image_transform((), 0, reference)
        assert np.flatnonzero(last.kept).tolist() == [7]


def test_keeping_all_is_vanilla(make_world):
    world, method = make_world(), ClipClip(keep=16)
    queries = [group.queries for group in world.groups]
    plain = normalize(world.images, dim=1) @ normalize(torch.cat(queries), dim=1).T
    text = [t[0] for t in world.text(method)]
    torch.testing.assert_close(world.transform(method).scores(world.prepared(method), text), plain)


def test_dropped_coordinates_of_text_are_zero_fold_by_fold(make_world):
    world = make_world()
    method = ClipClip()
    for fold in range(3):
        kept = world.transform(method, fold=fold).kept
        assert int(kept.sum()) == 12  # 16 · 400/512, rounded to even
        for group, text in zip(world.groups, world.text(method), strict=True):
            assert torch.equal(text[fold], normalize(group.queries, dim=1) * kept)


def test_columns_count_as_stored(make_world):
    """The published code takes raw images: their lengths are part of the histograms."""
    world = make_world()
    raw = replace(world.reference, images=world.images)
    unit = replace(world.reference, images=normalize(world.images, dim=1))
    kept = [ClipClip(keep=8).image_transform((), 0, reference).kept for reference in (raw, unit)]
    assert not torch.equal(*kept)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"keep": 0}, "keep must be at least 1, got 0"),
        ({"estimator": "knn"}, "must be one of published, plugin"),
    ],
)
def test_options_out_of_range(options, line):
    with pytest.raises(ValueError, match=line):
        ClipClip(**options)


def test_more_coordinates_than_there_are(make_world):
    with pytest.raises(
        ValueError, match="keep = 17 coordinates cannot be kept of 16; set keep to at most 16"
    ):
        make_world().transform(ClipClip(keep=17))
