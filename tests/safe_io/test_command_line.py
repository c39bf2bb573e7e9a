"""Options are spelled with hyphens; published spellings are accepted and not shown."""

from __future__ import annotations

import pytest

from safe_io.command_line import ArgumentParser


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(prog="command", published={"--CLIP_model": "--backbone"})
    parser.add_argument("--backbone")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("rest", nargs="*")
    return parser


@pytest.mark.parametrize("backbone", ["--backbone", "--CLIP_model", "--CLIP-model"])
@pytest.mark.parametrize("size", ["--batch-size", "--batch_size"])
def test_both_spellings_are_accepted(parser: ArgumentParser, backbone: str, size: str) -> None:
    for arguments in ([backbone, "a_b", size, "3"], [f"{backbone}=a_b", f"{size}=3"]):
        args = parser.parse_args(arguments)
        assert (args.backbone, args.batch_size) == ("a_b", 3)


def test_values_keep_their_underscores(parser: ArgumentParser) -> None:
    assert parser.parse_args(["--backbone=--a_b", "c_d", "--", "--e_f"]).rest == ["c_d", "--e_f"]
    assert parser.parse_args(["--backbone=--a_b"]).backbone == "--a_b"


def test_the_command_line_is_read_by_default(parser: ArgumentParser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["command", "--batch_size", "7"])
    assert parser.parse_args().batch_size == 7


def test_only_hyphens_are_shown(parser: ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--batch-size" in (shown := parser.format_help())
    assert "--batch_size" not in shown
    assert "CLIP" not in shown
    with pytest.raises(SystemExit):
        parser.parse_args(["--batch_size", "many"])
    assert "argument --batch-size: invalid int value" in capsys.readouterr().err
