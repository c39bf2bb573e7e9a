"""ZSDebias from its release files to result files, against the published code's results.

The published code draws its noise from an unseeded generator, so each of its figures must lie within four
standard deviations of ours over 20 noise seeds. The miniature release's model is installed once for each
seed; the whole evaluation runs on it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import main_eval
from safe_io.checkout import ROOT

DATASETS = ("celeba", "fairface", "utkface", "waterbirds")
SEEDS = range(20)

Figures = dict[tuple[str, str], float]


@pytest.fixture(scope="module")
def golden(oracle_dir: Path) -> Path:
    """Folder of the miniature release."""
    folder = oracle_dir / "golden" / "world"
    if not folder.is_dir():
        pytest.skip(f"no golden world in {oracle_dir}")
    return folder


@pytest.fixture(scope="module")
def results(golden: Path, oracle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluate the four datasets with 20 seeds in a project folder of their own; folder of the results."""
    project = tmp_path_factory.mktemp("project")
    (project / "config" / "prompts").mkdir(parents=True)
    for path in (ROOT / "config").glob("*.yml"):
        shutil.copy(path, project / "config")
    (project / "config" / "methods.yml").write_text(f"zsdebias: {{seeds: {list(SEEDS)}}}\n")
    (project / "config" / "prompts" / "official").symlink_to(oracle_dir / "official")
    models = project / "debiasing_methods" / "zsdebias_weights"
    models.mkdir(parents=True)
    for kind in ("human", "animal"):
        for seed in SEEDS:
            model = golden / "debiasing_methods" / "zsdebias_weights" / f"ViT-B-16_{kind}_zsdebias_0.pth"
            (models / f"ViT-B-16_{kind}_zsdebias_{seed}.pth").symlink_to(model)
    for dataset in DATASETS:
        arguments = ["--config", project / "config" / f"{dataset}.yml", "--backbone", "ViT-B-16"]
        arguments += ["--prompts", "official", "--text-embeddings", golden / "text_embeddings.npz"]
        arguments += ["--data-root", golden / "data", "--output-dir", project / "out"]
        assert main_eval.main([str(argument) for argument in arguments]) == 0
    return project / "out"


@pytest.fixture(scope="module")
def read(golden: Path, results: Path) -> Callable[..., Figures]:
    """Read the figures of ours with a seed, ``read(seed)``, or of the published code, ``read()``."""

    def figures(seed: int | None = None) -> Figures:
        folder, seed = (golden / "expected", 0) if seed is None else (results, seed)
        ending = f"_zsdebias-seed{seed}.json"
        return {
            (path.name.removesuffix(ending), record["metric"]): record["mean"]
            for path in folder.glob(f"*{ending}")
            for record in json.loads(path.read_text(encoding="utf-8"))
        }

    return figures


def test_every_published_figure_is_within_four_standard_deviations(read) -> None:
    published, ours = read(), [read(seed) for seed in SEEDS]
    assert len(published) == 17
    assert all(figures.keys() == published.keys() for figures in ours)
    for key, figure in published.items():
        values = [figures[key] for figures in ours]
        assert abs(figure - np.mean(values)) <= 4 * np.std(values, ddof=1), key


def test_noise_moves_the_figures_a_little(read) -> None:
    """Without it, the bound above would hold by a spread of rounding errors, or of models that do nothing."""
    ours = [read(seed) for seed in SEEDS]
    for key in ours[0]:
        values = [figures[key] for figures in ours]
        assert 1e-4 < np.std(values, ddof=1) < 0.05, key
