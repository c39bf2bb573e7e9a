"""setup_env.sh with an installer that only notes what it was asked: when it installs, and when not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from safe_io.checkout import ROOT

FAKE_UV = """#!/bin/sh
echo "$*" >>calls
case $1 in
    venv) exec "$PYTHON_FOR_TESTS" -m venv --without-pip .venv ;;
    pip) [ ! -e broken ] ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("setup_env.sh", "requirements.txt", "requirements-dev.txt", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(FAKE_UV)
    uv.chmod(0o755)
    return tmp_path


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the variables that the script runs with: the caller's choices are not the test's."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "TORCH_INDEX_URL", "WITH_RAY")}
    kept |= {"PATH": f"{folder / 'bin'}:{kept['PATH']}", "PYTHON_FOR_TESTS": sys.executable}
    return kept | {"PYTHON": sys.executable} | variables


def setup(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(folder / "setup_env.sh")]
    env = environment(folder, **variables)
    return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=False)


def calls(folder: Path) -> list[str]:
    """Return what was asked of the installer since the last call."""
    log = folder / "calls"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_it_installs_once_and_again_when_the_requirements_change(checkout: Path) -> None:
    done = setup(checkout)
    assert done.returncode == 0, done.stderr
    made, installed = calls(checkout)
    assert made.startswith("venv ")
    assert "--seed" in made  # pip belongs to the environment also when uv makes it
    assert installed.endswith("-c requirements.lock -r requirements-dev.txt")
    again = setup(checkout)
    assert (again.returncode, again.stdout, calls(checkout)) == (0, "", [])
    for name in ("requirements.txt", "requirements-dev.txt", "requirements.lock"):
        with (checkout / name).open("a") as file:
            file.write("# changed\n")
        assert setup(checkout).returncode == 0
        assert calls(checkout)[-1].endswith("-r requirements-dev.txt")


def test_ray_is_added_where_it_is_asked_for(checkout: Path) -> None:
    assert setup(checkout).returncode == 0
    calls(checkout)
    (checkout / "broken").touch()
    done = setup(checkout, WITH_RAY="1")
    assert done.returncode == 0  # the rest is usable
    assert "Ray could NOT be installed" in done.stdout
    (checkout / "broken").unlink()
    assert setup(checkout, WITH_RAY="1").returncode == 0  # tried again
    for line in calls(checkout):
        assert line.endswith("-c requirements.lock ray[data]")
    assert setup(checkout).stdout == ""


def test_a_failed_installation_is_not_taken_as_done(checkout: Path) -> None:
    (checkout / "broken").touch()
    done = setup(checkout)
    assert done.returncode == 2
    assert "error: installing the packages failed" in done.stderr
    (checkout / "broken").unlink()
    calls(checkout)
    assert setup(checkout).returncode == 0
    assert len(calls(checkout)) == 2  # made anew, since nobody knows what the failed one left


def test_an_interrupted_installation_is_not_taken_as_done(checkout: Path) -> None:
    assert setup(checkout).returncode == 0
    (checkout / ".venv" / "setup.unfinished").touch()  # what a killed installation leaves
    calls(checkout)
    assert setup(checkout).returncode == 0
    assert len(calls(checkout)) == 2


def test_two_at_once_install_once(checkout: Path) -> None:
    if shutil.which("flock") is None:
        pytest.skip("flock is not installed, and without it two at once are not held apart")
    slow = FAKE_UV.replace("pip) ", "pip) sleep 1; ")
    (checkout / "bin" / "uv").write_text(slow)
    command = ["bash", str(checkout / "setup_env.sh")]
    both = [subprocess.Popen(command, env=environment(checkout), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(calls(checkout)) == 2  # one venv, one installation


def test_another_index_for_torch(checkout: Path) -> None:
    assert setup(checkout, TORCH_INDEX_URL="file:///some/index").returncode == 0
    _, torch, rest = calls(checkout)
    assert "--no-deps --index-url file:///some/index -c requirements.lock torch torchvision" in torch
    assert "index-url" not in rest


@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_a_python_that_does_not_fit_is_one_line(checkout: Path, python: str) -> None:
    done = setup(checkout, PYTHON=python)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"error: PYTHON={python} is not a Python 3.11, 3.12 or 3.13 that runs" in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_python_that_fits_is_one_line(checkout: Path) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        fake = checkout / "bin" / name
        fake.write_text('#!/bin/sh\ncase "$2" in *platform*) echo 3.9.1 ;; *) exit 1 ;; esac\n')
        fake.chmod(0o755)
    done = setup(checkout, PYTHON="")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no Python 3.11, 3.12 or 3.13 found" in done.stderr
    assert "python3 is: 3.9.1" in done.stderr
