"""Text of real towers: encoded once per backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.suite_world import (
    CONFIG,
    PROMPTS,
    STEMS,
    World,
    save_yaml,
)

import main_eval
from bias_evaluation.datasets.folder import embeddings_name
from bias_evaluation.embedding import text_store
from bias_evaluation.embedding.encoder import Encoder
from safe_io.errors import run_main


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the backbone of every encoder that is made."""
    made: list[str] = []

    class Recorded(Encoder):
        def __init__(self, backbone: Any, **options: Any) -> None:
            made.append(backbone.name)
            super().__init__(backbone, **options)

    monkeypatch.setattr(text_store, "Encoder", Recorded)
    return made


def test_two_datasets_share_the_text_of_a_backbone(world: World, encoders: list[str]) -> None:
    """Each keeps its sentences beside the other's in the one file on disk."""
    other = world.config.with_name("celeba.yml")
    save_yaml(other, CONFIG | {"dataset": "celeba"})
    save_yaml(world.prompts.with_name("celeba.yml"), PROMPTS)
    world.change(world.prompts.with_name("celeba.yml"), "settings", "word_color", "query", value="{a_query}?")
    arguments = ["--config", str(world.config), str(other), "--settings", "word_color", "--backbone", "beta"]
    assert main_eval.main([*arguments, "--methods", "vanilla"]) == 0
    assert encoders == ["beta", "beta"]  # the second dataset asks in other words
    assert len(world.results()) == 2
    assert main_eval.main([*arguments, "--methods", "vanilla", "--overwrite"]) == 0
    assert len(encoders) == 2
    [kept] = (world.root / "data" / "text_embeddings").iterdir()
    with np.load(kept) as arrays:
        found = arrays["prompts"].tolist()
    assert set(found) == {s for w in ("lucky", "odd", "risky") for s in (f"A photo of {_a(w)}.", f"{_a(w)}?")}


def _a(word: str) -> str:
    return f"an {word}" if word == "odd" else f"a {word}"


def test_two_backbones_encode_their_text_once(
    world: World, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(world.config), "--backbone", "beta", "gamma"]
    assert main_eval.main([*arguments, "--methods", "vanilla", "sem-b"]) == 0
    assert encoders == ["beta", "gamma"]
    names = set(world.results())
    assert names == {
        f"{stem}_clip-{b}_{m}.json"
        for stem in STEMS.values()
        for b in ("b", "gamma")
        for m in ("vanilla", "sem-b")
    }
    kept = sorted(p.name.rsplit("_", 1)[0] for p in (world.root / "data" / "text_embeddings").iterdir())
    assert kept == ["CLIP_beta", "CLIP_gamma"]
    assert main_eval.main([*arguments, "--methods", "vanilla", "sem-b", "--overwrite"]) == 0
    assert encoders == ["beta", "gamma"]  # all is on disk
    assert main_eval.main([*arguments, "--methods", "orth-proj"]) == 0
    assert encoders == ["beta", "gamma"] * 2  # spurious prompts are new
    assert "6 of 6 results computed" in capsys.readouterr().out


def test_a_missing_checkpoint_is_told_and_skipped(
    world: World, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(world.config), "--settings", "word_color", "--methods", "vanilla"]
    assert run_main(lambda: main_eval.main(arguments)) == 2
    captured = capsys.readouterr().err
    assert f"missing: checkpoint of backbone 'alpha' not found: {world.root / 'nowhere.pt'}" in captured
    assert "error: 1 of 3 results lack something" in captured
    assert encoders == []
    assert main_eval.main([*arguments, "--skip-missing"]) == 0
    assert "2 of 3 results computed (1 left out: they lack something)" in capsys.readouterr().out
    assert len(world.results()) == 2


def test_all_backbones_are_checked_before_the_first_is_computed(
    world: World, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = world.data / embeddings_name("gamma")
    np.save(path, np.load(path)[1:])
    arguments = ["--config", str(world.config), "--backbone", "beta", "gamma", "--methods", "vanilla"]
    assert run_main(lambda: main_eval.main(arguments)) == 2
    assert "CLIP_gamma_embeddings.npy has 119 rows, but metadata.feather" in capsys.readouterr().err
    assert encoders == []
    assert not world.output.exists()


def test_given_text_is_of_one_backbone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(world.config), "--text-embeddings", str(world.text)]
    assert run_main(lambda: main_eval.main(arguments)) == 2
    assert (
        "--text-embeddings holds the text of one backbone; choose it with --backbone from: alpha, beta"
        in (capsys.readouterr().err)
    )
    assert run_main(lambda: main_eval.main([*arguments, "--backbone", "beta"])) == 2  # of another width
    assert "float64 of shape (39, 12); a float matrix (rows, " in capsys.readouterr().err
    assert not world.output.exists()
