"""The command that draws figures: equal results give equal files."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest

from reproduce_tables import figures
from safe_io.errors import run_main


def test_files_are_written_and_repeat(small_results: pd.DataFrame, tmp_path: Path) -> None:
    small_results.to_feather(tmp_path / "all_results.feather")
    for name in ("a", "b"):
        assert (
            figures.main(
                ["--results", str(tmp_path / "all_results.feather"), "--output-dir", str(tmp_path / name)]
            )
            == 0
        )
    stems = ("fairness_celeba_ViT-L-14-336px", "skew_celeba_hair_gender_ViT-L-14-336px")
    for stem in stems:
        assert matplotlib.image.imread(tmp_path / "a" / f"{stem}.png").std() > 0.01  # not blank
        assert (tmp_path / "a" / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
        for suffix in (".png", ".pdf"):
            first, second = (tmp_path / name / f"{stem}{suffix}" for name in ("a", "b"))
            assert first.read_bytes() == second.read_bytes()
    assert sorted(p.stem for p in (tmp_path / "a").glob("*.png")) == sorted(stems)


def test_no_results_is_one_line(
    small_results: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_results.iloc[:0].to_feather(tmp_path / "none.feather")
    assert run_main(lambda: figures.main(["--results", str(tmp_path / "none.feather")])) == 2
    assert "holds no results; run main_eval.py" in capsys.readouterr().err
