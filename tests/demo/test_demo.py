"""The demo's own steps, from pixels to the table and figure, at a reduced size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bias_evaluation.grid.configs import load_dataset_config
from demo.__main__ import Size, remove_results, run_demo, study_steps
from safe_io.checkout import ROOT

SMALL = Size(handwritings=150, clip_steps=40, sae_epochs=2, n_latents=128, retrieval_k=10, zsdebias_epochs=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project root with the shipped configs, and run the small demo in it."""
    root = tmp_path_factory.mktemp("demo")
    shutil.copytree(ROOT / "config", root / "config")
    (root / "demo").mkdir()
    for name in ("tiny_clip.json", "table.yml"):
        shutil.copy(ROOT / "demo" / name, root / "demo" / name)
    run_demo(root, SMALL)
    return root


def result_files(root: Path) -> dict[str, str]:
    """Read every result: name → text."""
    return {p.name: p.read_text() for p in sorted((root / "main_eval_output" / "demo").glob("*.json"))}


def test_every_result_of_the_grid_is_there(root: Path) -> None:
    config = load_dataset_config(root / "config" / "colored_digits.yml")
    results = sum(max(1, len(m.seeds)) for m in config.methods.values())
    assert len(result_files(root)) == results * len(config.settings)


def test_table_and_figure_are_written(root: Path) -> None:
    folder = root / "main_eval_output" / "demo"
    table = pd.read_csv(folder / "table_demo.csv")
    methods = load_dataset_config(root / "config" / "colored_digits.yml").methods
    assert len(table.dropna()) == len(methods)
    for name in ("table_demo.md", "table_demo.tex", "fairness_colored_digits_tiny-RN.png"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "fairness_colored_digits_tiny-RN.pdf").read_bytes().startswith(b"%PDF")


def test_the_studies_run_in_the_same_world(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "study_output" / "demo"
    for again in (False, True):
        for step in study_steps(root):
            step.run()
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        if not again:
            before = files
    assert files == before
    assert capsys.readouterr().out.count("kept: ") == 2
    for stem in (
        "disentanglement_score_plot",
        "pca_digit_color",
        "neurons_colored_digits_stereotype_color_tiny-RN_sem-b",
    ):
        assert (folder / f"{stem}.png").stat().st_size > 0
        assert (folder / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
    record = json.loads((folder / "disentanglement" / "tiny-RN_color_sae.json").read_text())
    assert record["sizes"]["sentences"] == 20 * 4 * 10
    assert list(pd.read_csv(folder / "cp_bn_tiny-RN.csv")["version"])[-1] == "sem-b-neutral"


def test_evaluation_images_are_balanced(root: Path) -> None:
    metadata = pd.read_feather(root / "data" / "ColoredDigits" / "metadata.feather")
    counts = pd.crosstab(metadata["digit"], metadata["color"])
    assert counts.shape == (10, 4)
    assert (counts.nunique(axis=1) == 1).all()


def test_training_images_share_no_handwriting_with_the_evaluation(root: Path) -> None:
    data = root / "data" / "ColoredDigits"
    train, labels = (pd.read_csv(data / name) for name in ("captions.csv", "labels.csv"))
    assert not set(train["handwriting"]) & set(labels["handwriting"])


def test_a_second_run_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = result_files(root)
    run_demo(root, SMALL)
    assert result_files(root) == before
    assert "0 of" in capsys.readouterr().out


def test_starting_over_gives_the_same_results(root: Path) -> None:
    before = result_files(root)
    remove_results(root)
    assert not (root / "main_eval_output" / "demo").exists()
    assert not (root / "study_output" / "demo").exists()
    run_demo(root, SMALL)
    after = result_files(root)
    assert after == before
    assert all(json.loads(text)[0]["digest"] for text in after.values())
