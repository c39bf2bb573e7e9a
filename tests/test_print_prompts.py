"""The command that prints expanded prompts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import print_prompts
from bias_evaluation.prompts.sentences import load_prompts
from debiasing_methods.registry import METHODS
from safe_io.checkout import ROOT
from safe_io.errors import InputError

CONFIG = ROOT / "config"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, dataset: str = "celeba") -> list[str]:
    assert print_prompts.main(["--config", str(CONFIG / f"{dataset}.yml"), *arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("method", list(METHODS))
def test_every_sentence_of_a_method_is_printed_and_no_other(
    capsys: pytest.CaptureFixture[str], method: str
) -> None:
    lines = printed(capsys, "--setting", "hair_gender", "--method", method)
    shown = {part for line in lines if line.startswith("    ") for part in line[4:].split(" | ")}
    prompts = load_prompts(CONFIG / "prompts" / "default", "celeba", "hair_gender")
    expected = set(prompts.sentences(method, METHODS[method].needs))
    pairs = {line for line in shown if line.replace(" and ", "").isdigit()}
    assert shown - pairs == expected
    assert bool(pairs) == ("candidates" in METHODS[method].needs)
    assert lines[-1].startswith(f"{len(expected)} distinct sentences, from ")


def test_counts_queries_and_users(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, dataset="waterbirds")
    assert lines[0] == "== waterbirds, waterbirds"
    assert "  query (2)" in lines
    assert "  harmful pairs (10): roboshot" in lines
    assert "  spurious prompts (2): bendvlm" in lines
    assert "  spurious prompts (8): orth-proj, prism-mini, orth-cali" in lines
    assert "  pairs of candidates, counted from 0 (20): orth-cali" in lines
    assert "  paraphrases of 'This is a picture of a waterbird.' (10): sem-i, sem-bi, bendsem-bi" in lines
    assert "  bias prompts of land background (20): sem-b, sem-bi, bendsem-bi, debiaslens-e" in lines


def test_what_queries_share_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--setting", "stereotype_gender")
    assert lines[1] == "all 25 queries"
    for line in (
        "  bias prompts of Male (20): sem-b, sem-bi, bendsem-bi, debiaslens-e",
        "    A photo of a male person.",
    ):
        assert lines.count(line) == 1
    assert "hacker" in lines
    assert "    A photo of a female hacker." in lines


def test_all_settings_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--method", "vanilla", dataset="utkface")
    assert [line for line in lines if line.startswith("==")] == [
        "== utkface, stereotype_race",
        "== utkface, stereotype_gender",
    ]


def test_a_prism_text_set(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--prism", "celeba_blond_hair_gender")
    sets = [line for line in lines if not line.startswith(" ")]
    assert sets == [
        "celeba_blond_hair_gender (retrieval): 20 scenes",
        "celeba_blond_hair_gender (zs_classification): 20 scenes",
    ]
    assert sum(line.startswith("    ") for line in lines) == 2 * print_prompts.SAMPLES
    assert lines[5] == f"  {20 * 12 * 8} distinct sentences, such as"


def test_an_installed_release_is_printed(
    oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("waterbirds.yml", "backbones.yml", "methods.yml"):
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config" / name).write_bytes((CONFIG / name).read_bytes())
    (tmp_path / "config" / "prompts").mkdir()
    (tmp_path / "config" / "prompts" / "official").symlink_to(oracle_dir / "official")
    config = str(tmp_path / "config" / "waterbirds.yml")
    assert print_prompts.main(["--config", config, "--prompts", "official"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  diverse prompts (328): sem-i, sem-b, sem-bi, bendsem-bi" in lines
    assert "  candidates (10): orth-cali" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--setting", "hair"), "unknown setting 'hair'; choose from: stereotype_gender, hair_gender"),
        (("--method", "sem"), "unknown method 'sem'"),
        (("--prompts", "defaults"), "unknown prompt set 'defaults'; .*did you mean 'default'"),
        (("--prism", "celeba_blnd_hair_gender"), "unknown PRISM text set .*mean 'celeba_blond_hair_gender'"),
        (("--prism", "x", "--prompts", "mine"), "unknown PRISM text sets 'mine'; choose from: .*default"),
    ],
)
def test_unknown_names(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        print_prompts.main(["--config", str(CONFIG / "celeba.yml"), *arguments])


def test_runs_as_a_script() -> None:
    command = [sys.executable, str(ROOT / "print_prompts.py"), "--config", str(CONFIG / "none.yml")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "none.yml" in run.stderr
