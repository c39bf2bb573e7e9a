"""Whole processes are timed by both clocks, and failures are not taken for speed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.startup import measure
from safe_io.errors import InputError


def test_processor_time_tells_work_from_waiting(tmp_path: Path) -> None:
    commands = {
        "waits": (tmp_path, [sys.executable, "-S", "-c", "import time; time.sleep(0.5)"]),
        "works": (tmp_path, [sys.executable, "-S", "-c", "for _ in range(10**7): pass"]),
    }
    seconds = measure(commands, rounds=1)
    assert seconds["waits"]["wall"] >= 0.5
    assert seconds["waits"]["processor"] < 0.25
    assert seconds["works"]["processor"] > seconds["waits"]["processor"]


def test_a_failing_command_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="failed"):
        measure({"fails": (tmp_path, [sys.executable, "-c", "raise SystemExit(3)"])}, rounds=1)
