"""The same inputs give the same results: byte for byte, or but for rounding with other threads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fault_world import COLORS, DIM, FOLDS, World, call
from support.world_parts import tree

from bias_evaluation.datasets.folder import make_folds
from bias_evaluation.suite import evaluate as suite
from debiasing_methods.registry import METHODS

ROWS = 12_000  # enough for torch to share a product among threads


@pytest.fixture
def large(world: World) -> World:
    """Give the project as many images as take several threads."""
    random = np.random.default_rng(1)
    names = [f"{i}.png" for i in range(ROWS)]
    labels = {"color": random.choice(COLORS, ROWS), "shape": random.choice(["round", "square"], ROWS)}
    table = pd.DataFrame({"file_name": names, "file_path": names, **labels})
    table.to_feather(world.data / "metadata.feather")
    np.save(world.embeddings, random.normal(size=(ROWS, DIM)).astype(np.float32))
    for name, folds in zip(("train", "val"), make_folds(ROWS, FOLDS), strict=True):
        np.save(world.data / f"{name}_indices.npy", folds)
    return world


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[torch.Tensor]]:
    """Record the scores of every result: method and query groups → one tensor a fold."""
    recorded: dict[str, list[torch.Tensor]] = {}
    original = suite.fold_scores

    def record(method: Any, groups: Any, *rest: Any) -> Iterator[torch.Tensor]:
        own = recorded.setdefault(f"{method.name} {[group.name for group in groups]}", [])
        for fold in original(method, groups, *rest):
            own.append(fold.clone())
            yield fold

    monkeypatch.setattr(suite, "fold_scores", record)
    return recorded


def means(world: World) -> dict[str, list[float]]:
    found = {path.name: json.loads(path.read_text()) for path in world.results.glob("*.json")}
    return {name: [record["mean"] for record in records] for name, records in found.items()}


def test_one_thread_and_two_agree(large: World, scores: dict[str, list[torch.Tensor]]) -> None:
    """All methods; scores to 1e-6 of the largest (SPD: 1e-5), figures to 1e-4."""
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            assert call(large, "evaluate", "--overwrite")[0] == 0
        finally:
            torch.set_num_threads(1)
        runs.append((means(large), {name: list(folds) for name, folds in scores.items()}))
        scores.clear()
    (figures, one), (figures_again, two) = runs
    assert len(figures) == 2 * len(METHODS)
    assert len(one) == len(two) == len(figures) - 1  # the two settings of ZSDebias are scored together
    for name, folds in one.items():
        # once a classifier is at chance, its direction amplifies rounding
        bound = 1e-5 if name.startswith("spd ") else 1e-6
        for fold, again in zip(folds, two[name], strict=True):
            assert float((fold - again).abs().max()) <= bound * max(1.0, float(fold.abs().max())), name
    assert figures.keys() == figures_again.keys()
    for name, values in figures.items():
        assert values == pytest.approx(figures_again[name], abs=1e-4), name


def test_twice_is_the_same_to_the_last_byte(world: World) -> None:
    assert call(world, "evaluate")[0] == 0
    before = tree(world.results)
    assert call(world, "evaluate", "--overwrite")[0] == 0
    assert tree(world.results) == before


def test_results_carry_what_they_were_made_from(world: World) -> None:
    assert call(world, "evaluate", "--methods", "prism")[0] == 0
    for path in world.results.glob("*.json"):
        for record in json.loads(path.read_text()):
            assert record["seed"] == 0
            assert record["folds"] == FOLDS
            assert set(record["versions"]) >= {"python", "torch", "numpy", "scipy", "open_clip_torch", "code"}
            parts = {"revision", "config", "prompts", "weights", "text", "embeddings", "metadata", "folds"}
            assert set(record["digests"]) == parts
            assert all(record["digests"].values())


def spoil_embeddings(world: World) -> None:
    np.save(world.embeddings, np.load(world.embeddings) * 2)


def spoil_folds(world: World) -> None:
    for name in ("train", "val"):
        path = world.data / f"{name}_indices.npy"
        np.save(path, np.load(path)[:, ::-1])


def spoil_metadata(world: World) -> None:
    path = world.data / "metadata.feather"
    pd.read_feather(path).assign(more=1).to_feather(path)


def spoil_text(world: World) -> None:
    with np.load(world.text) as arrays:
        prompts, rows = arrays["prompts"], arrays["embeddings"]
    np.savez(world.text, prompts=prompts, embeddings=rows * 2)


SPOILS = {
    "embeddings": spoil_embeddings,
    "folds": spoil_folds,
    "metadata": spoil_metadata,
    "text": spoil_text,
}


@pytest.mark.parametrize("component", SPOILS)
def test_a_table_of_results_from_different_inputs_comes_with_a_warning(world: World, component: str) -> None:
    one = ("--settings", "shape_color", "--methods")
    assert call(world, "evaluate", *one, "vanilla")[0] == 0
    assert call(world, "gather") == (0, "")
    SPOILS[component](world)
    assert call(world, "evaluate", *one, "orth-proj")[0] == 0
    code, err = call(world, "gather")
    assert code == 0
    [line] = err.splitlines()
    assert line.startswith("warning: toy")
    assert f"were made from different {component}: " in line
    assert "clip-alpha_vanilla.json" in line
    assert "clip-alpha_orth-proj.json" in line
