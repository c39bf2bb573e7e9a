"""Means and ranges over trainings."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from demo.training_table import COLUMNS, main, summarize, to_markdown
from safe_io.errors import InputError

METHODS = ("vanilla", "prism")


def results() -> pd.DataFrame:
    """Two backbones; prism has two seeds, of which a training's value is the mean."""
    rows = []
    for part, metric in COLUMNS.values():
        setting = f"{part}|bias=gender|K=100" if "=" in part else part
        for backbone, base in (("a", 0.2), ("b", 0.6)):
            rows.append((backbone, "vanilla", None, setting, metric, base))
            rows += [(backbone, "prism", seed, setting, metric, base + seed * 0.1) for seed in (0, 1)]
    return pd.DataFrame(rows, columns=["backbone", "method", "seed", "setting", "metric", "mean"])


def test_ranges_are_over_trainings_of_means_over_seeds() -> None:
    table = summarize(results()).set_index(["method", "column"])
    vanilla, prism = (table.loc[(m, "Roles: KL ↓")] for m in METHODS)
    assert vanilla[["mean", "low", "high"]].tolist() == pytest.approx([0.4, 0.2, 0.6])
    assert prism[["mean", "low", "high"]].tolist() == pytest.approx([0.45, 0.25, 0.65])
    assert set(table["trainings"]) == {2}


def test_table_has_a_line_per_method() -> None:
    lines = to_markdown(summarize(results())).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["Base CLIP", "PRISM"]
    assert "0.400 (.200–.600)" in lines[2]


def test_files_are_written(tmp_path: Path) -> None:
    results().to_feather(tmp_path / "all.feather")
    assert main(["--results", str(tmp_path / "all.feather"), "--output-dir", str(tmp_path / "out")]) == 0
    assert len(pd.read_csv(tmp_path / "out" / "table_trainings.csv")) == 2 * len(COLUMNS)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have no precision of vanilla for 'query=role'"):
        summarize(results().query("not (metric == 'precision' and setting.str.startswith('query=role'))"))
    with pytest.raises(InputError, match="not found; make it with process_json_outputs"):
        main(["--results", str(tmp_path / "none.feather"), "--output-dir", str(tmp_path)])
