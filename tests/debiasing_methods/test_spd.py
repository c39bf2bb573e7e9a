"""SPD (Zhao et al. 2025): the subspace against published INLP, what is put back, depth and order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from debiasing_methods.base import ReferenceImages
from debiasing_methods.forest import uncertain_mean
from debiasing_methods.logistic import accuracy, fit_logistic
from debiasing_methods.spd import Depth, Spd, attribute_subspace

ROUNDS = {2: 5, 7: 2}


def reference_rows(oracle):
    train = oracle.rows("train")
    return oracle.unit_rows(train, torch.float64), oracle.labels[train]


@pytest.mark.parametrize("order", ["qr", "svd"])
@pytest.mark.parametrize("n_classes", [2, 7])
def test_the_subspace_is_that_of_the_published_inlp(n_classes, order, peer_oracle):
    """Solved tightly; rows are free within a round, so projectors are compared."""
    oracle = peer_oracle("inlp", n_classes)
    ours = attribute_subspace(*reference_rows(oracle), n_classes, Depth(ROUNDS[n_classes], "rounds", order))
    assert len(ours) == ROUNDS[n_classes] * (n_classes - 1)
    eye = torch.eye(len(ours), dtype=torch.float64)
    torch.testing.assert_close(ours @ ours.T, eye, rtol=0, atol=1e-10)
    for kind in ("tight", "definition"):
        expected = oracle.tensor(f"{n_classes}/{kind}/basis")
        torch.testing.assert_close(ours.T @ ours, expected.T @ expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 7])
def test_directions_of_a_cut_round_come_in_the_order_of_the_classes(n_classes, peer_oracle):
    oracle = peer_oracle("inlp", n_classes)
    ours = attribute_subspace(*reference_rows(oracle), n_classes, Depth(5, order="qr"))
    expected = oracle.tensor(f"{n_classes}/definition/first_round_qr")[:5]
    assert len(ours) == 5
    cosines = (ours[: len(expected)] * expected).sum(dim=1).abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 7])
def test_images_are_those_of_the_definition(n_classes, peer_oracle):
    """INLP and what is put back, from the oracle's own x̄_low."""
    oracle, inlp = peer_oracle("sfid", n_classes), peer_oracle("inlp", n_classes)
    depth = Depth(ROUNDS[n_classes], "rounds")
    basis = attribute_subspace(*reference_rows(inlp), n_classes, depth)
    low = oracle.tensor(f"{n_classes}/x_low")
    x = oracle.unit_rows(torch.from_numpy(oracle.arrays[f"{n_classes}/out_rows"]), torch.float64)
    ours = x - (x @ basis.T) @ basis + (low @ basis.T) @ basis
    torch.testing.assert_close(ours, oracle.tensor(f"{n_classes}/spd_out"), rtol=0, atol=1e-5)


def world_of(n_classes=3, n=240, d=12):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % n_classes
    shift = 0.8 * torch.randn(n_classes, d, generator=generator, dtype=torch.float64)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) + 1 + shift[labels]
    return ReferenceImages(x, labels, tuple("abcdefg"[:n_classes]), torch.arange(n)[None])


def test_every_image_has_the_neutral_part():
    """``x″Uᵀ = x̄_low Uᵀ``: put-back adds a constant to all dot products of a query."""
    reference = world_of()
    transform = Spd(tau=0.8).image_transform((), 0, reference)
    changed = transform.apply(normalize(reference.images, dim=1))
    along = changed @ transform.right.T
    torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-12)
    plain = Spd(put_back=False).image_transform((), 0, reference).apply(normalize(reference.images, dim=1))
    assert float((plain @ transform.right.T).abs().max()) < 1e-12
    query = torch.randn(12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shift = (changed - plain) @ query
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-12)


def test_what_is_put_back_is_the_mean_of_the_uncertain_images():
    from debiasing_methods.forest import ForestOptions, grow_forest

    reference = world_of()
    transform = Spd(tau=0.8).image_transform((), 0, reference)
    fit = grow_forest(reference.images, reference.labels, ForestOptions())
    low = uncertain_mean(reference.images, fit.largest, 0.8, "spd")
    torch.testing.assert_close(transform.offset, (low @ transform.right.T) @ transform.right)


def test_a_probe_falls_to_chance():
    reference = world_of(2)
    x = normalize(reference.images, dim=1)
    before = accuracy(x, reference.labels, *fit_logistic(x, reference.labels, 2))
    after = Spd(r=5, put_back=False).image_transform((), 0, reference).apply(x)
    weights, intercept = fit_logistic(after, reference.labels, 2)
    assert before > 0.7
    assert accuracy(after, reference.labels, weights, intercept) < before - 0.1
    assert float(weights.norm()) < 0.2


def renumbered(reference, order):
    codes = torch.empty(len(order), dtype=torch.int64)
    codes[torch.tensor(order)] = torch.arange(len(order))
    return replace(
        reference, labels=codes[reference.labels], classes=tuple(reference.classes[i] for i in order)
    )


@pytest.mark.parametrize(("order", "depends"), [("svd", False), ("qr", True)])
def test_the_numbers_of_the_classes(order, depends):
    """With a depth inside a round, `qr` takes the first classes; `svd` does not know which is first."""
    reference = world_of(4)
    pair = [
        Spd(r=2, order=order, put_back=False).image_transform((), 0, each).right
        for each in (reference, renumbered(reference, [3, 1, 0, 2]))
    ]
    difference = float((pair[0].T @ pair[0] - pair[1].T @ pair[1]).abs().max())
    assert (difference > 0.05) == depends
    assert depends or difference < 1e-6


def test_units_of_depth():
    reference = world_of(4)
    lengths = [
        len(Spd(r=2, depth_unit=unit, put_back=False).image_transform((), 0, reference).right)
        for unit in ("directions", "rounds")
    ]
    assert lengths == [2, 6]


def test_rounds_may_end_at_chance():
    """Labels that one coordinate tells: the second classifier is no better than the largest class."""
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(400, 6, generator=generator, dtype=torch.float64), torch.arange(400) % 2
    x[:, 0] = 10.0 * (2 * labels - 1)
    reference = ReferenceImages(x, labels, ("a", "b"), torch.arange(400)[None])
    right = Spd(r=5, stop_at_chance=True, put_back=False).image_transform((), 0, reference).right
    assert 1 <= len(right) < 5
    assert float(right[0, 0].abs()) > 0.99


def test_text_stays(make_world):
    world = make_world()
    for group, text in zip(world.groups, Spd().debias_text(world.groups), strict=True):
        assert torch.equal(text, group.queries)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"r": 12}, "r = 12 leaves nothing of embeddings of width 12; set r below 12"),
        ({"r": 6, "depth_unit": "rounds", "put_back": False}, "6 rounds remove all 12 dimensions"),
        ({"tau": 0.01}, "no reference image has .* below tau = 0.01 .*, or put_back to false$"),
    ],
)
def test_images_that_cannot_be_fitted(options, line):
    with pytest.raises(ValueError, match=line):
        Spd(**options).image_transform((), 0, world_of())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"r": 0}, "r must be at least 1, got 0"),
        ({"depth_unit": "axes"}, "depth_unit must be one of directions, rounds, got 'axes'"),
        ({"order": "lu"}, "order must be one of qr, svd, got 'lu'"),
        ({"tau": 1.5}, "tau must lie above 0 and be at most 1"),
    ],
)
def test_options_out_of_range(options, line):
    with pytest.raises(ValueError, match=line):
        Spd(**options)
