"""`fair-search COMMAND`: each command is the checkout's own, and a wrong name is one line."""

from __future__ import annotations

import importlib
import sys

import pytest

from fair_search.__main__ import COMMANDS, load_command, main
from safe_io.errors import InputError


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_is_the_main_of_its_module(name: str) -> None:
    assert load_command(name) is importlib.import_module(COMMANDS[name].module).main


def test_the_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ([], ["--help"]):
        with pytest.raises(SystemExit) as end:
            main(given)
        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_a_command_gets_its_options_and_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fair-search"])
    with pytest.raises(SystemExit):
        main(["tables", "--help"])
    assert capsys.readouterr().out.startswith("usage: fair-search tables")
    monkeypatch.setattr(sys, "argv", ["fair-search"])
    with pytest.raises(InputError, match=r"queries\.txt"):
        main(["debias", "--queries", "queries.txt", "--method", "vanilla", "--output", "out.npy"])


def test_a_wrong_command_is_one_line_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown command 'audti'; choose from: .*did you mean 'audit'"):
        main(["audti"])
