"""`fair-search new-dataset`: every document loads as evaluations load it, and methods run on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import generate_splits
import main_eval
import precompute_embeddings
from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.prompts.bias_corpora import load_corpus
from bias_evaluation.prompts.prism_settings import text_set_name
from bias_evaluation.prompts.prism_texts import load_text_sets
from bias_evaluation.prompts.setting_prompts import load_setting_prompts
from fair_search.new_dataset import main
from safe_io.errors import InputError

QUERIES = ("car", "dog", "shopping street")


def make_table(folder: Path, **columns: list[str]) -> Path:
    rows = {"file": [f"{i}.png" for i in range(60)], "Weather": ["Sunny", "Rainy", "Rainy"] * 20}
    pd.DataFrame(rows | columns).to_csv(folder / "photos.csv", index=False)
    return folder / "photos.csv"


def scaffold(folder: Path, *more: str) -> Path:
    table = folder / "photos.csv" if (folder / "photos.csv").exists() else make_table(folder)
    options = ["--table", str(table), "--path-column", "file", "--attribute", "Weather", "--noun", "place"]
    target = folder / "My weather"
    assert main([str(target), *options, "--queries", *QUERIES, "--retrieval-k", "10", *more]) == 0
    return target


def test_all_documents_load_as_evaluations_load_them(tmp_path: Path) -> None:
    folder = scaffold(tmp_path)
    config = load_dataset_config(folder / "config" / "my_weather.yml")
    [setting] = config.settings.values()
    assert (setting.bias.column, setting.bias.values) == ("Weather", ("Rainy", "Sunny"))
    prompts = load_setting_prompts(config, setting, "default")
    assert [group.queries for group in prompts.groups] == [(f"A photo of a {query}.",) for query in QUERIES]
    assert prompts.groups[0].common.spurious == ("A photo of a rainy place.", "A photo of a sunny place.")
    sets = load_text_sets(folder / "config" / "prism" / "default")
    assert {("retrieval", text_set_name(setting, group.name)) for group in prompts.groups} == set(sets)
    corpus = load_corpus(folder / "config" / "zsdebias" / "default.yml", setting.zsdebias)
    assert "A photo of a rainy place." in corpus


def test_what_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = scaffold(tmp_path) / "config" / "prompts" / "default" / "my_weather.yml"
    prompts.write_text("mine")
    capsys.readouterr()
    scaffold(tmp_path)
    assert prompts.read_text() == "mine"
    assert "written:" not in capsys.readouterr().out


def test_methods_run_on_the_folder(tmp_path: Path, tiny_clip: Path) -> None:
    folder = scaffold(tmp_path, "--backbone", "tiny")
    entry = {"open_clip": str(tiny_clip / "tiny_test_clip.json"), "checkpoint": str(tiny_clip / "tiny.pt"),
             "dim": 8, "quick_gelu": True}  # fmt: skip
    backbones = folder / "config" / "backbones.yml"
    backbones.write_text(yaml.safe_dump({"tiny": entry}))
    data = folder / "data" / "my_weather"
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(data / f"{i}.png")
    where = ["--dataset-path", str(data)]
    embed = ["--backbone", "tiny", "--dataset-name", "my_weather", "--workers", "0"]
    assert precompute_embeddings.main([*embed, *where, "--backbones-file", str(backbones)]) == 0
    assert generate_splits.main(where) == 0
    config = ["--config", str(folder / "config" / "my_weather.yml"), "--output-dir", str(tmp_path / "out")]
    assert main_eval.main([*config, "--skip-missing"]) == 0
    methods = {path.stem.rpartition("_")[2] for path in (tmp_path / "out").glob("*.json")}
    assert {"vanilla", "roboshot", "orth-proj", "orth-cali", "prism-mini", "bendvlm"} <= methods


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--attribute", "Wether"], r"lacks the column 'Wether'; it has: file, Weather"),
        (["--attribute", "file"], r"'file' has 60 different values; an evaluation compares 2 to 50 groups"),
        (["--queries", "car"], r"at least two different queries"),
        (["--queries", "a car", "a-car"], r"queries need different letters and digits"),
        (["--name", "!"], r"'!' is no name of a dataset: give --name"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(tmp_path: Path, options: list[str], line: str) -> None:
    make_table(tmp_path)
    with pytest.raises(InputError, match=line):
        scaffold(tmp_path, *options)
    assert not (tmp_path / "My weather").exists()


def test_rows_without_a_group_are_counted(tmp_path: Path) -> None:
    make_table(tmp_path, Weather=["", "Sunny", "Rainy"] * 20)
    with pytest.raises(InputError, match=r"20 rows lack 'Weather' or 'file'; complete or remove them"):
        scaffold(tmp_path)
