"""The SAE trainer: its loss and its numbers against their definitions, and what a run leaves on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.sae_world import SMALL, small_rows
from torch import Tensor

from bias_evaluation.training_runs import run as training_run
from bias_evaluation.training_runs import sae as sae_run
from bias_evaluation.training_runs.inputs import read_prompts
from bias_evaluation.training_runs.run import report_path
from bias_evaluation.training_runs.sae import run_training
from bias_evaluation.training_runs.sae_report import format_report, reconstruction_quality
from bias_evaluation.weights.read import load_sae
from debiasing_methods import sae_training
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.training.hyperparameters import SaeTrainingConfig
from debiasing_methods.training.sae import SaeTraining
from safe_io.errors import InputError, run_main

SCRIPT = Path(sae_training.__file__)


@pytest.fixture
def embeddings() -> Tensor:
    return small_rows()


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


# --- report ------------------------------------------------------------------------------------------------


def test_report_numbers_against_their_definitions(embeddings, monkeypatch):
    monkeypatch.setattr(
        "bias_evaluation.training_runs.sae_report.ROWS", 32
    )  # several parts, the last one short
    rng = np.random.default_rng(3)
    w_e, b_e, w_d, b_pre = (
        torch.from_numpy(rng.normal(size=s).astype(np.float32)) for s in ((24, 8), (24,), (8, 24), (8,))
    )
    b_e[5] = -1e3  # never positive
    sae = SparseAutoencoder(w_e, b_e, w_d, b_pre)
    quality, positive = reconstruction_quality(sae, embeddings, (2, 5))
    assert quality["rows"] == 90
    assert [row["level"] for row in quality["levels"]] == [2, 5, 24]
    latents = sae.encode(embeddings).double()
    assert torch.equal(positive, (latents > 0).sum(0))
    assert positive[5] == 0
    x = embeddings.double()
    for row in quality["levels"]:
        kept = torch.zeros_like(latents)
        for i, h in enumerate(latents):
            top = h.argsort(descending=True)[: row["level"]]
            kept[i, top] = h[top]
        found = kept @ w_d.double().T + b_pre.double()
        cosine = (found * x).sum(1) / (found.norm(dim=1) * x.norm(dim=1))
        fvu = ((x - found) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
        assert row["cosine"] == pytest.approx(cosine.mean().item(), abs=1e-6)
        assert row["fvu"] == pytest.approx(fvu.item(), rel=1e-5)
        assert row["l0"] == pytest.approx((kept > 0).sum(1).double().mean().item(), rel=1e-12)


def test_report_of_a_run(embeddings, tmp_path):
    report = run_training(embeddings, tmp_path / "sae.pth", SMALL, holdout=0.2)
    assert json.loads((tmp_path / "sae.report.json").read_text()) == report
    assert (report["training"]["rows"], report["held_out"]["rows"]) == (72, 18)
    for part in ("training", "held_out"):
        assert all(0 < row["l0"] <= row["level"] for row in report[part]["levels"])
    assert report["config"]["seed"] == SMALL.seed
    assert report["level_weights"] == [3.0, 2.0, 1.0]
    assert report["data"]["sha256"] == hashlib.sha256(embeddings.numpy().tobytes()).hexdigest()
    assert report["weights_sha256"] == digests(tmp_path)["sae.pth"]
    sae = load_sae(tmp_path / "sae.pth", dim=8)
    training_rows, _ = sae_run.split_rows(90, 0.2, SMALL.seed)
    again, positive = reconstruction_quality(sae, embeddings[training_rows], (2, 5, 24))
    assert again == report["training"]
    assert report["dead_latents"] == (positive == 0).sum()


def test_the_record_names_the_penalty_only_if_there_is_one(embeddings, tmp_path):
    for l1 in (0.0, 0.01):
        config = SaeTrainingConfig(**{**SMALL.__dict__, "l1": l1})
        report = run_training(embeddings, tmp_path / f"{l1}.pth", config)
        assert report["config"].get("l1") == (l1 or None)


def test_without_holdout_all_rows_train(embeddings, tmp_path):
    report = run_training(embeddings, tmp_path / "sae.pth", SMALL, holdout=0)
    assert report["held_out"] is None
    assert report["training"]["rows"] == 90
    assert "held out" not in format_report(report)


def test_table_shows_every_level(embeddings, tmp_path):
    report = run_training(embeddings, tmp_path / "sae.pth", SMALL)
    lines = format_report(report).splitlines()
    assert [line.split("|")[0].strip() for line in lines[:5]] == ["", "level", "2", "5", "all latents"]
    row = report["held_out"]["levels"][1]
    assert lines[3].split("|")[2].split() == [f"{row['cosine']:.4f}", f"{row['fvu']:.5f}", f"{row['l0']:.1f}"]
    assert f"{report['dead_latents']} of 24" in lines[5]


# --- runs on disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sae.pth", "sae.safetensors"])
def test_same_seed_same_bytes(embeddings, tmp_path, name):
    for folder in ("a", "b"):
        run_training(embeddings, tmp_path / folder / name, SMALL)
    assert set(digests(tmp_path / "a")) == {name, "sae.report.json"}
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    other = SaeTrainingConfig(**{**SMALL.__dict__, "seed": 1})
    run_training(embeddings, tmp_path / "c" / name, other)
    assert digests(tmp_path / "a")[name] != digests(tmp_path / "c")[name]


def test_both_formats_hold_the_same_weights(embeddings, tmp_path):
    for name in ("sae.pth", "other.safetensors"):
        run_training(embeddings, tmp_path / name, SMALL)
    first, second = (load_sae(tmp_path / n, dim=8).state_dict() for n in ("sae.pth", "other.safetensors"))
    assert list(first) == ["bpre", "encoder.weight", "encoder.bias", "decoder.weight"]
    assert {k: tuple(v.shape) for k, v in first.items()} == {
        "bpre": (8,),
        "encoder.weight": (24, 8),
        "encoder.bias": (24,),
        "decoder.weight": (8, 24),
    }
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def cut_off(monkeypatch):
    """Make training stop, as by Ctrl-C, when so many steps were taken; returns the counter of all steps."""
    real = SaeTraining.take_step
    taken = {"left": 0, "total": 0}

    def take_step(self: SaeTraining) -> float:
        if taken["left"] == 0:
            raise KeyboardInterrupt
        taken["left"] -= 1
        taken["total"] += 1
        return real(self)

    monkeypatch.setattr(SaeTraining, "take_step", take_step)
    return taken


@pytest.mark.parametrize("steps", [1, 3, 11])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(embeddings, tmp_path, cut_off, capsys, steps):
    cut_off["left"] = 12
    run_training(embeddings, tmp_path / "whole" / "sae.pth", SMALL)
    cut_off.update(left=steps, total=0)
    with pytest.raises(KeyboardInterrupt):
        run_training(embeddings, tmp_path / "cut" / "sae.pth", SMALL, checkpoint_seconds=0)
    assert set(digests(tmp_path / "cut")) == {"sae.pth.checkpoint"}
    cut_off["left"] = 12
    run_training(embeddings, tmp_path / "cut" / "sae.pth", SMALL, checkpoint_seconds=0)
    assert f"going on after step {steps} of 12" in capsys.readouterr().out
    assert cut_off["total"] == 12  # no step was taken twice
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_a_run_that_was_cut_off_between_its_two_files_goes_on(embeddings, tmp_path, monkeypatch):
    run_training(embeddings, tmp_path / "whole" / "sae.pth", SMALL)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "write_json", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run_training(embeddings, tmp_path / "cut" / "sae.pth", SMALL)
    monkeypatch.undo()
    assert (tmp_path / "cut" / "sae.pth").exists()
    run_training(embeddings, tmp_path / "cut" / "sae.pth", SMALL)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_a_checkpoint_of_another_run_is_not_used(embeddings, tmp_path, cut_off):
    output = tmp_path / "sae.pth"
    cut_off["left"] = 3
    with pytest.raises(KeyboardInterrupt):
        run_training(embeddings, output, SMALL, checkpoint_seconds=0)
    before = digests(tmp_path)
    cut_off.update(left=12, total=0)
    other = SaeTrainingConfig(**{**SMALL.__dict__, "lr": 2e-3})
    with pytest.raises(InputError, match=r"sae\.pth\.checkpoint belongs to an unfinished run .*--overwrite"):
        run_training(embeddings, output, other)
    assert digests(tmp_path) == before
    run_training(embeddings, output, other, overwrite=True)
    assert cut_off["total"] == 12  # from the start
    assert set(digests(tmp_path)) == {"sae.pth", "sae.report.json"}


def test_a_damaged_checkpoint_is_an_error_until_it_is_given_up(embeddings, tmp_path):
    (tmp_path / "sae.pth.checkpoint").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"sae\.pth\.checkpoint cannot be read .*--overwrite"):
        run_training(embeddings, tmp_path / "sae.pth", SMALL)
    run_training(embeddings, tmp_path / "sae.pth", SMALL, overwrite=True)
    assert set(digests(tmp_path)) == {"sae.pth", "sae.report.json"}


def test_killed_by_the_system_and_run_again(embeddings, tmp_path):
    np.save(tmp_path / "x.npy", embeddings.numpy())
    argv = ["--embeddings", tmp_path / "x.npy", "--n-latents", 24, "--levels", 2, 5, "--batch-size", 4]
    argv = [*map(str, argv), "--epochs", "40", "--output"]
    output = tmp_path / "killed" / "sae.pth"
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *argv, output, "--checkpoint-seconds", "0"],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = output.with_name("sae.pth.checkpoint")
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it was still at work
    assert checkpoint.exists()
    assert not output.exists()
    assert sae_training.main([*argv, str(output)]) == 0
    assert sae_training.main([*argv, str(tmp_path / "whole" / "sae.pth")]) == 0
    kept = {n: d for n, d in digests(tmp_path / "killed").items() if not n.startswith(".partial")}
    assert kept == digests(tmp_path / "whole")


def test_a_finished_run_is_kept(embeddings, tmp_path, cut_off, capsys):
    output = tmp_path / "sae.pth"
    cut_off["left"] = 24
    first = run_training(embeddings, output, SMALL)
    before = digests(tmp_path)
    assert run_training(embeddings, output, SMALL) == first
    assert "kept" in capsys.readouterr().out
    assert cut_off["total"] == 12
    run_training(embeddings, output, SMALL, overwrite=True)
    assert cut_off["total"] == 24
    assert digests(tmp_path) == before


@pytest.mark.parametrize("what", ["data", "config", "holdout", "weights", "report"])
def test_weights_of_another_run_are_not_replaced(embeddings, tmp_path, what):
    output = tmp_path / "sae.pth"
    run_training(embeddings, output, SMALL)
    data = embeddings + 1 if what == "data" else embeddings
    config = SaeTrainingConfig(**{**SMALL.__dict__, "epochs": 5}) if what == "config" else SMALL
    holdout = 0.3 if what == "holdout" else 0.1
    if what == "weights":
        output.write_bytes(output.read_bytes() + b" ")
    if what == "report":
        report_path(output).unlink()
    before = digests(tmp_path)
    with pytest.raises(InputError, match=r"sae\.pth exists and was not made from this data .*--overwrite"):
        run_training(data, output, config, holdout=holdout)
    assert digests(tmp_path) == before
    run_training(data, output, config, holdout=holdout, overwrite=True)
    assert digests(tmp_path) != before


# --- command line ------------------------------------------------------------------------------------------

OPTIONS = ["--n-latents", "24", "--levels", "2", "5", "--epochs", "2"]


def test_an_npz_trains_like_its_matrix(embeddings, tmp_path):
    prompts = np.array([f"prompt {i}" for i in range(90)])
    np.savez(tmp_path / "x.npz", prompts=prompts, embeddings=embeddings.numpy().astype(np.float64))
    np.save(tmp_path / "x.npy", embeddings.numpy())
    for name in ("x.npz", "x.npy"):
        argv = ["--embeddings", str(tmp_path / name), "--output", str(tmp_path / name[2:] / "sae.pth")]
        assert sae_training.main([*argv, *OPTIONS]) == 0
    assert digests(tmp_path / "npz") == digests(tmp_path / "npy")


def test_options_reach_the_configuration(embeddings, tmp_path, capsys):
    np.save(tmp_path / "x.npy", embeddings.numpy().astype(np.float16))
    line = (
        "--format safetensors --n-latents 20 --levels 3 --no-full-level --weighting uniform --lr 0.002 "
        "--batch-size 50 --epochs 2 --decay-fraction 0.5 --eps 1e-8 --grad-clip 2 --l1 0.01 --no-standardize "
        "--seed 7 --holdout 0.2"
    )
    output = tmp_path / "sae.safetensors"
    assert (
        sae_training.main([*line.split(), "--embeddings", str(tmp_path / "x.npy"), "--output", str(output)])
        == 0
    )
    report = json.loads(report_path(output).read_text())
    assert report["holdout"] == 0.2
    assert report["config"] == {
        "n_latents": 20,
        "levels": [3],
        "full_level": False,
        "weighting": "uniform",
        "lr": 0.002,
        "batch_size": 50,
        "epochs": 2,
        "decay_fraction": 0.5,
        "eps": 1e-8,
        "grad_clip": 2.0,
        "l1": 0.01,
        "standardize": False,
        "seed": 7,
    }
    assert load_sae(output, dim=8).n_latents == 20
    assert str(report_path(output)) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.txt", "a cat\n\n  a dog \n"), ("p.json", '["a cat", "a dog"]'), ("p.yml", "- a cat\n- a dog\n")],
)
def test_prompts_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_prompts(tmp_path / name) == ["a cat", "a dog"]


def test_prompts_are_encoded_by_the_backbone(embeddings, tmp_path, monkeypatch):
    from bias_evaluation.embedding import text_store

    class Encoder:
        def __init__(self, backbone, *, device):
            assert (backbone.name, backbone.dim, device) == ("small", 8, "cpu")

        def encode_text(self, prompts, *, progress):
            return torch.stack([embeddings[int(p.removeprefix("prompt "))] for p in prompts])

    monkeypatch.setattr(text_store, "Encoder", Encoder)
    (tmp_path / "config").mkdir()
    backbones = tmp_path / "config" / "backbones.yml"
    backbones.write_text("small: {open_clip: RN50, pretrained: openai, dim: 8, quick_gelu: true}\n")
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(90)))
    argv = ["--prompts", tmp_path / "prompts.txt", "--backbone", "small", "--backbones-file", backbones]
    assert sae_training.main([*map(str, argv), "--output", str(tmp_path / "sae.pth"), *OPTIONS]) == 0
    report = json.loads((tmp_path / "sae.report.json").read_text())
    assert report["data"]["sha256"] == hashlib.sha256(embeddings.numpy().tobytes()).hexdigest()
    assert list((tmp_path / "data" / "text_embeddings").glob("*.npz"))  # kept for the evaluation


def _row(value: float) -> np.ndarray:
    x = np.ones((6, 3), np.float32)
    x[4] = value
    return x


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (_row(np.nan), r"x\.npy: 1 of 6 rows is NaN, infinite or all zero, the first: row 4"),
        (_row(np.inf), "1 of 6 rows is NaN"),
        (_row(0), "1 of 6 rows is NaN"),
        (np.full((2, 3), 1e300), "2 of 2 rows are NaN"),
        (np.ones(3, np.float32), r"float32 of shape \(3,\); a float matrix"),
        (np.ones((2, 3, 4), np.float32), r"shape \(2, 3, 4\)"),
        (np.ones((0, 3), np.float32), r"shape \(0, 3\)"),
        (np.ones((2, 3), np.int64), "int64 of shape"),
        (np.array([["a"]]), "a float matrix"),
        (np.array([None]), r"embeddings cannot be read: .*x\.npy"),
        (np.ones((6, 3), np.float32), "all rows to train on are the same"),
    ],
)
def test_bad_embeddings_are_one_line_and_leave_nothing(tmp_path, capsys, array, message):
    np.save(tmp_path / "x.npy", array)
    assert_refused(["--embeddings", str(tmp_path / "x.npy")], message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"embeddings": np.ones((2, 3))}, "has no array 'prompts'"),
        ({"prompts": np.array(["a"])}, "has no array 'embeddings'; .* holds: prompts"),
        ({"prompts": np.array(["a"]), "embeddings": np.ones((2, 3))}, "1 prompts, but 2 rows"),
    ],
)
def test_bad_npz_files_are_one_line(tmp_path, capsys, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    assert_refused(["--embeddings", str(tmp_path / "x.npz")], message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", None, r"embeddings not found: .*x\.npy"),
        ("x.npy", b"", "embeddings cannot be read"),
        ("x.npy", b"\x93NUMPY", "embeddings cannot be read"),
        ("x.npz", b"PK\x03\x04 cut off", "embeddings cannot be read"),
    ],
)
def test_unreadable_embeddings_are_one_line(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_refused(["--embeddings", str(tmp_path / name)], message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", None, "prompt list not found"),
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.txt", b"\xff\xfe", "is not UTF-8"),
        ("p.json", b"{", "not valid JSON"),
        ("p.json", b'{"a": 1}', "a list of non-empty strings"),
        ("p.yml", b"- a\n- 3\n", "a list of non-empty strings"),
        ("p.yml", b"- [", "not valid YAML"),
    ],
)
def test_bad_prompt_lists_are_one_line(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    argv = ["--prompts", str(tmp_path / name), "--backbone", "ViT-B-16"]
    assert_refused(argv, message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--levels", "5", "2"], "levels must be ascending"),
        (["--n-latents", "4", "--levels", "5"], r"levels must be at most n_latents \(4\)"),
        (["--l1", "-1"], "l1 must be a number of at least 0"),
        (["--lr", "-1"], "lr must be a number above 0"),
        (["--holdout", "1"], "holdout must be at least 0 and below 1"),
        (["--holdout", "0.999"], "leaves none of 90 rows"),
        (["--checkpoint-seconds", "-1"], "--checkpoint-seconds must be at least 0"),
        (["--format", "safetensors"], r"must end in \.safetensors for --format safetensors"),
        (["--output", "model.bin"], r"model\.bin: the name must end in \.pth or \.safetensors"),
    ],
)
def test_bad_options_are_one_line(embeddings, tmp_path, capsys, options, message):
    np.save(tmp_path / "x.npy", embeddings.numpy())
    assert_refused(["--embeddings", str(tmp_path / "x.npy")], message, tmp_path, capsys, options)


def test_prompts_need_a_backbone(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a cat\n")
    assert_refused(["--prompts", str(tmp_path / "p.txt")], "--prompts needs --backbone", tmp_path, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_one_line(embeddings, tmp_path, capsys):
    np.save(tmp_path / "x.npy", embeddings.numpy())
    argv = ["--embeddings", str(tmp_path / "x.npy"), "--device", "cuda"]
    assert_refused(argv, "no usable CUDA device", tmp_path, capsys)


def assert_refused(
    argv: list[str], message: str, folder: Path, capsys, options: list[str] | None = None
) -> None:
    """Exit code 2, one line that matches, and a folder that is as it was."""
    before = digests(folder)
    argv = [*argv, "--output", str(folder / "new" / "sae.pth"), *(OPTIONS if options is None else options)]
    assert run_main(lambda: sae_training.main(argv)) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]*\n", error), error
    assert re.search(message, error), error
    assert digests(folder) == before
