"""Ctrl-C, a full disk, and two runs at once: what is left is whole, and the next run ends well."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_case import ABANDONED, COMMANDS, RESUMABLE, Case
from fault_world import World
from support.world_parts import tree

from safe_io.locks import claim

ROUNDS = 2


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c(command: str, make_case: Callable[[str], Case]) -> None:
    """Interrupted at a change of the file system: exit code 130 and one line."""
    case, dice = make_case(command), random.Random(command)
    for _ in range(ROUNDS):
        world = case.copy()
        ended = case.run(world, at=dice.randint(1, case.undisturbed.events), signal=signal.SIGINT)
        assert ended.code == 130, ended
        assert ended.err.splitlines()[-1].startswith("interrupted: ")
        assert "Traceback" not in ended.err
        # An interrupt may fall into the removal of a temporary file; the next run removes it.
        case.check_left(world, *RESUMABLE, *ABANDONED)
        case.check_end(world)


@pytest.mark.parametrize("command", COMMANDS)
def test_full_disk(command: str, make_case: Callable[[str], Case]) -> None:
    """No file may grow beyond some size: exit code 2 and one line that names the file; nothing is lost."""
    case, dice = make_case(command), random.Random(command)
    new = [name for name, content in case.after.items() if case.before.get(name) != content]
    largest = max(len(case.after[name]) for name in new)
    codes = []
    for size in [1, *(dice.randint(1, largest) for _ in range(ROUNDS - 1))]:
        world = case.copy()
        ended = case.run(world, file_bytes=size)
        codes.append(ended.code)
        assert ended.code in (0, 2), ended
        assert "Traceback" not in ended.err
        if ended.code == 2:
            [line] = [line for line in ended.err.splitlines() if line.startswith("error: ")]
            assert "File too large" in line
            assert str(world.root) in line
        case.check_left(world, *RESUMABLE)
        case.check_end(world)
    assert codes[0] == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_two_at_once(command: str, make_case: Callable[[str], Case]) -> None:
    """One of two may be told that the other is at work; together they leave what one run leaves."""
    case = make_case(command)
    world = case.copy()
    both = case.together(world, 2)
    for ended in both:
        assert ended.code == 0 or re.search(r"(?m)^error: (\w+: )?another ", ended.err), ended
    assert 0 in [ended.code for ended in both]
    if command in ("evaluate", "encode"):
        computed = [int(re.search(r"^(\d+) of", ended.out, re.MULTILINE)[1]) for ended in both]
        assert sum(computed) == sum(re.match("main_eval_output/.", name) is not None for name in case.after)
    assert tree(world.root) == case.after


CLAIMS = {
    "embed": "data/Pictures/CLIP_tiny_embeddings.npy",
    "sae": "made/sae.pth",
    "prism": "made/prism_clip=alpha",
    "zsdebias": "made/alpha_color_zsdebias_0.pth",
}


@pytest.mark.parametrize(("command", "path"), CLAIMS.items())
def test_what_another_run_makes_is_left_to_it(command: str, path: str, runner: Any, world: World) -> None:
    (world.root / "made").mkdir()
    with claim(world.root / path) as ours:
        assert ours
        ended = runner.run(world, command)
        assert ended.code == 2
        assert ended.err.splitlines()[-1].startswith(
            f"error: another run is making {world.root / path}; wait"
        )
    assert runner.run(world, command).code == 0


def test_a_result_that_another_run_makes_is_left_to_it(runner: Any, world: World) -> None:
    path = world.results / "toy_retrieval_word_color_clip-tiny_vanilla.json"
    with claim(path):
        ended = runner.run(world, "encode")
        assert ended.code == 0
        assert ended.out.startswith("3 of 4 results computed (1 left to another run, which is at them)")
        assert not path.exists()
    assert "1 of 4 results computed" in runner.run(world, "encode").out


def test_a_claim_leaves_nothing(tmp_path: Path) -> None:
    with claim(tmp_path / "new" / "folder" / "file") as ours:
        assert ours
        with claim(tmp_path / "new" / "folder" / "file") as again:
            assert not again
    assert list(tmp_path.iterdir()) == []
