"""What happens before a command's packages are imported, and after it has ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safe_io.checkout import ROOT

SCRIPTS = [
    *sorted(path.name for path in ROOT.glob("*.py")),
    *(f"debiasing_methods/{kind}_training.py" for kind in ("sae", "prism", "zsdebias")),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_the_environment_there_is_one_line(script: str, tmp_path: Path) -> None:
    """As with the system's Python: none of the packages are there."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys, runpy; sys.argv = [{script!r}, '--help']; "
         f"sys.path[:0] = [{str(ROOT / Path(script).parent)!r}, {str(ROOT)!r}]; "
         f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    if done.returncode == 0:  # what needs no package answers all the same
        return
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert re.search(r"has no package '\w+': run `(source .*\.venv/bin/activate|bash setup_env\.sh)`", line)


def interrupted(code: str, after: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new Python, and interrupt it when it has printed a word."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests may run in the background
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{after}\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, out, err)


GUARD = "from safe_io.start import guard_start; guard_start(); import sys, time\n"


@pytest.mark.parametrize(
    "code",
    [
        GUARD + "print('now', flush=True); time.sleep(30)",  # as if a package took its time
        GUARD + "from safe_io.errors import run_main\n"
        "sys.exit(run_main(lambda: print('now', flush=True) or time.sleep(30)))",
        GUARD + "from safe_io.errors import run_main\nimport atexit\n"
        "atexit.register(lambda: print('now', flush=True) or time.sleep(30))\nsys.exit(run_main(lambda: 0))",
    ],
    ids=["while importing", "at work", "at exit"],
)
def test_an_interrupt_is_one_line_from_the_first_import_to_the_end(code: str) -> None:
    done = interrupted(code, "now")
    assert done.returncode == 130
    assert done.stderr == "interrupted: finished parts are kept; run the same command again to continue\n"


def test_other_errors_of_a_start_keep_their_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARD + "import safe_io.no_such_module"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" in done.stderr
