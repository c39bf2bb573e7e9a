"""Whole commands with ``--device cuda``, on a pretended GPU."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fault_world import World, call
from support.pretended_gpu import pretended_gpu

from debiasing_methods.registry import METHODS


def figures(world: World) -> dict[str, Any]:
    """Metric of each result → its figures."""
    return {
        f"{path.stem} {record['metric']}": record["mean"]
        for path in sorted(world.results.glob("*.json"))
        for record in json.loads(path.read_text())
    }


def test_the_evaluation_agrees_with_the_cpu(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All methods, both tasks: classification has two figures, unlabelled retrieval two."""
    assert call(world, "evaluate")[0] == 0
    expected = figures(world)
    with pretended_gpu(monkeypatch):
        assert call(world, "evaluate", "--device", "cuda", "--overwrite")[0] == 0
    assert len(expected) == 4 * len(METHODS)
    assert figures(world) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("command", ["encode", "embed", "sae", "zsdebias", "prism"])
def test_commands_run_there(command: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_gpu(monkeypatch):
        code, err = call(world, command, "--device", "cuda")
    assert code == 0, err
