"""The script that evaluates the paper's whole suite: its grid, as the dry run prints it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bias_evaluation.grid.configs import load_methods
from debiasing_methods.registry import PAPER
from safe_io.checkout import ROOT

BACKBONES = ("ViT-B-16", "ViT-L-14", "RN50", "RN101")
SETTINGS = (
    "celeba_retrieval_stereotype_gender",
    "celeba_retrieval_hair_gender",
    "celeba_zs-classification_celeba-blond-hair-gender",
    "fairface_retrieval_stereotype_race",
    "fairface_retrieval_stereotype_gender",
    "utkface_retrieval_stereotype_race",
    "utkface_retrieval_stereotype_gender",
    "waterbirds_zs-classification_waterbirds",
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Call the script from another folder, without any data: ``run("--dry-run", …)``."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        folders = ["--data-root", str(elsewhere / "data"), "--output-dir", str(elsewhere / "results")]
        done = subprocess.run(
            ["bash", ROOT / "run_eval.sh", *folders, *more],
            env=os.environ | {"PYTHON": sys.executable},
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=False,
        )
        assert list(elsewhere.iterdir()) == []
        return done

    return call


@pytest.fixture(scope="module")
def grid(run: Run) -> list[str]:
    """Lines of the dry run."""
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def names(grid: list[str]) -> list[str]:
    """Names of the results."""
    return [line.split()[0] for line in grid[:-1]]


def test_the_grid_is_settings_times_backbones_times_methods_and_seeds(
    grid: list[str], names: list[str]
) -> None:
    methods, configured = [], load_methods(ROOT / "config" / "methods.yml")
    for method in map(configured.get, PAPER):
        methods += [f"{method.name}-seed{seed}" for seed in method.seeds] or [method.name]
    expected = {f"{s}_clip-{b}_{m}" for s in SETTINGS for b in BACKBONES for m in methods}
    assert len(expected) == 8 * 4 * len(methods)
    assert set(names) == expected
    assert len(names) == len(expected)
    assert grid[-1] == f"{len(names)} results: {len(names)} lacks"


def test_its_names_are_those_of_the_published_results(names: list[str], oracle_dir: Path) -> None:
    published = {path.stem for path in (oracle_dir / "official" / "main_eval_output").glob("*.json")}
    assert len(published) == 512
    assert set(names) == published
    assert len(names) == 512


def test_methods_beyond_the_papers_are_asked_for_by_name(run: Run) -> None:
    further = [name for name in load_methods(ROOT / "config" / "methods.yml") if name not in PAPER]
    done = run("--dry-run", "--methods", *further)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith(f"{8 * 4 * len(further)} results: ")


def test_states_are_short(grid: list[str]) -> None:
    states = {line.split(maxsplit=1)[1] for line in grid[:-1]}
    assert states <= {"lacks embeddings, metadata, folds", "lacks embeddings, metadata, folds, weights"}
    assert max(map(len, grid)) <= 130
    needs_weights = {line.split()[0].split("_")[-1] for line in grid[:-1] if line.endswith("weights")}
    assert all(name.startswith("sem-") or "-seed" in name or name == "bendsem-bi" for name in needs_weights)


def test_selectors_of_one_dataset_are_no_error_for_the_others(run: Run) -> None:
    """What is missing is then listed for the selected results alone, and the exit code says so."""
    done = run("--settings", "waterbirds", "--methods", "vanilla", "sem-bi", "--backbone", "RN50", "RN101")
    assert done.returncode == 2
    assert done.stdout == ""
    *missing, last = done.stderr.splitlines()
    assert last.startswith("error: 4 of 4 results lack something (listed above)")
    assert all(line.startswith("missing: ") for line in missing)
    assert not [line for line in missing if "CelebA" in line]
    data = [line for line in missing if "Waterbirds" in line]
    assert len(data) == len({"RN50", "RN101", "metadata", "train", "val"})


def test_what_no_dataset_has_is_an_error(run: Run) -> None:
    done = run("--settings", "waterbirdz")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "celeba.yml and 3 more: unknown setting 'waterbirdz'; choose from: " in line
    assert line.endswith("did you mean 'waterbirds'?")
