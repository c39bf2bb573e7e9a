"""What a result lacks is said before anything is computed."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from support.suite_world import (
    DIM,
    PROMPTS,
    N,
    World,
    save_sae,
)

from bias_evaluation.datasets.folder import TRAIN_INDICES, VAL_INDICES
from bias_evaluation.datasets.metadata import METADATA
from bias_evaluation.weights.read import load_sae
from bias_evaluation.weights.read import save_sae as write_sae
from safe_io.errors import InputError


def test_everything_missing_is_listed_before_any_computing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.sae.unlink()
    (world.data / VAL_INDICES).unlink()
    assert world.cli() == 2
    captured = capsys.readouterr()
    *listed, last = captured.err.splitlines()
    assert all(line.startswith("missing: ") for line in listed)
    assert len(listed) == 2  # what all lack once, and what sem-b lacks beside it
    assert (
        listed[0] == f"missing: {world.data / VAL_INDICES} (make it with `python generate_splits.py "
        f"--dataset-path {world.data}`)"
    )
    [about_sae] = [line for line in listed if "MSAE_alpha.pth" in line]
    assert "python debiasing_methods/sae_training.py --backbone alpha --output" in about_sae
    assert "python debiasing_methods/sae_training.py" in about_sae
    assert "download_release" not in about_sae  # the release has files of OpenAI's models alone
    assert last.startswith("error: 15 of 15 results lack something (listed above)")
    assert "--skip-missing" in last
    assert captured.out == ""
    assert not world.output.exists()


def test_skip_missing_computes_the_rest_and_says_what_it_left_out(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.sae.unlink()
    world.run("--skip-missing")
    captured = capsys.readouterr()
    assert "12 of 15 results computed (3 left out: they lack something)" in captured.out
    assert "missing: " in captured.err
    assert "MSAE_alpha.pth" in captured.err
    assert len(world.results()) == 12
    assert not [name for name in world.results() if "sem-b" in name]


def test_only_the_selected_methods_weights_and_prompts_are_needed(world: World) -> None:
    world.sae.unlink()
    for setting in PROMPTS["settings"]:
        place = yaml.safe_load(world.prompts.read_text())["settings"][setting]
        world.change(
            world.prompts, "settings", setting, value={k: place[k] for k in place if k != "candidates"}
        )
    world.run("--methods", "vanilla", "orth-proj")
    assert len(world.results()) == 6
    with pytest.raises(InputError, match="3 of 3 results lack something"):
        world.run("--methods", "orth-cali")


def test_missing_kinds_of_prompts_are_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    place = copy.deepcopy(PROMPTS["settings"]["word_color"])
    del place["spurious"]
    world.change(world.prompts, "settings", "word_color", value=place)
    assert world.cli("--methods", "orth-proj") == 2
    captured = capsys.readouterr().err
    assert f"missing: orth-proj needs spurious for 'lucky', but {world.prompts} has none" in captured
    assert "error: 1 of 3 results lack something" in captured


def test_missing_text_embeddings_are_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.change(world.prompts, "settings", "word_color", "query", value="Where is {a_query}?")
    assert world.cli("--methods", "vanilla", "orth-proj") == 2
    captured = capsys.readouterr().err
    assert (
        f"missing: 3 prompt(s) have no embedding in {world.text}, the first: 'Where is a lucky?'; '"
        in captured
    )
    assert "error: 2 of 6 results lack something" in captured
    assert not world.output.exists()


def test_a_reference_part_without_a_class_is_found_before_anything_is_written(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = pd.read_feather(world.data / METADATA)
    train = np.load(world.data / TRAIN_INDICES)
    column, value = "color", metadata["color"].iloc[0]
    others = np.flatnonzero((metadata[column] != value).to_numpy())
    train[1] = np.resize(others, train.shape[1]) if len(others) < train.shape[1] else others[: train.shape[1]]
    train = train[:, : len(np.unique(train[1]))]
    train[1] = np.unique(train[1])[: train.shape[1]]
    val = np.stack([np.setdiff1d(np.arange(N), rows)[: N - train.shape[1]] for rows in train])
    np.save(world.data / TRAIN_INDICES, train)
    np.save(world.data / VAL_INDICES, val)
    assert world.cli("--methods", "vanilla", "bendvlm", "--settings", "word_color") == 2
    assert f"bendvlm needs reference images of every bias class, but fold 1 has none of '{value}'" in (
        capsys.readouterr().err
    )
    assert not world.output.exists()


def test_an_sae_may_be_safetensors(world: World) -> None:
    world.run("--methods", "sem-b")
    before = world.results()
    write_sae(world.sae.with_suffix(".safetensors"), load_sae(world.sae, dim=DIM))
    world.sae.unlink()
    world.run("--methods", "sem-b", "--overwrite")
    for name, content in world.results().items():
        for new, old in zip(json.loads(content), json.loads(before[name]), strict=True):
            assert (new["mean"], new["ci"]) == (old["mean"], old["ci"])


def test_weights_of_the_prompt_set_come_before_the_releases(world: World) -> None:
    world.run("--methods", "sem-b", "--settings", "word_color")
    before = world.results()
    save_sae(world.sae.parent / "mini" / "MSAE_alpha.pth", DIM, latents=30)
    with pytest.raises(InputError, match="made from another weights"):
        world.run("--methods", "sem-b", "--settings", "word_color")
    save_sae(world.sae.parent / "other" / "MSAE_alpha.pth", DIM, latents=20)  # of no interest here
    (world.sae.parent / "mini" / "MSAE_alpha.pth").unlink()
    world.run("--methods", "sem-b", "--settings", "word_color")
    assert world.results() == before
