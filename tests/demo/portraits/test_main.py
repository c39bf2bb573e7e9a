"""The command that draws Portraits: its files, its promises about existing folders, and a kill in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from demo.portraits.__main__ import main, text_corpus
from demo.portraits.world import World
from safe_io.checkout import ROOT
from safe_io.errors import InputError


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portraits") / "Portraits"
    assert main(["--output-dir", str(folder), "--limit", "40"]) == 0
    return folder


def test_files_fit_together(drawn: Path) -> None:
    pictures = np.load(drawn / "train" / "images.npy")
    people = pd.read_csv(drawn / "train" / "people.csv", keep_default_na=False)
    captions = pd.read_csv(drawn / "train" / "captions.csv", keep_default_na=False)
    assert pictures.shape == (40, 36, 36, 3)
    assert pictures.dtype == np.uint8
    assert people["stage"].value_counts().to_dict() == {"world": 30, "reading": 10}
    np.testing.assert_array_equal(captions["picture"], np.repeat(np.arange(40), 4))
    for part in (drawn, drawn / "validation"):
        labels = pd.read_csv(part / "labels.csv", keep_default_na=False)
        assert sorted(labels["file_name"]) == sorted(p.name for p in (part / "images").iterdir())
        assert Image.open(part / "images" / "00000.png").size == (64, 64)
        assert ((labels["hair"] == "blond") == (labels["blond"] == "blond")).all()
    assert len((drawn / "texts.txt").read_text().splitlines()) == 40


def test_evaluation_and_validation_are_different_draws(drawn: Path) -> None:
    one, two = (pd.read_csv(p / "labels.csv") for p in (drawn, drawn / "validation"))
    assert not one.equals(two)


def test_the_same_seed_gives_the_same_files(drawn: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    main(["--output-dir", str(again), "--limit", "40"])
    main(["--output-dir", str(other), "--limit", "40", "--seed", "1"])
    assert files(again) == files(drawn)
    assert not {k for k, v in files(other).items() if v == files(drawn)[k]}


def test_texts_are_different_sentences() -> None:
    texts = text_corpus(500, 0, World())
    assert len(set(texts)) == 500


def test_a_finished_folder_is_kept(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(drawn)
    assert main(["--output-dir", str(drawn), "--limit", "40"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert files(drawn) == before


def test_other_settings_are_an_error_until_fresh(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "P"
    main(["--output-dir", str(folder), "--limit", "8"])
    with pytest.raises(InputError, match=r"P was drawn with other settings .* --fresh draws it again"):
        main(["--output-dir", str(folder), "--limit", "9"])
    main(["--output-dir", str(folder), "--limit", "9", "--fresh"])
    assert len(pd.read_csv(folder / "labels.csv")) == 9


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for options in ([], ["--fresh"]):
        with pytest.raises(InputError, match="not a finished Portraits folder"):
            main(["--output-dir", str(tmp_path), "--limit", "8", *options])
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--limit", "0"], "--limit must be at least 8"), (["--seed", "-1"], "--seed must not be negative")],
)
def test_bad_options_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(["--output-dir", str(tmp_path / "P"), *options])
    assert not (tmp_path / "P").exists()


def test_killed_while_drawing_and_run_again(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "P"
    command = [sys.executable, "-m", "demo.portraits", "--output-dir", str(folder)]
    run = subprocess.Popen([*command, "--limit", "2000"], cwd=ROOT, stderr=subprocess.DEVNULL)
    partial = folder.with_name("P.partial") / "images"
    deadline = time.monotonic() + 60
    while not (partial.is_dir() and any(partial.iterdir())):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not folder.exists()
    assert main(["--output-dir", str(folder), "--limit", "40"]) == 0
    assert files(folder) == files(drawn)
    assert not folder.with_name("P.partial").exists()
