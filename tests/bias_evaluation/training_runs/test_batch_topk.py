"""`sae_training.py --batch-topk`: weights with a threshold, a report, and runs that continue."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bias_evaluation.training_runs.batch_topk import measure
from bias_evaluation.weights.read import load_sae
from debiasing_methods import sae_training
from debiasing_methods.training.batch_topk import BatchTopKTraining
from safe_io.errors import run_main

N, WIDTH = 60, 6


@pytest.fixture
def residuals(tmp_path: Path) -> Path:
    path = tmp_path / "CLIP_tiny_residuals.npy"
    factors = np.random.default_rng(0).exponential(size=(N, 4)) * (
        np.random.default_rng(1).random((N, 4)) < 0.5
    )
    np.save(path, (factors @ np.random.default_rng(2).normal(size=(4, WIDTH)) + 1).astype(np.float32))
    return path


@pytest.fixture
def run(residuals: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*more: str, output: str = "lens.safetensors") -> int:
        options = ["--embeddings", residuals, "--output", tmp_path / output, "--batch-topk", 3]
        options += ["--steps", 40, "--warmup", 5, "--batch-size", 16, "--lr", 1e-2, *more]
        return run_main(partial(sae_training.main, list(map(str, options))))

    return call


def test_the_report_is_that_of_the_weights(
    residuals: Path, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "lens.report.json").read_text())
    sae = load_sae(tmp_path / "lens.safetensors", dim=WIDTH, make="")
    assert sae.n_latents == report["n_latents"] == 8 * WIDTH
    assert sae.threshold == pytest.approx(report["threshold"])
    assert sae.threshold > 0
    rows = torch.from_numpy(np.load(residuals))
    [train, held_out] = [report[part]["rows"] for part in ("training", "held_out")]
    assert (train, held_out) == (54, 6)
    quality, positive = measure(sae, rows)
    made = sae.decode(sae.encode(rows))
    expected = 1 - float((made - rows).square().sum() / (rows - rows.mean(0)).square().sum())
    assert quality["variance_explained"] == pytest.approx(expected, rel=1e-4)
    assert quality["l0"] == pytest.approx(float((sae.encode(rows) > 0).sum(1).float().mean()))
    assert report["training"]["variance_explained"] > 0.5  # it has learned something
    assert 0 <= report["dead_latents"] < sae.n_latents
    assert int((positive > 0).sum()) >= sae.n_latents - report["dead_latents"]
    assert "variance explained" in out
    assert f"dead latents (never positive on the training rows): {report['dead_latents']} of 48" in out


def test_a_cut_run_continues_to_the_same_weights(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(output="whole.safetensors") == 0
    steps = BatchTopKTraining.take_step
    calls = iter(range(1000))

    def cut(self: BatchTopKTraining) -> float:
        if next(calls) == 15:
            raise KeyboardInterrupt
        return steps(self)

    monkeypatch.setattr(BatchTopKTraining, "take_step", cut)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        sae_training.main(_arguments(tmp_path))
    monkeypatch.setattr(BatchTopKTraining, "take_step", steps)
    assert sae_training.main(_arguments(tmp_path)) == 0
    assert "going on after step" in capsys.readouterr().out
    whole, cut_off = (tmp_path / f"{name}.safetensors" for name in ("whole", "lens"))
    assert whole.read_bytes() == cut_off.read_bytes()


def _arguments(tmp_path: Path) -> list[str]:
    options = [
        "--embeddings",
        tmp_path / "CLIP_tiny_residuals.npy",
        "--output",
        tmp_path / "lens.safetensors",
    ]
    options += ["--batch-topk", 3, "--steps", 40, "--warmup", 5, "--batch-size", 16, "--lr", 1e-2]
    return list(map(str, [*options, "--checkpoint-seconds", 0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "3"], "--epochs is not for --batch-topk"),
        (["--levels", "8"], "--levels is not for --batch-topk"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--n-latents", "2"], "n_latents must be at least k = 3, got 2"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], message: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options) == 2
    assert message in capsys.readouterr().err


def test_steps_are_for_batch_topk(
    residuals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--embeddings", str(residuals), "--output", str(tmp_path / "x.pth"), "--steps", "3"]
    assert run_main(partial(sae_training.main, given)) == 2
    assert "--steps is for --batch-topk" in capsys.readouterr().err
