"""The demo's own steps, from drawn people to the table, figures, and contact sheet, at a reduced size."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bias_evaluation.grid.configs import load_dataset_config
from demo.__main__ import Size, remove_results, run_demo, study_steps
from qualitative_study import sem_ablation
from safe_io.checkout import ROOT

SMALL = Size(limit=400, clip_steps=20, sae_epochs=2, n_latents=128, retrieval_k=10, zsdebias_epochs=2)


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


def result_files(root: Path, backbone: str = "tiny-RN") -> dict[str, str]:
    """Read every result of a backbone: name → text."""
    folder = root / "main_eval_output" / "demo"
    return {p.name: p.read_text() for p in sorted(folder.glob(f"*_clip-{backbone}_*.json"))}


def test_every_result_of_the_grid_exists(root: Path) -> None:
    config = load_dataset_config(root / "config" / "portraits.yml")
    results = sum(max(1, len(m.seeds)) for m in config.methods.values())
    assert len(result_files(root)) == results * len(config.settings)


def test_table_figures_and_contact_sheet_are_written(root: Path) -> None:
    folder = root / "main_eval_output" / "demo"
    table = pd.read_csv(folder / "table_demo.csv")
    assert len(table.dropna()) == len(load_dataset_config(root / "config" / "portraits.yml").methods)
    for name in (
        "table_demo.md",
        "table_demo.tex",
        "fairness_portraits_tiny-RN.png",
        "contact_sheet_tiny-RN.png",
    ):
        assert (folder / name).stat().st_size > 0
    for stem in ("fairness_portraits_tiny-RN", "contact_sheet_tiny-RN"):
        assert (folder / f"{stem}.pdf").read_bytes().startswith(b"%PDF")


def test_the_contact_sheet_says_what_it_shows(root: Path) -> None:
    """Four queries, before and after; the counts of a row are those of its 20 pictures."""
    page = (root / "main_eval_output" / "demo" / "contact_sheet_tiny-RN.html").read_text()
    assert page.count("<h2>") == 4
    assert page.count("<img ") == 4 * 2 * 20
    rows = re.findall(r"<p>(Base CLIP|SEM_bi) \(([^<]*)\)</p>", page)
    assert [method for method, _ in rows] == ["Base CLIP", "SEM_bi"] * 4
    assert all(sum(map(int, re.findall(r"\d+", counts))) == 20 for _, counts in rows)


def test_the_studies_run_in_the_same_world(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "study_output" / "demo"
    for again in (False, True):
        for step in study_steps(root):
            step.run()
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        if not again:
            before = files
    assert files == before
    assert capsys.readouterr().out.count("kept: ") == 4
    for stem in (
        "disentanglement_score_plot",
        "pca_role_gender",
        "neurons_portraits_role_gender_tiny-RN_sem-b",
        "ablation_portraits_role_gender_tiny-RN_sem-b",
    ):
        assert (folder / f"{stem}.png").stat().st_size > 0
        assert (folder / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
    record = json.loads((folder / "disentanglement" / "tiny-RN_skin_sae.json").read_text())
    assert record["sizes"]["sentences"] == 20 * 4 * 16
    assert list(pd.read_csv(folder / "cp_bn_tiny-RN.csv")["version"])[-1] == "sem-b-neutral"


def test_ablations_are_measured_as_the_results_are(root: Path, tmp_path: Path) -> None:
    """The undebiased row and that of the whole weight are the table's own values."""
    names = ("--setting", "role_gender", "--backbone", "tiny-RN", "--retrieval-k", "10")
    config = ("--config", str(root / "config" / "portraits.yml"))
    assert sem_ablation.main([*config, *names, "--output-dir", str(tmp_path)]) == 0
    table = pd.read_csv(next(tmp_path.glob("*_weights.csv"))).set_index("weight")
    for row, method in (("base", "vanilla"), ("SEM", "sem-b")):
        records = json.loads(
            result_files(root)[f"portraits_retrieval_role_gender_clip-tiny-RN_{method}.json"]
        )
        assert {r["metric"]: r["mean"] for r in records} == pytest.approx(table.loc[row].to_dict(), rel=1e-4)


def test_a_second_run_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = result_files(root)
    run_demo(root, SMALL)
    assert result_files(root) == before
    assert "0 of" in capsys.readouterr().out


def test_three_trainings_add_means_and_ranges(root: Path) -> None:
    before = result_files(root)
    run_demo(root, SMALL, trainings=3)
    assert result_files(root) == before  # what the first training gave is kept
    assert len(result_files(root, "tiny-RN-2")) == len(before)
    table = pd.read_csv(root / "main_eval_output" / "demo" / "table_trainings.csv")
    assert set(table["trainings"]) == {3}
    assert (table["low"] <= table["mean"]).all()
    assert (table["mean"] <= table["high"]).all()
    assert (table["low"] < table["high"]).any()  # different seeds give different models


def test_starting_over_gives_the_same_results(root: Path) -> None:
    before = result_files(root)
    remove_results(root)
    assert not (root / "main_eval_output" / "demo").exists()
    assert not (root / "study_output" / "demo").exists()
    assert not list((root / "debiasing_methods").rglob("*tiny-RN*"))
    run_demo(root, SMALL)
    after = result_files(root)
    assert after == before
    assert all(json.loads(text)[0]["digest"] for text in after.values())
