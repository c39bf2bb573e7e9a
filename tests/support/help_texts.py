"""Run ``--help`` of commands, each in a fork of one small interpreter; print what each showed and imported.

Usage: ``python help_texts.py COMMAND…``, where a command is a path or the name of a package. One JSON object
comes out: command → ``{"code", "text", "imported"}``, with the top-level names of all imported modules.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any


def run(command: str) -> dict[str, Any]:
    """Run one command's ``--help`` in a fork."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(show(command), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result: dict[str, Any] = json.load(pipe)
    os.wait()
    return result


def show(command: str) -> dict[str, Any]:
    """Run one command's ``--help`` in this process."""
    text, code = io.StringIO(), None
    sys.argv = [command, "--help"]
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            if command.endswith(".py"):
                sys.path[0] = str(Path(command).resolve().parent)
                runpy.run_path(command, run_name="__main__")
            else:
                sys.path[0] = str(Path.cwd())
                runpy.run_module(command, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        except Exception as error:
            text.write(f"{type(error).__name__}: {error}")
    imported = sorted({name.partition(".")[0] for name in sys.modules})
    return {"code": code, "text": text.getvalue(), "imported": imported}


if __name__ == "__main__":
    json.dump({command: run(command) for command in sys.argv[1:]}, sys.stdout)
