"""Seconds from the command to the first result, as a whole process: this checkout against an earlier one.

One result of FairFace with ViT-B/16 (97,698 × 512, random, text encoded before) is computed by both, in turn.
A third process only imports torch, which is the least that any of them can take. Of each, the median over
the rounds is taken; processor time is given too, since it depends less on what else the machine does. Large
inputs have been digested once before, as in any run but the first. The last line is the largest ratio.

    git worktree add ../earlier 66a9262
    python -m benchmarks.startup --baseline ../earlier
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main

OUTPUT = Path(__file__).resolve().parent / "output" / "startup.json"
DATASET, BACKBONE, SETTING = "fairface", "ViT-B-16", "stereotype_gender"
METHODS = ("vanilla", "sem-b", "bendvlm")  # whose work takes less than starting
CLOCKS = ("wall", "processor")


def measure(commands: dict[str, tuple[Path, list[str]]], rounds: int) -> dict[str, dict[str, float]]:
    """Run each command in its folder, in turn: the median seconds of both clocks."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(1 + rounds):  # the first warms up files and digests
        for name, (folder, command) in commands.items():
            seconds[name].append(run(folder, command))
    medians = {
        name: [statistics.median(clock) for clock in zip(*own[1:], strict=True)]
        for name, own in seconds.items()
    }
    return {name: dict(zip(CLOCKS, own, strict=True)) for name, own in medians.items()}


def run(folder: Path, command: Sequence[str]) -> tuple[float, float]:
    """Run a command: wall-clock seconds, and processor seconds of it and its children."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if finished.returncode:
        raise InputError(f"{folder}: {' '.join(command)} failed: {finished.stderr[-2000:]}")
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def compare(world: Path, baseline: Path, method: str, rounds: int) -> dict[str, dict[str, float]]:
    """Time one result by both checkouts, and the import of torch."""
    arguments = ["main_eval.py", "--config", str(world / "config" / f"{DATASET}.yml"), "--overwrite"]
    arguments += ["--backbone", BACKBONE, "--settings", SETTING, "--methods", method]
    command = [sys.executable, *arguments]
    return measure(
        {
            "earlier": (baseline, command),
            "now": (ROOT, command),
            "import torch": (ROOT, [sys.executable, "-c", "import torch"]),
        },
        rounds,
    )


def prepare(world: Path) -> None:
    """Write the inputs, where they are not there."""
    from benchmarks.paper_sizes import SIZES
    from benchmarks.suite_world import make_world
    from bias_evaluation.grid.plan import Selection

    make_world(world, Selection(backbones=[BACKBONE], methods=list(METHODS)), [DATASET], SIZES)
    time.sleep(6)  # digests of files that were just written are not remembered


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = build_parser().parse_args(argv)
    if not (args.baseline / "main_eval.py").is_file():
        raise InputError(f"--baseline {args.baseline} is no checkout of this project: it has no main_eval.py")
    from benchmarks.machine import describe_machine
    from safe_io.files import write_json

    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = (args.world or Path(folder)).resolve()
        prepare(world)
        print(f"{'seconds':10}{'clock':>11}{'earlier':>10}{'now':>10}{'import torch':>14}{'ratio':>8}")
        for method in METHODS:
            row = rows[method] = compare(world, args.baseline, method, args.rounds)
            for clock in CLOCKS:
                earlier, now, least = (row[name][clock] for name in ("earlier", "now", "import torch"))
                print(f"{method:10}{clock:>11}{earlier:10.2f}{now:10.2f}{least:14.2f}{now / earlier:8.2f}")
    write_json(args.output, {"machine": describe_machine(), "seconds": rows})
    worst = max(row["now"]["wall"] / row["earlier"]["wall"] for row in rows.values())
    print(f"written: {args.output}\nratio: {worst:.2f}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--baseline", type=Path, required=True, metavar="DIR", help="checkout of the earlier commit")
    add("--rounds", type=int, default=5, metavar="N", help="of both (default: %(default)s)")
    add("--world", type=Path, metavar="DIR", help="keep the inputs here and find them again")
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help="JSON to write (default: %(default)s)")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for all processes
    sys.exit(run_main(main))
