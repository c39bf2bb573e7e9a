"""Tables from descriptions and results: cells, what is missing, every output, and the published figures."""

from __future__ import annotations

import csv
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bias_evaluation.display.result_table import read_results
from bias_evaluation.results.aggregation import collect_results
from debiasing_methods.registry import METHODS, PAPER
from reproduce_tables import TABLES_FILE
from reproduce_tables.__main__ import main
from reproduce_tables.engine import fill, load_description
from reproduce_tables.render import (
    Row,
    as_csv,
    as_grid,
    as_latex,
    as_markdown,
    as_text,
    compare,
    difference,
    summary,
)
from safe_io.checkout import ROOT
from safe_io.errors import InputError

NUMBERS = ("2", "3", "9", "13", "14", "15")

SMALL = """
tables:
  small:
    title: Birds & digits
    columns:
      - - {dataset: portraits, setting: digit_color, label: Digits, measures: [KL, Prec.]}
        - {dataset: waterbirds, setting: waterbirds, label: Birds, measures: [WG, Gap]}
      - backbone: [tiny]
    methods: [vanilla, roboshot, sem-i, prism]
    seeds: [0, 1]
    retrieval_k: 20
"""


def describe(folder: Path, text: str = SMALL) -> Path:
    path = folder / "tables.yml"
    path.write_text(text)
    return path


def rows(method: str, *values: float, seed: int | None = None, k: int = 20) -> list[dict[str, Any]]:
    """Make the records of kl, precision, Acc. and WG Acc. of one method."""
    retrieval = {"dataset": "portraits", "task": "retrieval", "setting": f"query=digit|bias=color|K={k}"}
    birds = {"dataset": "waterbirds", "task": "zs_classification", "setting": "waterbirds"}
    metrics = ((retrieval, "kl"), (retrieval, "precision"), (birds, "Acc."), (birds, "WG Acc."))
    shared = {"backbone": "tiny", "method": method, "ci": 0.0, "seed": seed}
    return [
        where | shared | {"metric": metric, "mean": mean}
        for (where, metric), mean in zip(metrics, values, strict=True)
    ]


def results(*groups: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for group in groups for row in group]).astype({"seed": "Int64"})


def test_a_row_can_be_a_re_ranked_result(tmp_path: Path) -> None:
    text = SMALL.replace("[vanilla, roboshot, sem-i, prism]", "[vanilla, vanilla+detcons, prism+pbm]")
    description = load_description(describe(tmp_path, text), "small")
    found = results(
        rows("vanilla", 0.5, 0.6, 0.9, 0.4),
        rows("vanilla+detcons", 0.01, 0.5, 0.9, 0.4),
        rows("prism+pbm", 0.1, 0.5, 0.9, 0.4, seed=0),
        rows("prism+pbm", 0.3, 0.5, 0.9, 0.4, seed=1),
    )
    table = fill(description, found)
    assert [row[0] for row in table.values] == [0.5, 0.01, 0.2]
    named = [(row.name, row.group) for row in as_grid(table).rows]
    assert named[1:] == [("Base CLIP + DetCons", "After ranking"), ("PRISM + PBM", "After ranking")]


@pytest.fixture
def full() -> pd.DataFrame:
    return results(
        rows("vanilla", 0.5, 0.6, 0.9, 0.4),
        rows("roboshot", 0.30001, 0.7, 0.8, 0.5),
        rows("sem-i", 0.29999, 0.8, 0.8, 0.6),
        rows("prism", 0.10, 0.5, 0.9006, 0.5, seed=0),
        rows("prism", 0.20, 0.5, 0.9, 0.3999, seed=1),
    )


def grid_of(folder: Path, table: pd.DataFrame) -> Any:
    return as_grid(fill(load_description(describe(folder), "small"), table))


def test_cells_are_unrounded_means_over_seeds(tmp_path: Path, full: pd.DataFrame) -> None:
    table = fill(load_description(describe(tmp_path), "small"), full)
    assert table.notes == []
    assert as_csv(as_grid(table)).splitlines() == [
        "Method,Digits|tiny|KL,Digits|tiny|Prec.,Birds|tiny|WG,Birds|tiny|Gap",
        "Base CLIP,0.500,0.600,0.400,0.500",
        "RoboShot,0.300,0.700,0.500,0.300",
        "SEM_i,0.300,0.800,0.600,0.200",
        "PRISM,0.150,0.500,0.450,0.450",  # Gap: 0.9003 - 0.44995, where rounded parts would give the same
    ]
    assert table.values[3][3] == pytest.approx(0.9003 - 0.44995, abs=1e-12)


def test_gap_is_the_difference_of_unrounded_means(tmp_path: Path) -> None:
    table = results(rows("vanilla", 0.0, 0.0, 0.8204, 0.7676))
    assert grid_of(tmp_path, table).rows[0].cells[2:] == ("0.768", "0.053")  # 0.820 - 0.768 would be 0.052


def test_a_missing_seed_or_result_is_an_empty_cell_and_a_note(tmp_path: Path, full: pd.DataFrame) -> None:
    gone = (full["method"] == "prism") & (full["seed"] == 1) & (full["task"] == "retrieval")
    gone |= (full["method"] == "roboshot") & (full["metric"] == "precision")
    gone |= full["method"] == "sem-i"
    table = fill(load_description(describe(tmp_path), "small"), full[~gone])
    cells = {row.name: row.cells for row in as_grid(table).rows}
    assert cells["RoboShot"] == ("0.300", "", "0.500", "0.300")
    assert cells["SEM_i"] == ("", "", "", "")
    assert cells["PRISM"] == ("", "", "0.450", "0.450")
    assert table.notes == [
        "missing metric: precision in portraits_retrieval_digit_color_clip-tiny_roboshot.json",
        "missing result: portraits_retrieval_digit_color_clip-tiny_sem-i.json",
        "missing result: waterbirds_zs-classification_waterbirds_clip-tiny_sem-i.json",
        "missing result: portraits_retrieval_digit_color_clip-tiny_prism-seed1.json",
    ]


def test_seeds_can_be_chosen(tmp_path: Path, full: pd.DataFrame) -> None:
    table = fill(load_description(describe(tmp_path), "small", seeds=[1]), full)
    assert as_grid(table).rows[3].cells == ("0.200", "0.500", "0.400", "0.500")


def test_two_values_of_one_cell_are_refused(tmp_path: Path, full: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"two values of kl for portraits_\S+_vanilla\.json"):
        fill(load_description(describe(tmp_path), "small"), pd.concat([full, full.head(1)]))


def test_another_k_than_the_tables_is_said(tmp_path: Path) -> None:
    table = fill(load_description(describe(tmp_path), "small"), results(rows("vanilla", 0, 0, 0, 0, k=7)))
    assert "warning: results of portraits query=digit|bias=color|K=7 in a table for K=20" in table.notes


def test_the_best_of_a_group_are_bold_with_ties(tmp_path: Path, full: pd.DataFrame) -> None:
    best = {row.name: row.best for row in grid_of(tmp_path, full).rows}
    assert best["RoboShot"] == (True, False, False, False)  # 0.30001 prints like 0.29999
    assert best["SEM_i"] == (True, True, True, True)
    assert not any(best["Base CLIP"])  # alone in its group
    assert not any(best["PRISM"])


def test_a_value_alone_in_its_group_is_not_the_best(tmp_path: Path, full: pd.DataFrame) -> None:
    best = {row.name: row.best for row in grid_of(tmp_path, full[full["method"] != "roboshot"]).rows}
    assert not any(best["SEM_i"])


def test_markdown(tmp_path: Path, full: pd.DataFrame) -> None:
    lines = as_markdown(grid_of(tmp_path, full)).splitlines()
    assert lines[0] == "**Birds & digits (K = 20)**"
    assert lines[2].startswith("| Method | Digits<br>tiny<br>KL ↓ | Digits<br>tiny<br>Prec. ↑ |")
    assert lines[3] == "| --- | ---: | ---: | ---: | ---: |"
    assert r"| SEM\_i | **0.300** | **0.800** | **0.600** | **0.200** |" in lines
    assert "| *Bias-agnostic + input-specific prompts* |  |  |  |  |" in lines
    assert {line.count("|") for line in lines[2:]} == {6}


def test_latex(tmp_path: Path, full: pd.DataFrame) -> None:
    text = as_latex(grid_of(tmp_path, full))
    assert r"\caption{Birds \& digits (K = 20)}" in text
    assert r" & \multicolumn{2}{c}{Digits} & \multicolumn{2}{c}{Birds} \\" in text
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}" in text
    assert r"SEM$_{i}$ & \textbf{0.300} & \textbf{0.800} & \textbf{0.600} & \textbf{0.200} \\" in text
    assert text.count(r"\midrule") == 3  # three groups of methods
    assert (text.count(r"\toprule"), text.count(r"\bottomrule")) == (1, 1)
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body[2:]} == {4}


@pytest.mark.parametrize(
    ("columns", "environment", "scaled"), [(4, "table", 0), (6, "table*", 0), (15, "table*", 1)]
)
def test_a_latex_table_fits_its_page(
    tmp_path: Path, full: pd.DataFrame, columns: int, environment: str, scaled: int
) -> None:
    grid = grid_of(tmp_path, full)
    wide = replace(
        grid,
        headers=(grid.headers * 4)[:columns],
        arrows=(grid.arrows * 4)[:columns],
        rows=tuple(
            replace(row, cells=(row.cells * 4)[:columns], best=(row.best * 4)[:columns]) for row in grid.rows
        ),
    )
    text = as_latex(wide, label="tab:small")
    assert rf"\begin{{{environment}}}" in text
    assert rf"\end{{{environment}}}" in text
    assert text.index(r"\caption") < text.index(r"\label{tab:small}") < text.index(r"\begin{tabular}")
    assert text.count(r"\resizebox{\textwidth}{!}{%") == text.count(r"\end{tabular}}") == scaled
    assert text.count("graphicx") == scaled
    assert text.count("{") == text.count("}")


def test_text_is_continued_below_where_it_is_wider_than_the_terminal(
    tmp_path: Path, full: pd.DataFrame
) -> None:
    grid = grid_of(tmp_path, full)
    wide = as_text(grid, 200, bold=False)
    assert re.search(r"^RoboShot +0\.300 +0\.700 +0\.500 +0\.300$", wide, re.MULTILINE)
    narrow = as_text(grid, 26, bold=False)
    assert narrow.count("RoboShot") == 2
    assert max(map(len, narrow.splitlines()[1:])) <= 60  # titles of groups are never cut
    assert "\033" not in wide
    assert "\033[1m" in as_text(grid, 200, bold=True)


def test_long_labels_widen_their_columns(tmp_path: Path, full: pd.DataFrame) -> None:
    text = as_text(grid_of(tmp_path, full), 200, bold=False)
    description = load_description(
        describe(tmp_path, SMALL.replace("label: Birds", "label: Birds in many places")), "small"
    )
    longer = as_text(as_grid(fill(description, full)), 200, bold=False)
    assert "  Birds in many places" in longer
    assert len(longer) > len(text)


def test_comparison(tmp_path: Path, full: pd.DataFrame) -> None:
    grid = grid_of(tmp_path, full)
    nothing = [Row(row.name, row.group, ("",) * 4, (False,) * 4) for row in grid.rows]
    first = replace(nothing[0], cells=("0.500", "0.601", "0.400", ""))
    compared = compare(grid, replace(grid, rows=(first, *nothing[1:])))
    assert compared.headers[:3] == tuple(
        ("Digits", "tiny", "KL", part) for part in ("ours", "published", "difference")
    )
    assert compared.rows[0].cells[:6] == ("0.500", "0.500", "0.000", "0.600", "0.601", "-0.001")
    assert compared.rows[0].cells[-3:] == ("0.500", "", "")
    assert summary(compared) == "2 of 3 cells equal the published ones; largest difference 0.001"
    assert summary(compare(grid, replace(grid, rows=tuple(nothing)))) == "no cell can be compared"


@pytest.mark.parametrize(
    ("ours", "published", "expected"),
    [
        ("0.5", "0.4", "+0.100"),
        ("0.4", "0.5", "-0.100"),
        ("0.4", "0.4", "0.000"),
        ("", "0.4", ""),
        ("0.4", "", ""),
    ],
)
def test_difference(ours: str, published: str, expected: str) -> None:
    assert difference(ours, published) == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("small:", "other:", "unknown table 'small'; choose from: other"),
        ("title:", "tittle:", "table small: unknown key 'tittle'; choose from: .*; did you mean 'title'"),
        ("measures: [KL, Prec.]", "measures: [KLL]", "unknown measure 'KLL'; choose from: kl,"),
        (
            "backbone: [tiny]",
            "backbones: [tiny]",
            "an axis is a list of choices, or one of dataset, backbone, setting, ",
        ),
        ("      - backbone: [tiny]\n", "", "must fix each of .* once; missing or repeated: backbone"),
        ("backbone: [tiny]", "setting: [other]", "missing or repeated: backbone, setting"),
        ("{dataset: waterbirds, setting: waterbirds, label: Birds, measures", "{measures", "needs a label"),
        ("backbone: [tiny]", "backbone: tiny", "'backbone' must be a list"),
        (
            "label: Digits",
            "labels: Digits",
            "unknown field 'labels'; choose from: dataset, backbone, setting, measures, label",
        ),
        ("[vanilla, roboshot", "[vanila, roboshot", "unknown method 'vanila'; .* did you mean 'vanilla'"),
        (
            "seeds: [0, 1]",
            "seeds: [0, x]",
            r"'seeds' must be a list of whole numbers from 0, found \[0, 'x'\]",
        ),
        ("retrieval_k: 20", "retrieval_k: many", "'retrieval_k' must be a whole number"),
        ("tables:", "table:", "the key 'tables' is missing"),
        ("tables:", "measures: {X: {task: t, metric: kl, best: lowest}}\ntables:", "unknown 'task' 't'"),
        (
            "tables:",
            "measures: {X: {task: retrieval, metric: kl, best: low}}\ntables:",
            "unknown 'best' 'low'",
        ),
    ],
)
def test_mistakes_in_descriptions(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    path = describe(tmp_path, SMALL.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_description(path, "small")
    assert str(path) in str(caught.value)


def test_measures_of_the_users_own(tmp_path: Path, full: pd.DataFrame) -> None:
    text = "measures: {Sum: {task: zs_classification, metric: Acc., best: highest}}" + SMALL.replace(
        "[WG, Gap]", "[Sum]"
    )
    grid = as_grid(fill(load_description(describe(tmp_path, text), "small"), full))
    assert grid.rows[0].cells == ("0.500", "0.600", "0.900")


def test_results_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"not found: .*none\.feather; make it with process_json_outputs\.py"
    ):
        read_results(tmp_path / "none.feather")
    damaged = tmp_path / "damaged.feather"
    damaged.write_bytes(b"ARROW1")
    with pytest.raises(InputError, match="is not a table of results"):
        read_results(damaged)
    (tmp_path / "other.csv").write_text("dataset,seed\nceleba,1\n")
    with pytest.raises(InputError, match="lacks the columns task, backbone, method, setting, metric, mean"):
        read_results(tmp_path / "other.csv")


def test_the_papers_rows_are_all_methods_in_order() -> None:
    names = [
        *("Base CLIP", "RoboShot", "SEM_i", "Orth-Proj", "PRISM-mini", "SEM_b"),
        *("ZSDebias", "Orth-Cali", "SEM_bi", "PRISM", "BendVLM", "BendSEM_bi"),
    ]
    for number in NUMBERS:
        description = load_description(TABLES_FILE, number)
        assert [method.display_name for method in description.methods] == names
        with (TABLES_FILE.parent / "published" / f"table_{number}.csv").open(newline="") as file:
            header, *body = csv.reader(file)
        assert header == ["Method", *(column.header for column in description.columns)]
        assert [line[0] for line in body] == names


def test_the_extended_table_has_the_columns_of_table_2_and_a_row_for_every_method() -> None:
    extended, paper = (load_description(TABLES_FILE, name) for name in ("extended", "2"))
    assert [column.header for column in extended.columns] == [column.header for column in paper.columns]
    assert [method.name for method in extended.methods] == list(METHODS)
    assert [method.name for method in paper.methods] == list(PAPER)


def test_groups_are_neighbours() -> None:
    groups = [method.group for method in METHODS.values()]
    assert len(dict.fromkeys(groups)) == 1 + sum(a != b for a, b in itertools.pairwise(groups))


@pytest.mark.parametrize("number", NUMBERS)
def test_the_published_tables_need_no_results(
    number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([number, "--published", "--output-dir", str(tmp_path)]) == 0
    assert "RoboShot" in capsys.readouterr().out
    written = tmp_path / f"table_{number}_published.csv"
    figures = TABLES_FILE.parent / "published" / f"table_{number}.csv"
    assert written.read_bytes() == figures.read_bytes()
    assert r"\textbf{" in written.with_suffix(".tex").read_text()


@pytest.fixture(scope="module")
def published_results(oracle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    table, _ = collect_results(oracle_dir / "official" / "main_eval_output")
    path = tmp_path_factory.mktemp("results") / "all_results.feather"
    table.to_feather(path)
    return path


@pytest.mark.parametrize("number", NUMBERS)
def test_published_results_give_the_published_tables(
    number: str, oracle_dir: Path, published_results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [number, "--results", str(published_results), "--output-dir", str(tmp_path), "--compare-published"]
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    official = oracle_dir / "official" / "tables" / f"table_{number}.csv"
    assert (tmp_path / f"table_{number}.csv").read_bytes() == official.read_bytes()
    assert (TABLES_FILE.parent / "published" / f"table_{number}.csv").read_bytes() == official.read_bytes()
    cells = 12 * len(load_description(TABLES_FILE, number).columns)
    assert f"{cells} of {cells} cells equal the published ones; largest difference 0.000" in captured.out
    with (tmp_path / f"table_{number}_comparison.csv").open(newline="") as file:
        header, *body = csv.reader(file)
    assert len(header) == 1 + 3 * cells // 12
    assert {cell for line in body for cell in line[3::3]} == {"0.000"}


def test_the_command_writes_its_files_and_names_what_is_missing(
    tmp_path: Path, full: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    full[full["method"] != "sem-i"].to_feather(tmp_path / "all.feather")
    argv = ["small", "--description", str(describe(tmp_path)), "--results", str(tmp_path / "all.feather")]
    assert main([*argv, "--output-dir", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"table_small.{end}" for end in ("csv", "md", "tex")
    ]
    assert "RoboShot" in captured.out
    assert "written: " in captured.out
    assert captured.err.splitlines() == [
        "missing result: portraits_retrieval_digit_color_clip-tiny_sem-i.json",
        "missing result: waterbirds_zs-classification_waterbirds_clip-tiny_sem-i.json",
    ]


def test_csv_results_give_the_same_table(tmp_path: Path, full: pd.DataFrame) -> None:
    full.to_csv(tmp_path / "all.csv", index=False)
    full.to_feather(tmp_path / "all.feather")
    description = load_description(describe(tmp_path), "small")
    tables = [fill(description, read_results(tmp_path / name)) for name in ("all.csv", "all.feather")]
    assert tables[0].values == tables[1].values


@pytest.mark.parametrize(
    ("published", "message"),
    [
        (
            None,
            r"no published figures for this table: .*table_small\.csv not found; leave out --publ",
        ),
        ("Method,KL\nBase CLIP,0.1\n", r"does not have the columns of the table: Method, Digits.tiny.KL, "),
        ("", "does not have the columns of the table"),
        (
            "Method,Digits|tiny|KL,Digits|tiny|Prec.,Birds|tiny|WG,Birds|tiny|Gap\nSEM_i,0.1,0.2,0.3,n/a\n",
            "the row 'SEM_i' holds something else than numbers",
        ),
    ],
)
def test_published_figures_that_cannot_be_used(
    tmp_path: Path, full: pd.DataFrame, published: str | None, message: str
) -> None:
    full.to_feather(tmp_path / "all.feather")
    if published is not None:
        (tmp_path / "published").mkdir()
        (tmp_path / "published" / "table_small.csv").write_text(published)
    argv = ["small", "--description", str(describe(tmp_path)), "--results", str(tmp_path / "all.feather")]
    with pytest.raises(InputError, match=message):
        main([*argv, "--output-dir", str(tmp_path / "out"), "--compare-published"])
    assert not (tmp_path / "out").exists()


def test_an_unknown_table_is_one_line_and_exit_code_2() -> None:
    command = [sys.executable, "-m", "reproduce_tables", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert re.match(r"error: .*unknown table '4'; choose from: 2, 3, 9, 13, 14, 15", done.stderr)
