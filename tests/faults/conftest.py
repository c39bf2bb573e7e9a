"""The tiny project, and the process that runs its commands and lets things happen to them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fault_case import Case
from fault_world import World, make_world

from safe_io.checkout import ROOT


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Make the project once; read only."""
    return make_world(tmp_path_factory.mktemp("faults") / "project")


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    """Copy the project, so that a test may change it."""
    return template.copy(tmp_path / "project")


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, or minus the signal; what it printed; how often it changed a file."""

    code: int | str
    out: str
    err: str
    events: int
    seconds: float


@dataclass
class Runner:
    """Talks to `fault_zygote.py`."""

    process: subprocess.Popen[str]

    def job(
        self, world: World, command: str, *more: object, limit: float = 60, **what: Any
    ) -> dict[str, Any]:
        """Describe a run of a command."""
        arguments = [*world.arguments(command), *map(str, more)]
        return {"command": command, "arguments": arguments, "root": str(world.root), "limit": limit, **what}

    def together(self, *jobs: dict[str, Any]) -> list[Outcome]:
        """Run jobs at the same time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        answers = json.loads(self.process.stdout.readline())
        return [Outcome(**answer | {"events": int(answer["events"] or 0)}) for answer in answers]

    def run(self, world: World, command: str, *more: object, **what: Any) -> Outcome:
        """Run one command."""
        [outcome] = self.together(self.job(world, command, *more, **what))
        return outcome


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    """Start the process that forks commands."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TQDM_DISABLE": "1",
        "MPLBACKEND": "agg",
        "no_proxy": "127.0.0.1",
    }
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fault_zygote.py"))],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield Runner(process)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def address(template: World) -> Iterator[str]:
    """Serve the archive of weights, slowly; gives the folder's address."""
    path = ROOT / "tests" / "bias_evaluation" / "release" / "conftest.py"
    spec = importlib.util.spec_from_file_location("release_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    server = module.Server()
    server.serve("/sae_weights.zip", (template.root / "sae.zip").read_bytes(), slow=True)
    yield server.url("")
    server.close()


@pytest.fixture(scope="session")
def make_case(
    runner: Runner, template: World, address: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Case]:
    """Make the case of a command, once."""
    return cache(lambda command: Case(command, runner, template, address, tmp_path_factory.mktemp(command)))
