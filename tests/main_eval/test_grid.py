"""The grid that main_eval computes: states, selectors, seeds, several configs."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.hub_models import CLIP, save_model
from support.suite_world import (
    CONFIG,
    PROMPTS,
    STEMS,
    World,
    save_yaml,
)

import main_eval
from bias_evaluation.datasets.folder import TRAIN_INDICES, VAL_INDICES, embeddings_name
from bias_evaluation.datasets.metadata import METADATA
from bias_evaluation.grid import plan as grid
from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.suite import inputs
from safe_io import digests
from safe_io.errors import InputError


def test_dry_run_gives_every_state_and_writes_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("--settings", "shape_color", "--methods", "vanilla", "orth-cali")
    world.change(world.methods, "orth-cali", "by_bias_attribute", "color", "lam", value=21)
    world.sae.unlink()
    before = world.tree()
    capsys.readouterr()
    world.run("--dry-run")
    captured = capsys.readouterr()
    *lines, last = captured.out.splitlines()
    states = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
    shape, word = STEMS["shape_color"], STEMS["word_color"]
    assert len(states) == 15
    assert states[f"{shape}_clip-alpha_vanilla"] == "done"
    assert states[f"{shape}_clip-alpha_orth-cali"] == "stale: made from another config"
    assert states[f"{word}_clip-alpha_bendvlm"] == "to do"
    assert states[f"{word}_clip-alpha_sem-b"] == "lacks weights"
    assert last == "15 results: 1 done, 10 to do, 1 stale, 3 lacks"
    assert captured.err == ""
    assert world.tree() == before


def test_dry_run_without_any_data(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(world.data)
    before = world.tree()
    world.run("--dry-run")
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 15
    assert all(line.endswith("  lacks embeddings, metadata, folds") for line in lines)
    assert last == "15 results: 15 lacks"
    assert world.cli() == 2
    listed = capsys.readouterr().err.splitlines()[:-1]
    embed = f"precompute_embeddings.py --backbone alpha --dataset-name portraits --dataset-path {world.data}"
    own = f" --backbones-file {world.root / 'config' / 'backbones.yml'}"
    folds = f"generate_splits.py --dataset-path {world.data}"
    made = {
        embeddings_name("alpha"): f"{embed}{own}",
        METADATA: f"{embed} --metadata-only{own}",
        TRAIN_INDICES: folds,
        VAL_INDICES: folds,
    }
    assert listed == [
        f"missing: {world.data / name} (make it with `python {maker}`)" for name, maker in made.items()
    ]
    assert world.tree() == before


@pytest.mark.parametrize(
    ("selectors", "n"),
    [
        (["--settings", "word_color"], 5),
        (["--settings", "word_color", "shape_color"], 10),
        (["--methods", "sem-b", "vanilla", "vanilla"], 6),
        (["--settings", "shape_color", "--methods", "bendvlm"], 1),
        (["--seeds", "0", "7"], 15),  # no seeded method: nothing to restrict
    ],
)
def test_selectors(world: World, selectors: list[str], n: int, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("--dry-run", *selectors)
    assert capsys.readouterr().out.splitlines()[-1] == f"{n} results: {n} to do"


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        (
            ["--settings", "word_colour"],
            "portraits.yml: unknown setting 'word_colour'; choose from: shape_color, object_color",
        ),
        (
            ["--methods", "sem_b"],
            "methods.yml: unknown method 'sem_b'; choose from: vanilla, orth-proj, orth-c",
        ),
        (["--methods", "prism"], "methods.yml: unknown method 'prism'"),  # not in this file
        (["--backbone", "delta"], "unknown backbone 'delta'; choose from: alpha, beta, gamma"),
        (
            ["--prompts", "minni"],
            "prompts: unknown prompt set 'minni'; choose from: mini; did you mean 'mini'?",
        ),
        (["--retrieval-k", "0"], "--retrieval-k must be at least 1, got 0"),
        (["--text-embeddings", "/nowhere.npz"], "text embeddings not found: /nowhere.npz"),
    ],
)
def test_wrong_arguments(
    world: World, selectors: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.cli(*selectors) == 2
    assert expected in capsys.readouterr().err
    assert not world.output.exists()


def test_seeds_of_seeded_methods(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.change(world.methods, "prism", value={"seeds": [0, 1, 2]})
    config = load_dataset_config(world.config)
    for wanted, seeds in ((None, [0, 1, 2]), ((2, 0, 9), [0, 2])):
        keys = grid.plan(config, grid.Selection(["shape_color"], ["alpha"], ["prism", "vanilla"], wanted))
        assert [key.seed for key in keys] == [None, *seeds]
        assert keys[-1].stem == f"{STEMS['shape_color']}_clip-alpha_prism-seed2"
    assert world.cli("--methods", "prism", "--seeds", "7") == 2
    assert "--seeds 7: prism has the seeds 0 1 2" in capsys.readouterr().err


def test_several_configs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Each gives what it has of the selected names; a name that none has is an error."""
    other = world.config.with_name("celeba.yml")
    settings = {
        "word_color": CONFIG["settings"]["word_color"],
        "more_color": CONFIG["settings"]["shape_color"],
    }
    save_yaml(other, CONFIG | {"dataset": "celeba", "settings": settings, "backbones": ["alpha", "gamma"]})
    save_yaml(
        world.prompts.with_name("celeba.yml"),
        PROMPTS | {"settings": PROMPTS["settings"] | {"more_color": PROMPTS["settings"]["shape_color"]}},
    )

    def dry_run(*more: str) -> list[str]:
        assert main_eval.main(["--config", str(world.config), str(other), "--dry-run", *more]) == 0
        return [line.split()[0] for line in capsys.readouterr().out.splitlines()]

    assert len(dry_run()) - 1 == 5 * (3 * 3 + 2 * 2)
    assert dry_run("--settings", "word_color", "--methods", "vanilla", "--backbone", "alpha", "beta")[
        :-1
    ] == [
        "portraits_retrieval_word_color_clip-alpha_vanilla",
        "portraits_retrieval_word_color_clip-b_vanilla",
        "celeba_retrieval_word_color_clip-alpha_vanilla",
    ]
    assert dry_run("--settings", "more_color", "--methods", "vanilla")[:-1] == [
        "celeba_zs-classification_more-color_clip-alpha_vanilla",
        "celeba_zs-classification_more-color_clip-gamma_vanilla",
    ]
    for more, expected in (
        (["--settings", "less_color"], "portraits.yml and 1 more: unknown setting 'less_color'; choose"),
        (["--settings", "more_color", "--backbone", "beta"], "the selectors leave no result"),
        (["--config", str(world.config), str(world.config), "--settings", "less"], "portraits.yml: unknown"),
    ):
        with pytest.raises(InputError) as error:
            main_eval.main(["--config", str(world.config), str(other), "--dry-run", *more])
        assert expected in str(error.value)


def test_one_result_in_two_configs(world: World) -> None:
    other = world.config.with_name("again.yml")
    shutil.copy(world.config, other)
    with pytest.raises(InputError) as error:
        main_eval.main(["--config", str(world.config), str(other), "--dry-run"])
    stem = f"{STEMS['shape_color']}_clip-alpha_vanilla"
    assert str(error.value) == f"{world.config} and {other} both have the result '{stem}'; name one of them"


def test_no_file_is_hashed_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    compute = inputs.remembered_sha256
    monkeypatch.setattr(inputs, "remembered_sha256", lambda path: hashed.append(path) or compute(path))
    world.run("--dry-run")
    assert hashed == []  # what is not there yet needs no digest before it is made
    world.run()
    folds = [world.data / TRAIN_INDICES, world.data / VAL_INDICES]
    assert sorted(hashed) == sorted([world.embeddings, world.data / METADATA, *folds, world.sae])


def test_a_remembered_digest_lets_no_changed_file_pass(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_LEAST_BYTES", 1)
    monkeypatch.setattr(digests, "_SETTLED_SECONDS", -1)  # as if all files were old
    world.run()
    assert world.embeddings.with_name(f".{world.embeddings.name}.sha256").is_file()
    world.run()
    time.sleep(0.02)  # a tick of the file system's clock
    before = world.embeddings.stat()
    array = np.load(world.embeddings, mmap_mode="r+")
    array[0] = -array[0]
    array.flush()
    os.utime(world.embeddings, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert world.embeddings.stat().st_size == before.st_size
    with pytest.raises(InputError, match="made from another embeddings"):
        world.run()


def test_work_goes_backbone_by_backbone(world: World) -> None:
    keys = grid.plan(load_dataset_config(world.config), grid.Selection())
    assert len(keys) == 3 * 3 * 5
    assert [key.backbone.name for key in keys] == ["alpha"] * 15 + ["beta"] * 15 + ["gamma"] * 15


def test_no_gpu(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert world.cli("--device", "cuda") == 2
    assert "--device cuda: this machine has no GPU" in capsys.readouterr().err


def test_a_backbone_needs_no_entry(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_model(tmp_path / "own_model", CLIP)
    world.run("--dry-run", "--backbone", f"local-dir:{model}", "--methods", "vanilla")
    *lines, _ = capsys.readouterr().out.splitlines()
    states = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
    assert f"{STEMS['shape_color']}_clip-own_model_vanilla" in states
    assert all("_clip-own_model_" in name for name in states)
