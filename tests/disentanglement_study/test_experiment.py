"""The commands of the disentanglement study on a small project without a model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from bias_evaluation.weights.read import load_sae, save_sae
from debiasing_methods.sae import SparseAutoencoder
from disentanglement_study import disentanglement_experiment, generate_disentanglement_plot
from disentanglement_study.precompute_dataset import main as precompute
from disentanglement_study.score import score_folds
from safe_io.checkout import ROOT
from safe_io.errors import InputError


@pytest.fixture
def run(study_world, tmp_path):
    """Run one experiment into a folder; returns the record."""

    def run_one(feature: str, *more: str, bias: str = "side") -> dict:
        arguments = [*study_world.text, "--backbone", "toy", "--bias-attr", bias, "--latent", feature]
        assert disentanglement_experiment.main([*arguments, "--output-dir", str(tmp_path), *more]) == 0
        return json.loads((tmp_path / f"toy_{bias}_{feature}.json").read_text())

    return run_one


@pytest.mark.parametrize(("feature", "features"), [("clip", 24), ("sae", 96)])
def test_a_result_says_everything(run, feature: str, features: int) -> None:
    record = run(feature, bias="height")
    assert record["sizes"]["sentences"] == 5 * 3 * 6
    assert record["sizes"]["features"] == features
    assert record["chance"] == pytest.approx(1 / 3)
    assert record["settings"] == {"folds": 5, "seed": 42, "C": 1.0, "tol": 1e-4, "max_iter": 1000}
    columns = [record[f"a_{name}"]["folds"] for name in ("subject", "direct", "leak")]
    assert [len(c) for c in columns] == [5, 5, 5]
    assert record["a_direct"]["mean"] > 0.8  # the words stand in the sentences
    assert record["score"]["value"] == score_folds(columns[1], columns[2], 1 / 3).value
    assert record["digests"]["text"]
    assert bool(record["digests"]["weights"]) == (feature == "sae")


def test_a_second_run_keeps_the_result_and_gives_the_same(run, tmp_path, capsys) -> None:
    first = run("sae")
    path = tmp_path / "toy_side_sae.json"
    before = path.read_bytes()
    run("sae")
    assert "kept" in capsys.readouterr().out
    assert run("sae", "--overwrite") == first
    assert path.read_bytes() == before


def test_a_result_of_other_inputs_is_not_passed_off(run) -> None:
    run("clip")
    with pytest.raises(InputError, match=r"another probes; pass --overwrite"):
        run("clip", "--tol", "1e-3")
    assert run("clip", "--tol", "1e-3", "--overwrite")["settings"]["tol"] == 1e-3


def test_an_sae_of_another_width_is_named(run, tmp_path) -> None:
    path = tmp_path / "other.pth"
    save_sae(path, SparseAutoencoder(torch.ones(4, 7), torch.zeros(4), torch.ones(7, 4), torch.zeros(7)))
    with pytest.raises(InputError, match=r"width 7, but the backbone has width 24"):
        run("sae", "--sae", str(path))


def test_an_sae_that_does_not_rebuild_the_text_gives_a_warning(run, study_world, tmp_path, capsys) -> None:
    sae, path = load_sae(study_world.sae, dim=24), tmp_path / "wrong.pth"
    rolled = sae.decoder_weight.roll(1, 0).contiguous()
    save_sae(path, SparseAutoencoder(sae.encoder_weight, sae.encoder_bias, rolled, sae.pre_bias))
    assert run("sae")["sae"]["fvu"] < 0.5
    assert "warning" not in capsys.readouterr().err
    assert run("sae", "--sae", str(path), "--overwrite")["sae"]["fvu"] > 1
    assert "is it the SAE of another backbone?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--folds", "11"), "60 sentences are too few: 11 folds × 6 subjects need at least 66"),
        (("--folds", "1"), "at least 2 folds, got 1"),
        (("--tol", "0"), "--tol must be above 0"),
    ],
)
def test_bad_options(run, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run("clip", *more)


def test_unknown_names_are_told_with_the_choices(study_world, run) -> None:
    with pytest.raises(InputError, match=r"unknown bias attribute 'sid'.*did you mean 'side'"):
        run("clip", bias="sid")
    arguments = [*study_world.text, "--bias-attr", "side", "--latent", "clip", "--backbone", "RN50"]
    with pytest.raises(InputError, match=r"unknown backbone 'RN50'; choose from: toy"):
        disentanglement_experiment.main(arguments)


def test_the_main_task_is_the_subject(run) -> None:
    assert run("clip", "--main-task", "job")["subject"] == "job"
    with pytest.raises(InputError, match=r"unknown main task 'profession'; choose from: job"):
        run("clip", "--main-task", "profession")


def test_the_script_runs_from_its_own_folder_by_all_names_of_its_options(study_world, tmp_path) -> None:
    def start(*options: str) -> bytes:
        command = [sys.executable, "disentanglement_experiment.py", *study_world.text, *options]
        folder = ROOT / "disentanglement_study"
        command += ["--output-dir", str(tmp_path), "--overwrite"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return (tmp_path / "toy_side_clip.json").read_bytes()

    fixed = start("--main-task", "job", "--bias-attr", "side", "--backbone", "toy", "--latent", "clip")
    assert start("--bias", "side", "--backbone", "toy", "--feature", "clip") == fixed


def test_missing_sentences_name_the_command_that_makes_them(study_world, tmp_path) -> None:
    arguments = ["--config", str(study_world.config), "--data-root", str(tmp_path)]
    with pytest.raises(
        InputError, match=r"60 prompt\(s\) have no embedding.*precompute_dataset.py --backbone"
    ):
        disentanglement_experiment.main(
            [*arguments, "--backbone", "toy", "--bias-attr", "side", "--latent", "clip"]
        )


def test_sentences_are_embedded_once(study_world, tmp_path, monkeypatch, capsys) -> None:
    from bias_evaluation.embedding import text_store

    asked = []

    class Towers:
        def __init__(self, backbone, *, device):
            self.dim = backbone.dim

        def encode_text(self, prompts, *, progress):
            asked.extend(prompts)
            return torch.ones(len(prompts), self.dim)

    monkeypatch.setattr(text_store, "Encoder", Towers)
    arguments = ["--config", str(study_world.config), "--data-root", str(tmp_path)]
    for _ in range(2):
        assert precompute(arguments) == 0
    assert len(asked) == len(set(asked)) == 5 * (2 + 3) * 6
    assert "0 of them new" in capsys.readouterr().out


def test_the_figure_is_drawn_from_the_files(run, tmp_path) -> None:
    record = run("clip", bias="height") | {"score": {"value": 0.4321, "spread": 0.05, "undefined": None}}
    (tmp_path / "toy_height_clip.json").write_text(json.dumps(record))
    undefined = record | {"score": {"value": None, "spread": None, "undefined": "chance"}, "backbone": "RN50"}
    (tmp_path / "RN50_side_sae.json").write_text(json.dumps(undefined))
    bars = generate_disentanglement_plot.read_bars(tmp_path)
    figure = generate_disentanglement_plot.draw_figure(bars)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    assert set(panels) == {"toy", "RN50"}
    heights = {round(patch.get_height(), 6) for patch in panels["toy"].patches}
    assert 0.4321 in heights
    assert "undefined" in [text.get_text() for text in panels["RN50"].texts]
    assert generate_disentanglement_plot.main(["--results", str(tmp_path), "--backbone", "toy"]) == 0
    assert (tmp_path / "disentanglement_score_plot.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "disentanglement_score_plot.png").stat().st_size > 0


def test_published_figures_stand_beside_ours(run, tmp_path) -> None:
    record = run("clip") | {"backbone": "ViT-B-16", "bias": "gender"}
    (tmp_path / "toy_side_clip.json").write_text(json.dumps(record))
    out = tmp_path / "figure"
    arguments = ["--results", str(tmp_path), "--output-dir", str(out), "--published"]
    assert generate_disentanglement_plot.main(arguments) == 0
    assert (out / "disentanglement_score_plot.png").is_file()
    alone = ["--results", str(tmp_path / "none"), "--output-dir", str(out), "--published"]
    assert generate_disentanglement_plot.main(alone) == 0


def test_no_results_and_strange_files_are_errors(tmp_path) -> None:
    with pytest.raises(InputError, match="no results in"):
        generate_disentanglement_plot.main(["--results", str(tmp_path)])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="is not a result of the disentanglement study"):
        generate_disentanglement_plot.main(["--results", str(tmp_path)])


@pytest.mark.parametrize("code", [0, 1])
def test_the_script_runs_the_grid_and_draws(tmp_path, code: int) -> None:
    stub = tmp_path / "python"
    stub.write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\n'
        f'[[ "$*" == *RN101*ethnicity*sae* ]] && exit {code}\nexit 0\n'
    )
    stub.chmod(0o755)
    script = ROOT / "disentanglement_study" / "run_all_disentanglement_exps.sh"
    environment = {"PYTHON": str(stub), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", str(script), "--overwrite"], env=environment, capture_output=True, text=True, check=False
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    experiments = [call for call in calls if "disentanglement_experiment.py" in call]
    assert len(set(experiments)) == 4 * 2 * 2
    assert all(call.endswith("--overwrite") for call in experiments)
    assert done.returncode == (2 if code else 0)
    assert ("generate_disentanglement_plot.py" in calls[-1]) == (code == 0)
    assert ("failed: RN101:ethnicity:sae" in done.stderr) == (code == 1)
