"""LEACE (Belrose et al. 2023): the package's map, erasure of linear information, least change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from debiasing_methods.base import ReferenceImages
from debiasing_methods.leace import Leace, RankWarning, erasure
from debiasing_methods.linalg import remove_span, span_basis

PACKAGE, PLAIN = {"package": True}, {"shrinkage": False}


def draw(n, d, n_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    shift = torch.randn(n_classes, d, generator=generator, dtype=torch.float64)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) + 2 + shift[labels]
    return normalize(x, dim=1), labels


def class_means(x, labels):
    return torch.stack([x[labels == c].mean(dim=0) for c in labels.unique()])


@pytest.mark.parametrize("n_classes", [2, 7])
@pytest.mark.parametrize(("kind", "options"), [("package", PACKAGE), ("plain", PLAIN)])
def test_the_map_is_the_packages(n_classes, kind, options, peer_oracle):
    oracle, key = peer_oracle("leace", n_classes), f"{n_classes}/onehot/{kind}/"
    train = oracle.rows("train")
    fit = erasure(oracle.raw[train], oracle.labels[train], **options)
    assert fit.right.shape == (n_classes - 1, 512)
    projector = oracle.tensor(key + "proj_left") @ oracle.tensor(key + "proj_right")
    torch.testing.assert_close((fit.left @ fit.right).T, projector, rtol=0, atol=1e-8)
    out = oracle.tensor(key + "out").float()
    rows = torch.from_numpy(oracle.arrays[f"{n_classes}/out_rows"])
    torch.testing.assert_close(fit.apply(oracle.unit_rows(rows)), out, rtol=0, atol=1e-6)


def test_a_column_for_each_class_and_one_column_for_two_give_the_same_map(peer_oracle):
    oracle = peer_oracle("leace", 2)
    train = oracle.rows("train")
    fit = erasure(oracle.raw[train], oracle.labels[train])
    binary = oracle.tensor("2/binary/package/proj_left") @ oracle.tensor("2/binary/package/proj_right")
    torch.testing.assert_close((fit.left @ fit.right).T, binary, rtol=0, atol=1e-8)


@pytest.mark.parametrize("options", [{}, PACKAGE, PLAIN])
def test_class_means_coincide_on_the_fitted_rows(options):
    x, labels = draw(200, 12)
    means = class_means(erasure(x, labels, **options).apply(x), labels)
    assert (class_means(x, labels).std(dim=0)).max() > 0.05
    torch.testing.assert_close(means, means[:1].expand_as(means), rtol=0, atol=1e-12)


def test_cross_covariance_vanishes():
    x, labels = draw(200, 12)
    z = torch.nn.functional.one_hot(labels).double()
    after = erasure(x, labels).apply(x)
    before_and_after = [(rows - rows.mean(0)).T @ (z - z.mean(0)) for rows in (x, after)]
    assert before_and_after[1].norm() <= 1e-10 * before_and_after[0].norm()


def test_the_map_is_a_projection():
    fit = erasure(*draw(200, 12))
    p = torch.eye(12, dtype=torch.float64) - fit.left @ fit.right
    torch.testing.assert_close(p @ p, p, rtol=0, atol=1e-12)


def test_it_changes_less_than_the_orthogonal_projection():
    """Theorem 4.3: of all affine maps that erase, the least mean squared change."""
    x, labels = draw(300, 12)
    x = normalize(x * torch.linspace(0.2, 3, 12), dim=1)
    z = torch.nn.functional.one_hot(labels).double()
    mean = x.mean(dim=0)
    orthogonal = remove_span(x - mean, span_basis(((x - mean).T @ (z - z.mean(0))).T)) + mean
    changes = [
        (y - x).square().sum(1).mean() for y in (erasure(x, labels, shrinkage=False).apply(x), orthogonal)
    ]
    assert changes[0] < 0.99 * changes[1]


def test_the_order_of_images_changes_nothing():
    x, labels = draw(200, 12)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    one, other = erasure(x, labels), erasure(x[order], labels[order])
    torch.testing.assert_close(one.left @ one.right, other.left @ other.right, rtol=0, atol=1e-10)


def test_shrinkage_of_nearly_isotropic_images_is_bounded():
    """Unclamped, β = (t²/n) / (‖S‖² − t²/d) exceeds 1 here and makes the covariance indefinite."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.cat([torch.eye(20), -torch.eye(20)] * 2).double()
    x = normalize(axes + 0.1 * torch.randn(80, 20, generator=generator, dtype=torch.float64), dim=1)
    s = torch.cov(x.T, correction=0)
    trace = s.trace()
    assert (trace**2 / 80) / (s.square().sum() - trace**2 / 20) > 1
    labels = torch.arange(80) % 2
    means = class_means(erasure(x, labels).apply(x), labels)
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=1e-12)


def test_few_images_without_shrinkage_give_a_warning():
    with pytest.warns(RankWarning, match="10 images do not span 12 dimensions"):
        erasure(*draw(10, 12), shrinkage=False)


def test_text_is_left_unless_asked_for(make_world):
    world = make_world(torch.float64)
    fits = [world.transform(Leace(), fold=fold) for fold in range(3)]
    same, own = (Leace(text=text).debias_text(world.groups, world.reference) for text in ("same", "own"))
    for group, folds, text in zip(world.groups, same, own, strict=True):
        q = normalize(group.queries, dim=1)
        expected = torch.stack([q - (q @ fit.left) @ fit.right for fit in fits])
        torch.testing.assert_close(folds, expected)
        assert text.shape == q.shape
    prompts = torch.cat(world.groups[0].bias_prompts)
    labels = torch.tensor([c for c, each in enumerate(world.groups[0].bias_prompts) for _ in each])
    fit = erasure(prompts, labels)
    torch.testing.assert_close(own[0], fit.apply(normalize(world.groups[0].queries, dim=1)))
    assert Leace(text="own").needs == Leace.needs_with({"text": "own"}) == {"bias_prompts"}
    assert Leace(text="same").needs_reference


@pytest.mark.parametrize(
    ("labels", "classes", "line"),
    [
        ([0, 0, 0, 1], "ab", "leace needs at least 2 reference images .* fold 0 has 1 of 'b'"),
        ([0, 0, 0, 0], "ab", "fold 0 has 0 of 'b'"),
        ([0, 0, 0, 0], "a", "at least two bias classes, found only a"),
    ],
)
def test_too_few_images_or_classes(labels, classes, line):
    reference = ReferenceImages(torch.eye(4), torch.tensor(labels), tuple(classes), torch.arange(4)[None])
    with pytest.raises(ValueError, match=line):
        Leace().image_transform((), 0, reference)


def test_images_without_a_label_are_left_out_and_counted(make_world):
    world = make_world(torch.float64)
    known = replace(world.reference, folds=world.reference.folds[:, 10:])
    labels = world.reference.labels.clone()
    labels[world.reference.folds[0, :10]] = -1
    with pytest.warns(UserWarning, match="10 of 650 reference images of fold 0 have no label"):
        fit = Leace().image_transform((), 0, replace(world.reference, labels=labels))
    torch.testing.assert_close(fit.left, Leace().image_transform((), 0, known).left, rtol=0, atol=1e-12)


def test_options_out_of_range():
    with pytest.raises(ValueError, match="text must be one of none, same, own, got 'all'"):
        Leace(text="all")


def test_a_fold_is_fitted_once(make_world, monkeypatch):
    world, fits = make_world(), []
    monkeypatch.setattr("debiasing_methods.leace.erasure", lambda *a, **k: fits.append(1) or erasure(*a, **k))
    method = Leace()
    for _ in range(3):
        for fold in (0, 1):
            world.transform(method, fold=fold)
            world.transform(method, world.groups[:1], fold)
    assert len(fits) == 2
    method.image_transform((), 0, replace(world.reference))  # another object may hold other images
    assert len(fits) == 3
