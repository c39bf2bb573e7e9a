"""Degenerate prompts and classes: what docs/reliability.md defines for them, method by method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from debiasing_methods.base import ReferenceImages
from debiasing_methods.bend import equalize
from debiasing_methods.registry import METHODS
from debiasing_methods.sem import Percentiles, bias_scores

SPAN = [name for name, method in METHODS.items() if "spurious" in method.needs]  # which take the span of S
TOLERANCE = {"rtol": 0, "atol": 2e-5}


def text_with(world, name, groups):
    method = world.method(name)
    return [text.to(torch.float64) for text in world.text(method, groups)]


def test_methods_that_take_a_span():
    assert set(SPAN) >= {"orth-proj", "orth-cali", "prism-mini", "bendvlm"}


@pytest.mark.parametrize("name", SPAN)
def test_spurious_prompts_given_twice_change_nothing(name, make_world):
    world = make_world()
    twice = [replace(g, spurious=torch.cat([g.spurious, g.spurious])) for g in world.groups]
    for one, two in zip(text_with(world, name, world.groups), text_with(world, name, twice), strict=True):
        torch.testing.assert_close(two, one, **TOLERANCE)


@pytest.mark.parametrize("name", SPAN)
def test_spurious_prompts_on_one_line_are_one_prompt(name, make_world):
    """A rank-deficient set is its span: multiples of a prompt add no direction."""
    world = make_world()
    single = [replace(g, spurious=g.spurious[:1]) for g in world.groups]
    multiples = torch.tensor([[1.0], [2.0], [0.25], [-3.0]])
    line = [replace(g, spurious=multiples * g.spurious[:1]) for g in world.groups]
    for one, many in zip(text_with(world, name, single), text_with(world, name, line), strict=True):
        torch.testing.assert_close(many, one, **TOLERANCE)


@pytest.mark.parametrize("name", METHODS)
def test_any_prompts_all_alike_give_finite_text(name, make_world):
    """Every list of prompts holds one sentence many times: no division by a spread or rank of zero."""
    world = make_world()

    def alike(rows):
        return rows[:1].expand_as(rows).clone()

    groups = [
        replace(
            g,
            **{
                k: alike(getattr(g, k))
                for k in ("spurious", "candidates", "augmentations", "harmful", "helpful")
            },
            paraphrases=tuple(map(alike, g.paraphrases)),
            bias_prompts=tuple(map(alike, g.bias_prompts)),
        )
        for g in world.groups
    ]
    world = replace(world, diverse=alike(world.diverse))
    assert all(torch.isfinite(text).all() for text in text_with(world, name, groups))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "bias_prompts" in method.needs])
def test_one_bias_class_gives_finite_text(name, make_world):
    world = make_world()
    groups = [replace(g, bias_prompts=g.bias_prompts[:1]) for g in world.groups]
    assert all(torch.isfinite(text).all() for text in text_with(world, name, groups))


def test_one_bias_class_has_nothing_to_compare_with(make_world):
    world = make_world()
    diverse = Percentiles(world.sae.encode(world.diverse))
    latents = [world.sae.encode(world.groups[0].bias_prompts[0])]
    assert not bias_scores(diverse, latents).any()


def test_one_bias_class_leaves_nothing_to_equalise(make_world):
    world = make_world()
    reference = ReferenceImages(
        world.reference.images, torch.zeros_like(world.reference.labels), ("all",), world.reference.folds
    )
    texts = replace(world, reference=reference).text(world.method("bendvlm"))
    for text in texts:
        assert torch.equal(text, text[:1].expand_as(text))  # whatever the fold


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (1.0, -1.0, 0.5)])
def test_prototypes_on_one_line(factors):
    """Colinear prototypes: the queries are equally similar to all; where they are equal, queries stay."""
    generator = torch.Generator().manual_seed(0)
    queries, prototype = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (4, 1))
    prototypes = torch.tensor(factors, dtype=torch.float64)[:, None] * prototype
    text = equalize(queries, prototypes)
    products = text @ prototypes.T
    torch.testing.assert_close(products, products[:, :1].expand_as(products), rtol=0, atol=1e-12)
    if len(set(factors)) == 1:
        torch.testing.assert_close(text, torch.nn.functional.normalize(queries, dim=1))
