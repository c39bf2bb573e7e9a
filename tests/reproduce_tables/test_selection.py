"""Chosen methods, backbones and settings: cells are those of the whole table; wrong names are one line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from reproduce_tables import TABLES_FILE, figures
from reproduce_tables.__main__ import main
from reproduce_tables.engine import load_description
from reproduce_tables.selection import select_columns, select_results
from safe_io.errors import InputError


def table(folder: Path, name: str, *options: str) -> pd.DataFrame:
    assert main(["2", "--published", "--output-dir", str(folder), *options]) == 0
    return pd.read_csv(folder / name, index_col="Method")


def test_a_selection_has_the_cells_of_the_whole_table(tmp_path: Path) -> None:
    options = ("--methods", "sem-bi", "vanilla", "--backbone", "ViT-B-16", "--settings", "stereotype_gender")
    whole = table(tmp_path, "table_2_published.csv")
    part = table(tmp_path, "table_2_selection_published.csv", *options)
    assert list(part.index) == ["SEM_bi", "Base CLIP"]
    assert list(part.columns) == [c for c in whole.columns if "ViT-B-16" in c and "|gender|" in c]
    assert len(part.columns) == 4
    pd.testing.assert_frame_equal(part, whole.loc[part.index, part.columns])
    latex = (tmp_path / "table_2_selection_published.tex").read_text()
    assert r"\label{tab:table_2_selection_published}" in latex
    assert "(K = 500)" in latex


@pytest.mark.parametrize(
    ("chosen", "line"),
    [
        ({"backbones": ["RN5"]}, r"table 2: unknown backbone 'RN5'; choose from: ViT-B-16, ViT-L-14@336px"),
        ({"settings": ["hair_gender"]}, r"table 2: unknown setting 'hair_gender'; choose from: stereotype"),
        ({"methods": ["sem-x"]}, r"--methods: unknown method 'sem-x'"),
    ],
)
def test_names_that_a_table_lacks_are_one_line(chosen: dict[str, list[str]], line: str) -> None:
    with pytest.raises(InputError, match=line):
        select_columns(load_description(TABLES_FILE, "2"), **chosen)


@pytest.fixture
def results() -> pd.DataFrame:
    rows = [
        {"dataset": "celeba", "task": task, "backbone": backbone, "method": method, "setting": setting,
         "seed": None, "metric": metric, "mean": 0.4, "ci": 0.1, "by_query": None}
        for task, setting, metric in (
            ("retrieval", "query=hair|bias=gender|K=50", "max_skew"), ("zs_classification", "smile", "Acc."),
            ("zs_classification", "smile", "WG Acc."),
        )
        for backbone in ("RN50", "RN101")
        for method in ("vanilla", "sem-b")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_results_are_chosen_by_the_names_of_configs(results: pd.DataFrame) -> None:
    chosen = select_results(results, ["sem-b"], ["RN50"], ["hair_gender"])
    assert len(chosen) == 1
    assert len(select_results(results)) == len(results)
    with pytest.raises(InputError, match=r"unknown setting 'hair'; choose from: hair_gender, smile"):
        select_results(results, settings=["hair"])


def test_figures_are_of_what_is_chosen(results: pd.DataFrame, tmp_path: Path) -> None:
    results.to_feather(tmp_path / "all.feather")
    argv = ["--results", str(tmp_path / "all.feather"), "--output-dir", str(tmp_path), "--backbone", "RN101"]
    assert figures.main([*argv, "--methods", "sem-b"]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"fairness_celeba_RN101.png"}
