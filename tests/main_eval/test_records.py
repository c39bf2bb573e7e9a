"""Result files and their records: what they hold, and when they are kept."""

from __future__ import annotations

import json
import math
import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.suite_world import (
    FOLDS,
    METHODS,
    METRICS,
    STEMS,
    K,
    World,
)

from bias_evaluation.prompts import setting_prompts
from bias_evaluation.results.aggregation import collect_results
from bias_evaluation.suite import inputs
from bias_evaluation.suite.evaluate import evaluate
from bias_evaluation.weights import read


def test_a_full_run_writes_one_file_a_result(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    assert "15 of 15 results computed" in capsys.readouterr().out
    assert sorted(world.results()) == sorted(
        f"{stem}_clip-alpha_{method}.json" for stem in STEMS.values() for method in METHODS
    )
    for name, content in world.results().items():
        records = json.loads(content)
        retrieval = "retrieval" in name
        metrics = METRICS["retrieval" if retrieval else "zs_classification"]
        assert [r["metric"] for r in records] == list(metrics if "word" not in name else metrics[:2])
        for record in records:
            assert record["dataset"] == "portraits"
            assert record["task"] == ("retrieval" if retrieval else "zs_classification")
            assert record["backbone"] == "alpha"
            assert record["method"] == name.removesuffix(".json").split("alpha_")[1]
            assert record["normalize"] is True
            assert record["setting"] == (
                f"query={'word' if 'word' in name else 'object'}|bias=color|K={K}"
                if retrieval
                else "shape_color"
            )
            assert record["seed"] is None
            assert record["folds"] == FOLDS
            assert record["variant"] == ("SEM_b" if "sem-b" in name else None)
            versions = {"python", "torch", "numpy", "scipy", "open_clip_torch", "code"}
            assert set(record["versions"]) == versions
            components = {
                "revision",
                "config",
                "prompts",
                "weights",
                "text",
                "embeddings",
                "metadata",
                "folds",
            }
            assert set(record["digests"]) == components
            assert re.fullmatch("[0-9a-f]{64}", record["digest"])
            assert math.isfinite(record["mean"])
            assert record["ci"] > 0
    assert {p.name for p in world.root.iterdir()} == {
        "config",
        "data",
        "debiasing_methods",
        "main_eval_output",
        "text.npz",
    }


def test_results_make_one_table(world: World) -> None:
    world.run()
    table, warnings = collect_results(world.output)
    assert warnings == []
    assert len(table) == 5 * (2 + 3 + 2)
    assert set(table["method"]) == set(METHODS)


def test_the_same_inputs_give_the_same_bytes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    first = world.results()
    capsys.readouterr()
    world.run("--overwrite")
    assert "15 of 15 results computed" in capsys.readouterr().out  # also what was done
    assert world.results() == first
    for method in METHODS:  # whatever else is computed beside it
        world.run("--output-dir", str(world.root / "alone"), "--methods", method)
    assert {p.name: p.read_bytes() for p in (world.root / "alone").iterdir()} == first


def test_what_is_there_is_not_computed_again(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run()
    before = world.tree()
    monkeypatch.setattr("bias_evaluation.suite.evaluate.evaluate", None)
    capsys.readouterr()
    world.run()
    assert f"0 of 15 results computed, in {world.output}" in capsys.readouterr().out
    assert world.tree() == before


def test_an_interrupted_run_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute, calls = evaluate, []

    def stops_at_the_eighth(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr("bias_evaluation.suite.evaluate.evaluate", stops_at_the_eighth)
    assert world.cli() == 130
    assert len(world.results()) == 7
    assert world.cli() == 0
    assert len(calls) == 8 + 8
    assert "8 of 15 results computed" in capsys.readouterr().out
    assert len(world.results()) == 15


def test_shared_work_is_done_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}

    def count(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def counted(*args: Any, **options: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return original(*args, **options)

        monkeypatch.setattr(module, name, counted)

    count(read, "sae_from_state_dict")
    count(setting_prompts, "load_prompts")
    for name in ("load_rows", "open_embeddings", "StoredImages", "TextStore"):
        count(inputs, name)
    world.run()
    assert counts == {
        "sae_from_state_dict": 1,
        "load_rows": 1,
        "open_embeddings": 2,  # to check them, and after their digest to use them
        "StoredImages": 1,
        "load_prompts": 3,
        "TextStore": 1,
    }


def test_half_precision_embeddings_are_upcast_first(world: World) -> None:
    rows = np.load(world.embeddings).astype(np.float16)
    np.save(world.embeddings, rows)
    world.run("--methods", "vanilla", "sem-b")
    half = {name: [r["mean"] for r in json.loads(c)] for name, c in world.results().items()}
    np.save(world.embeddings, rows.astype(np.float32))
    world.run("--methods", "vanilla", "sem-b", "--overwrite")
    assert half == {name: [r["mean"] for r in json.loads(c)] for name, c in world.results().items()}
