"""Commands that are killed at random moments: run again, they leave what an undisturbed run leaves.

``SEM_FAULTS=10`` makes ten times as many kills.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from fault_world import World, tree

KILLS = 6 * int(os.environ.get("SEM_FAULTS", "1"))  # of each command
COMMANDS = (
    "embed",
    "splits",
    "sae",
    "prism",
    "zsdebias",
    "evaluate",
    "encode",
    "gather",
    "import",
    "unpack",
    "download",
)
# Names of what is not finished, and says so: nobody takes it for a result.
UNFINISHED = (".partial-", ".making", ".checkpoint", ".parts/", ".download/")


def arguments(command: str, address: str, template: World) -> list[str]:
    """Where archives come from: the same place for all copies of the project."""
    return {
        "download": ["--base-url", address],
        "unpack": ["--source", f"sae={template.root / 'sae.zip'}"],
    }.get(command, [])


def prepare(runner: Any, world: World, command: str) -> None:
    """Run what the command builds upon."""
    before = {"splits": "embed", "gather": "encode"}.get(command)
    if before:
        assert runner.run(world, before).code == 0


def fate(dice: random.Random, undisturbed: Any) -> dict[str, float]:
    """Choose when to kill: at a change of the file system, or at any time."""
    if dice.random() < 0.6:
        return {"at": dice.randint(1, undisturbed.events)}
    return {"after": dice.uniform(0, 1.2 * undisturbed.seconds)}


def check_final_names(found: dict[str, bytes], *allowed: dict[str, bytes]) -> None:
    """Check that every file under a final name is whole: as before, as in the end, or a step between them."""
    for name, content in found.items():
        if not any(part in name for part in UNFINISHED):
            assert any(state.get(name) == content for state in allowed), f"{name} is not whole"


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_and_run_again(
    command: str, runner: Any, template: World, address: str, tmp_path: Path
) -> None:
    more = arguments(command, address, template)
    start, whole = template.copy(tmp_path / "start"), template.copy(tmp_path / "whole")
    for world in (start, whole):
        prepare(runner, world, command)
    undisturbed = runner.run(whole, command, *more)
    assert undisturbed.code == 0, undisturbed.err
    before, after = tree(start.root), tree(whole.root)
    assert after != before
    between = steps_between(runner, template, command, tmp_path)
    dice, kills, rounds = random.Random(command), 0, 0
    while kills < KILLS:
        world = start.copy(tmp_path / f"killed-{rounds}")
        for _ in range(3):
            ended = runner.run(world, command, *more, **fate(dice, undisturbed))
            assert ended.code in (0, -signal.SIGKILL), ended.err
            kills += ended.code != 0
            check_final_names(tree(world.root), before, after, between)
        again = runner.run(world, command, *more)
        assert again.code == 0, again.err
        assert tree(world.root) == after
        rounds += 1
        assert rounds < 5 * KILLS, "too few runs lived long enough to be killed"


def steps_between(runner: Any, template: World, command: str, tmp_path: Path) -> dict[str, bytes]:
    """Files that a command writes and replaces: the metadata, before unreadable images are left out."""
    if command != "embed":
        return {}
    world = template.copy(tmp_path / "between")
    bad = [world.pictures / "images" / name for name in ("05.png", "17.png")]
    for path in bad:
        path.write_bytes((world.pictures / "images" / "00.png").read_bytes())
    assert runner.run(world, "embed").code == 0
    return {name: content for name, content in tree(world.root).items() if name.endswith("metadata.feather")}
