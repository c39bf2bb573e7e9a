"""`audit_bias.py --uncertainty`: the files it writes, its figures, and what it needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import audit_bias
from bias_evaluation.datasets.folder import head_path
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.identity import encoder_digest
from bias_evaluation.embedding.residuals import write_head
from bias_evaluation.uncertainty.factors import Factors, Tower, write_factors
from debiasing_methods.encoder_head import EncoderHead
from debiasing_methods.uncertainty import Curvature
from fair_search.backbones import find_backbone
from fair_search.fairness_metrics import METRICS
from safe_io.errors import run_main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
N = 90


def _tower(head: EncoderHead, size: float) -> Tower:
    p, d = head.projection.shape
    return Tower(head, Curvature(torch.eye(p).double() / size, torch.eye(d).double() / size), 1.0)


@pytest.fixture(scope="module")
def system(search_world: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Images that a head made from residuals, with factors of a given size."""
    folder = tmp_path_factory.mktemp("system")
    backbone = find_backbone(search_world.backbone)
    encoder = Encoder(backbone)
    v = torch.randn(N, encoder.image_head.width, generator=torch.Generator().manual_seed(0))
    np.save(folder / "mine_embeddings.npy", encoder.image_head.embeddings(v).numpy())
    np.save(folder / "mine_residuals.npy", v.numpy())
    write_head(head_path(folder / "mine_residuals.npy"), encoder.image_head)
    facts = {"model": encoder_digest(backbone), "backbone": "tiny"}
    for name, size in (("sure", 1e-8), ("unsure", 1.0)):
        towers = [_tower(head, size) for head in (encoder.image_head, encoder.text_head)]
        write_factors(folder / f"{name}.npz", Factors(*towers, 100.0, 10.0, facts))
    rows = np.arange(N)
    table = pd.DataFrame({"gender": np.where(rows % 3 == 0, "Male", "Female")})
    table.to_csv(folder / "metadata.csv", index=False)
    (folder / "queries.txt").write_text("A photo of a nurse.\nA photo of a doctor.\n")
    model, checkpoint = search_world.backbone
    options = ["--embeddings", folder / "mine_embeddings.npy", "--metadata", folder / "metadata.csv"]
    options += ["--attribute", "gender", "--queries", folder / "queries.txt", "--bias", "gender"]
    options += ["--backbone", model, "--checkpoint", checkpoint, "--k", 5, 10, "--draws", 20]
    return folder, list(map(str, options))


@pytest.fixture
def run(system: tuple[Path, list[str]], tmp_path: Path) -> Callable[..., int]:
    def call(*more: Any) -> int:
        given = [*system[1], "--output-dir", str(tmp_path), *map(str, more)]
        return run_main(partial(audit_bias.main, given))

    return call


METHODS = ("--methods", "vanilla", "orth-proj", "bendvlm", "prism-mini")


def test_every_figure_has_its_range(
    system: tuple[Path, list[str]],
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--uncertainty", system[0] / "unsure.npz", *METHODS) == 0
    assert "as far as the model is uncertain: means of 200 draws" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "uncertainty.csv")
    metrics = [name for name in METRICS if name != "precision"]
    assert len(table) == 4 * 2 * len(metrics)
    assert (table["low"] <= table["mean"]).all()
    assert (table["mean"] <= table["high"]).all()
    assert (table[table["metric"] == "kl"]["sd"] > 0).all()
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["uncertainty"]["draws"] == 200
    assert set(record["uncertainty"]["variance_by_group"]) == {"Female", "Male"}
    assert {"uncertainty", "residuals"} <= set(record["digests"])
    again = (tmp_path / "uncertainty.csv").read_bytes()
    assert run("--uncertainty", system[0] / "unsure.npz", *METHODS) == 0
    assert (tmp_path / "uncertainty.csv").read_bytes() == again


def test_a_sure_model_gives_the_audits_figures(
    system: tuple[Path, list[str]], run: Callable[..., int], tmp_path: Path
) -> None:
    assert run("--uncertainty", system[0] / "sure.npz", *METHODS) == 0
    drawn = pd.read_csv(tmp_path / "uncertainty.csv").set_index(["method", "k", "metric"])
    plain = pd.read_csv(tmp_path / "audit.csv")
    plain = plain[plain["scope"] == "mean"].set_index(["method", "k", "metric"])["value"]
    np.testing.assert_allclose(drawn["mean"], plain.loc[drawn.index], atol=0.02)
    assert run(*METHODS) == 0
    assert not (tmp_path / "uncertainty.csv").exists()  # of the audit before


def test_what_it_needs_is_named(
    system: tuple[Path, list[str]],
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, factors = system[0], system[0] / "sure.npz"
    shuffled = tmp_path / "shuffled.npy"
    np.save(shuffled, np.load(folder / "mine_residuals.npy")[::-1].copy())
    head_path(shuffled).write_bytes(head_path(folder / "mine_residuals.npy").read_bytes())
    np.save(tmp_path / "queries.npy", np.ones((2, 32), np.float32))
    np.save(tmp_path / "images.npy", np.load(folder / "mine_embeddings.npy"))
    cases = {
        ("--residuals", shuffled): "--residuals needs --uncertainty",
        ("--uncertainty", factors, "--residuals", shuffled): "gives another embedding than is stored",
        (
            "--uncertainty",
            factors,
            "--embeddings",
            tmp_path / "images.npy",
        ): "needs the residuals of the images",
        ("--uncertainty", tmp_path / "none.npz"): "none.npz",
        ("--uncertainty", factors, "--queries", tmp_path / "queries.npy"): "needs the model and the texts",
    }
    for options, message in cases.items():
        assert run("--methods", "vanilla", *options) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
