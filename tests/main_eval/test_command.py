"""main_eval as a command of its own."""

from __future__ import annotations

import subprocess
import sys

from support.suite_world import (
    World,
)

from safe_io.checkout import ROOT


def run_command(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "main_eval.py", *arguments],
        capture_output=True,
        text=True,
        cwd=world.root.parent,
        check=False,
    )


def test_command_from_another_folder(world: World) -> None:
    more = ["--data-root", str(world.data.parent), "--output-dir", "here", "--settings", "shape_color"]
    done = run_command(world, *world.arguments(*more))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5 of 5 results computed, in here\n"
    assert "evaluating: 100%" in done.stderr
    world.run("--settings", "shape_color")
    made = {p.name: p.read_bytes() for p in (world.root.parent / "here").iterdir()}
    assert made == world.results()  # the same as in this process


def test_command_refuses_in_one_line(world: World) -> None:
    done = run_command(world, *world.arguments("--retrieval-k", "61"))
    assert done.returncode == 2
    assert done.stdout == ""
    *_, line = done.stderr.splitlines()
    assert line.startswith("error: K = 61 images cannot be retrieved from 60 evaluation images of a fold")
    assert not world.output.exists()
