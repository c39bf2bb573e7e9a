"""The command that gathers result files: what it writes, what it prints, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import process_json_outputs
from safe_io.checkout import ROOT

NAME = "waterbirds_zs-classification_waterbirds_clip-RN50_{}.json"


def write(folder: Path, name: str, mean: float = 0.1, **fields: object) -> None:
    record = {
        "dataset": "waterbirds",
        "task": "zs_classification",
        "backbone": "RN50",
        "method": name,
        "normalize": True,
        "setting": "waterbirds",
        "metric": "WG Acc.",
        "mean": mean,
        "ci": 1 / 3,
    }
    folder.mkdir(exist_ok=True)
    (folder / NAME.format(name)).write_text(json.dumps([record | fields]))


def test_both_tables_hold_the_same_unrounded_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in", "vanilla", mean=0.1 + 0.2)
    write(tmp_path / "in", "zsdebias-seed0", method="zsdebias", normalize=False)
    argv = ["--input-dir", str(tmp_path / "in"), "--output-dir", str(tmp_path / "new" / "out")]
    assert process_json_outputs.main(argv) == 0
    out = tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["all_results.csv", "all_results.feather"]
    feather = pd.read_feather(out / "all_results.feather")
    csv = pd.read_csv(out / "all_results.csv", dtype={"seed": "Int64"})
    first = ["dataset", "task", "backbone", "method", "normalize", "setting", "metric", "mean", "ci", "seed"]
    assert list(feather.columns[:10]) == first
    pd.testing.assert_frame_equal(csv[first], feather[first], check_exact=True)
    assert feather["mean"][0] == 0.1 + 0.2
    captured = capsys.readouterr()
    assert "2 result files, 2 records" in captured.out
    assert captured.err == ""


def test_warnings_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "vanilla", digest="a", digests={"folds": "one"})
    write(tmp_path, "sem-b", digest="b", digests={"folds": "two"})
    assert (
        process_json_outputs.main(["--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")]) == 0
    )
    assert capsys.readouterr().err.startswith(
        "warning: waterbirds: results to be compared were made from different folds"
    )


def test_the_defaults_are_the_documented_ones() -> None:
    args = process_json_outputs.build_parser().parse_args([])
    assert (args.input_dir, args.output_dir) == (Path("main_eval_output"), Path())


def test_bad_input_is_one_line_exit_code_2_and_leaves_earlier_tables(tmp_path: Path) -> None:
    write(tmp_path / "in", "vanilla", dataset="celeba")
    (tmp_path / "all_results.csv").write_text("earlier")
    command = [sys.executable, "process_json_outputs.py"]
    command += ["--input-dir", str(tmp_path / "in"), "--output-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert "says dataset 'waterbirds', the record says 'celeba'" in done.stderr
    assert (tmp_path / "all_results.csv").read_text() == "earlier"
    assert not (tmp_path / "all_results.feather").exists()
