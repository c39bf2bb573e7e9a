"""Bad input by the hundred: one clear line and exit code 2; no traceback, no hang, nothing overwritten."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_inputs import Bad, corpus, mutations
from fault_world import World, tree
from fault_zygote import COMMANDS

from debiasing_methods.errors import run_main

SECONDS = 10


@pytest.fixture(scope="module")
def evaluated(template: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Copy the project, with results."""
    world = template.copy(tmp_path_factory.mktemp("bad") / "project")
    code, err = call(world, "evaluate")
    assert code == 0, err
    return world


def call(world: World, command: str, *more: str) -> tuple[int, str]:
    """Run a command in this process: its exit code and what it wrote to stderr."""
    import importlib

    main = importlib.import_module(COMMANDS[command]).main
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = run_main(lambda: main([*world.arguments(command), *more]))
        except SystemExit as stop:
            code = stop.code
    return code, err.getvalue()


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(good)


def test_corpus(evaluated):
    n, bads = 0, []
    slow = []
    t00 = time.time()
    for bad in corpus(evaluated):
        n += 1
        more = bad.more + (("--overwrite",) if bad.command in ("evaluate",) else ())
        t0 = time.monotonic()
        with replaced(evaluated.root / bad.path, bad.content):
            try:
                code, err = call(evaluated, bad.command, *more)
            except BaseException as e:
                code, err = "EXC", repr(e)[:300]
        dt = time.monotonic() - t0
        if dt > 1:
            slow.append((str(bad), dt))
        lines = [l for l in err.splitlines() if l.startswith("error: ")]
        if code != 2 or len(lines) != 1 or "Warning" in err:
            bads.append((str(bad), code, err[-300:]))
    print(n, len(bads), time.time() - t00)
    for b in bads:
        print(b)
    print(slow)
    assert 0
