"""The benchmark of the whole suite, small: its inputs, its work counts, and what sharing must not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import main_eval
from benchmarks.suite import main as suite
from benchmarks.suite_world import make_world
from bias_evaluation.grid.plan import Selection

BACKBONE = "ViT-B-16"
OTHERS = ("prism-mini", "bendvlm", "cfd", "leace", "clip-clip")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make inputs of 2,000 faces for ZSDebias and methods without weights."""
    folder = tmp_path_factory.mktemp("world")
    selection = Selection(backbones=[BACKBONE], methods=["vanilla", "zsdebias", *OTHERS])
    make_world(folder, selection, ["utkface"], {"utkface": 2_000})
    return folder


def results(world: Path, name: str, *selectors: str) -> dict[str, bytes]:
    """Run the evaluation and read what it wrote."""
    output = world / name
    config = ["--config", str(world / "config" / "utkface.yml"), "--backbone", BACKBONE]
    assert main_eval.main([*config, "--output-dir", str(output), *selectors]) == 0
    return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


def test_settings_that_share_a_draw_have_the_numbers_they_have_alone(world: Path) -> None:
    chosen = ("--methods", "zsdebias", "--seeds", "0", "2")
    together = results(world, "together", *chosen)
    assert len(together) == 4
    alone = {}
    for setting in ("stereotype_race", "stereotype_gender"):
        alone |= results(world, f"alone_{setting}", *chosen, "--settings", setting)
    assert alone == together
    assert len(set(together.values())) == 4


def test_the_benchmark_says_what_it_measured(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selectors = ["--datasets", "utkface", "--backbone", BACKBONE, "--scale", "0.05"]
    output = tmp_path / "suite.json"
    methods = ["vanilla", *OTHERS]
    argv = [*selectors, "--methods", *methods, "--world", str(world), "--threads", "1"]
    assert suite([*argv, "--output", str(output)]) == 0
    measured = json.loads(output.read_text())
    assert {row["method"] for row in measured["rows"]} == {"(checking)", "(opening)", *methods}
    one = next(row for row in measured["rows"] if row["method"] == "vanilla")
    assert one["gflop"] == pytest.approx(2 * 2_000 * 512 * 25 / 1e9)
    assert measured["machine"]["threads"] == 1
    assert f"{2 * len(methods)} results in" in capsys.readouterr().out
