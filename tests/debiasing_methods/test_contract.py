"""The contract of `debiasing_methods.base`, for every method of the registry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from debiasing_methods.base import PROMPT_KINDS, IdentityTransform, QueryGroup, ReferenceImages
from debiasing_methods.registry import GROUPS, METHODS, get_method

NAMES = list(METHODS)
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}

pytestmark = pytest.mark.parametrize("name", NAMES)


def _assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_text_has_the_shape_dtype_and_finite_values_of_the_queries(name, dtype, make_world):
    world = make_world(dtype)
    method = world.method(name)
    results = world.text(method)
    folds = (len(world.reference.folds),) if method.needs_reference else ()
    assert [tuple(r.shape) for r in results] == [(*folds, *g.queries.shape) for g in world.groups]
    assert all(r.dtype == dtype and r.isfinite().all() for r in results)


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_have_the_shape_and_dtype_that_was_given(name, dtype, make_world):
    world = make_world(dtype)
    method = world.method(name)
    prepared, transform = world.prepared(method), world.transform(method)
    assert len(prepared) == len(world.images)
    assert prepared.dtype == dtype
    for g in range(len(world.groups)):
        applied = transform.apply(prepared, g)
        assert applied.shape == world.images.shape
        assert applied.dtype == dtype
        assert applied.isfinite().all()
    text = [group.queries for group in world.groups]
    scores = transform.scores(prepared, text)
    assert scores.shape == (len(world.images), sum(map(len, text)))
    assert scores.dtype == dtype
    assert scores.abs().max() <= 1 + 1e-6
    assert transform.scores(prepared[:0], text).shape == (0, scores.shape[1])


def test_inputs_are_not_changed_nor_handed_back(name, make_world):
    world, method = make_world(), make_world().method(name)
    before = [t.clone() for t in world.tensors()]
    method = world.method(name)
    results = world.text(method)
    prepared = world.prepared(method)
    prepared_before = prepared.clone()
    transform = world.transform(method)
    transform.apply(prepared, 2)
    transform.scores(prepared, [group.queries for group in world.groups])
    assert torch.equal(prepared, prepared_before)
    for result in results:
        result.zero_()  # a caller may do with a result what it likes
    for tensor, copy in zip(world.tensors(), before, strict=True):
        assert torch.equal(tensor, copy)


def test_the_same_inputs_give_the_same_outputs(name, make_world):
    runs = []
    for _ in range(2):
        torch.manual_seed(torch.seed() % 1000)  # the global generator must not matter
        world = make_world()
        method = world.method(name)
        text = world.text(method)
        transform = world.transform(method, fold=1)
        scores = transform.scores(world.prepared(method), [g.queries for g in world.groups])
        runs.append([*text, scores])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_groups_together_give_what_each_gives_alone(name, dtype, make_world):
    world = make_world(dtype)
    method = world.method(name)
    prepared, queries = world.prepared(method), [group.queries for group in world.groups]
    together = world.text(method)
    columns = world.transform(method).scores(prepared, queries).split([1, 1, 2], dim=1)
    for group, result, scores in zip(world.groups, together, columns, strict=True):
        _assert_close(world.text(method, [group])[0], result, TOLERANCE[dtype])
        alone = world.transform(method, [group]).scores(prepared, [group.queries])
        _assert_close(alone, scores, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_are_cosines_with_the_materialised_images(name, dtype, make_world):
    world = make_world(dtype)
    method = world.method(name)
    text = [t.reshape(-1, t.shape[-1]) for t in world.text(method)]  # folds, if any, as further queries
    prepared, transform = world.prepared(method), world.transform(method, fold=2)
    expected = [
        normalize(transform.apply(prepared, g), dim=1) @ normalize(t, dim=1).T for g, t in enumerate(text)
    ]
    _assert_close(transform.scores(prepared, text), torch.cat(expected, dim=1), TOLERANCE[dtype])


@pytest.mark.parametrize("cuts", [[1300], [1, 1023, 276], [700, 600], [1024, 276]])
def test_a_split_into_chunks_changes_nothing(name, cuts, make_world):
    world = make_world()
    method = world.method(name)
    queries = [group.queries for group in world.groups]
    prepared, transform = world.prepared(method), world.transform(method, fold=1)
    starts = [sum(cuts[:i]) for i in range(len(cuts))]
    parts = list(zip(prepared.split(cuts), starts, strict=True))
    scores = torch.cat([transform.scores(part, queries, first_row=start) for part, start in parts])
    applied = torch.cat([transform.apply(part, 1, first_row=start) for part, start in parts])
    _assert_close(scores, transform.scores(prepared, queries), 1e-6)
    _assert_close(applied, transform.apply(prepared, 1), 1e-6)


def test_the_declared_facts_are_true(name, make_world):
    world = make_world()
    method = world.method(name)
    assert get_method(name) is type(method)
    assert method.name == name
    assert method.needs <= set(PROMPT_KINDS)
    assert method.needs_with({}) == method.needs
    queries = [normalize(group.queries, dim=1) for group in world.groups]
    cosines = [(normalize(t, dim=-1) * q).sum(-1) for t, q in zip(world.text(method), queries, strict=True)]
    turned = bool(torch.cat([c.flatten() for c in cosines]).min() < 1 - 1e-3)
    assert turned == method.changes_text

    transform = world.transform(method)
    if not method.changes_images:
        assert isinstance(transform, IdentityTransform)
    scores = transform.scores(world.prepared(method), queries)
    plain = normalize(world.images, dim=1) @ torch.cat(queries).T
    assert bool((scores - plain).abs().max() > 1e-3) == method.changes_images


def test_only_declared_noise_and_fits_depend_on_the_fold(name, make_world):
    world = make_world()
    method = world.method(name)
    first, second = (world.transform(method, fold=fold).apply(world.prepared(method)) for fold in (0, 1))
    assert torch.equal(first, second) != (method.random_images or method.fits_images)


@pytest.mark.parametrize("fold", [0, 2])
def test_a_fold_knows_its_own_reference_images_alone(name, fold, make_world):
    """What is evaluated is never what was fitted: other rows, labels and folds may be anything."""
    world = make_world()
    rows, images, labels = world.reference.folds[fold], world.reference.images, world.reference.labels
    strange = ReferenceImages(
        -3 * images.flip(0), (labels + 1) % 3, world.reference.classes, world.reference.folds.flip(1)
    )
    strange.images[rows], strange.labels[rows] = images[rows], labels[rows]
    strange.folds[fold] = rows
    results = []
    for reference in (world.reference, strange):
        world.reference = reference
        method = world.method(name)
        text = [t[fold] if method.needs_reference else t for t in world.text(method)]
        results.append([*text, world.transform(method, fold=fold).scores(world.prepared(method), text)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_missing_kind_of_prompt_is_named(name, make_world):
    world = make_world()
    method = world.method(name)
    given = {kind: getattr(world.groups[0], kind) for kind in METHODS[name].needs - {"diverse"}}
    for kind, value in given.items():
        for nothing in (() if isinstance(value, tuple) else None, value[:0]):
            group = QueryGroup(queries=world.groups[0].queries, name="one", **(given | {kind: nothing}))
            message = f"^{name} needs {kind.replace('_', ' ')}, but the query group of 'one' has none$"
            with pytest.raises(ValueError, match=message):
                world.text(method, [group])
    complete = QueryGroup(queries=world.groups[0].queries, name="one", **given)
    assert len(world.text(method, [complete])) == 1


def test_reference_images_are_asked_for_only_where_needed(name, make_world):
    world = make_world()
    method = world.method(name)
    if method.needs_reference:
        with pytest.raises(ValueError, match=f"^{name} needs labelled reference images$"):
            method.debias_text(world.groups)
    else:
        assert len(method.debias_text(world.groups)) == len(world.groups)
    if method.fits_images:
        with pytest.raises(ValueError, match=f"^{name} needs labelled reference images$"):
            method.image_transform(world.groups)
    assert method.takes_labelled_images() == (method.needs_reference or method.fits_images)


def test_an_unknown_name_is_answered_with_the_choices(name):
    with pytest.raises(ValueError, match=rf"unknown method '{name}x'; choose from: .*\b{name}\b"):
        get_method(f"{name}x")


def test_the_order_is_that_of_the_tables(name):
    order = list(GROUPS)
    places = [order.index(method.group) for method in METHODS.values()]
    assert places == sorted(places)
    assert METHODS[name].display_name
    assert list(METHODS).count(name) == 1
