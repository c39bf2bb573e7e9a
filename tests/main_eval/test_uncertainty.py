"""`main_eval.py --uncertainty`: figures with mean, standard deviation and range, and what it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.suite_world import FOLDS, STEMS, N, World

import hessian_estimation
import main_eval
from bias_evaluation.datasets.folder import embeddings_name, head_path, residuals_name
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.residuals import write_head
from bias_evaluation.grid.configs import get_backbone
from bias_evaluation.results.aggregation import collect_results
from safe_io.errors import run_main

METHODS = ("vanilla", "orth-proj", "bendvlm", "sem-b")


@pytest.fixture
def world(suite_world: World) -> World:
    """Give the backbone gamma embeddings that its own head makes from residuals."""
    backbones = suite_world.config.with_name("backbones.yml")
    encoder = Encoder(get_backbone("gamma", backbones))
    residuals = suite_world.data / residuals_name("gamma")
    v = torch.randn(N, encoder.image_head.width, generator=torch.Generator().manual_seed(0))
    np.save(residuals, v.numpy())
    write_head(head_path(residuals), encoder.image_head)
    np.save(suite_world.data / embeddings_name("gamma"), encoder.image_head.embeddings(v).numpy())
    return suite_world


def estimate(world: World) -> None:
    """Make the factors of gamma from a few pairs."""
    folder, random = world.root / "pairs", np.random.default_rng(0)
    folder.mkdir()
    for i in range(12):
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    names = [f"{i}.png" for i in range(12)]
    table = pd.DataFrame({"file_path": names, "caption": [f"picture {i}" for i in range(12)]})
    table.to_csv(folder / "captions.csv", index=False)
    arguments = ["--backbone", "gamma", "--pairs", str(folder), "--workers", "0", "--data-root"]
    arguments += [str(world.root / "data"), "--backbones-file", str(world.config.with_name("backbones.yml"))]
    assert hessian_estimation.main(arguments) == 0


def arguments(world: World, *more: str) -> list[str]:
    options = ["--config", str(world.config), "--backbone", "gamma", "--uncertainty"]
    return [*options, "--methods", *METHODS, *more]


def records(world: World, setting: str, method: str) -> list[dict[str, Any]]:
    return json.loads((world.output / f"{STEMS[setting]}_clip-gamma_{method}.json").read_bytes())


def test_figures_have_their_uncertainty(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    estimate(world)
    assert main_eval.main(arguments(world, "vanilla+detcons")) == 0
    for setting in STEMS:
        for method in METHODS:
            for record in records(world, setting, method):
                drawn = record["uncertainty"]
                low, high = drawn["range"]
                assert low <= drawn["mean"] <= high
                assert drawn["sd"] > 0
                assert drawn["draws"] == 200
                assert set(drawn["variance_by_class"]) == {"red", "blue"}
                assert min(drawn["variance_by_class"].values()) > 0
                assert {"mean", "ci", "ci_bootstrap"} <= set(record)
    assert all("uncertainty" in record for record in records(world, "word_color", "vanilla+detcons"))
    kept = list((world.root / "data" / "text_embeddings").glob("*_residuals.npz"))
    assert len(kept) == 1  # the queries of all settings, encoded together
    table, warnings = collect_results(world.output)
    assert warnings == []
    assert "uncertainty" in table
    capsys.readouterr()
    assert main_eval.main(arguments(world, "vanilla+detcons")) == 0
    assert "0 of" in capsys.readouterr().out


def test_a_result_repeats_and_is_another_one_without(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    estimate(world)
    assert main_eval.main(arguments(world)) == 0
    before = world.results()
    assert main_eval.main(arguments(world, "--overwrite")) == 0
    assert world.results() == before
    plain = [a for a in arguments(world) if a != "--uncertainty"]
    assert run_main(lambda: main_eval.main(plain)) == 2
    assert "made from another uncertainty" in capsys.readouterr().err
    assert main_eval.main([*plain, "--overwrite"]) == 0
    for record in records(world, "word_color", "sem-b"):
        [with_it] = [
            r
            for r in json.loads(before[f"{STEMS['word_color']}_clip-gamma_sem-b.json"])
            if r["metric"] == record["metric"]
        ]
        assert "uncertainty" not in record
        assert (record["mean"], record["ci"]) == (with_it["mean"], with_it["ci"])
        assert record["folds"] == FOLDS


def test_what_it_needs_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(lambda: main_eval.main(arguments(world))) == 2
    assert "hessian_estimation.py --backbone gamma makes it" in capsys.readouterr().err
    estimate(world)
    residuals = world.data / residuals_name("gamma")
    head = head_path(residuals).read_bytes()
    head_path(residuals).unlink()
    assert run_main(lambda: main_eval.main(arguments(world))) == 2
    assert "precompute_embeddings.py --residuals makes it" in capsys.readouterr().err
    head_path(residuals).write_bytes(head)
    np.save(residuals, np.load(residuals)[::-1].copy())
    assert run_main(lambda: main_eval.main(arguments(world))) == 2
    assert "gives another embedding than is stored" in capsys.readouterr().err
    np.save(residuals, np.load(residuals)[1:])
    assert run_main(lambda: main_eval.main(arguments(world))) == 2
    assert f"has {N - 1} rows, but there are {N} embeddings" in capsys.readouterr().err
    assert list(world.output.glob("*.json")) == [] if world.output.exists() else True


def test_text_without_its_model_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    estimate(world)
    given = Path(world.text)
    with np.load(given) as arrays:
        prompts, embeddings = arrays["prompts"], arrays["embeddings"][:, :8]
    np.savez(given, prompts=prompts, embeddings=embeddings)
    assert run_main(lambda: main_eval.main(arguments(world, "--text-embeddings", str(given)))) == 2
    assert "--uncertainty needs the model of the text" in capsys.readouterr().err
