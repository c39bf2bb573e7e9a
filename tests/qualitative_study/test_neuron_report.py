"""The neuron report: what it says against the method itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.grid.plan import ResultKey, RunOptions
from bias_evaluation.suite.workspace import Workspace
from bias_evaluation.weights.read import load_sae
from debiasing_methods.registry import METHODS
from qualitative_study import neuron_report
from safe_io.errors import InputError

QUERIES = ["baker", "pilot", "painter"]


@pytest.fixture
def run(study_world, tmp_path):
    """Run the command; returns the two tables."""

    def run_one(*more: str, method: str = "sem-b") -> tuple[pd.DataFrame, pd.DataFrame]:
        config = study_world.root / "config" / "toy.yml"
        arguments = ["--config", str(config), "--setting", "words_side", "--backbone", "toy"]
        arguments += ["--text-embeddings", str(study_world.embeddings), "--output-dir", str(tmp_path)]
        assert neuron_report.main([*arguments, "--method", method, *more]) == 0
        stem = tmp_path / f"neurons_toy_words_side_toy_{method}"
        return tuple(pd.read_csv(f"{stem}_{name}.csv") for name in ("latents", "weights"))

    return run_one


@pytest.fixture
def workspace(study_world, tmp_path) -> Workspace:
    config = load_dataset_config(study_world.root / "config" / "toy.yml")
    options = RunOptions(tmp_path, tmp_path, "default", 10, text_embeddings=study_world.embeddings)
    return Workspace(config, config.backbones["toy"], options)


@pytest.fixture
def report(workspace: Workspace):
    """Make the report of a method without drawing it."""

    def make(method: str = "sem-b", *, top: int = 1000, prompts_shown: int = 2) -> neuron_report.Report:
        key = result_key(workspace, method)
        return neuron_report.make_report(workspace, key, top=top, prompts_shown=prompts_shown)

    return make


def result_key(workspace: Workspace, method: str) -> ResultKey:
    config = workspace.config
    return ResultKey("toy", config.settings["words_side"], workspace.backbone, config.methods[method], None)


@pytest.mark.parametrize("method", ["sem-b", "sem-bi"])
def test_all_latents_together_give_the_debiased_queries(report, workspace: Workspace, method: str) -> None:
    weights = report(method).weights
    key = result_key(workspace, method)
    sem, prompts = workspace.methods.get(key), workspace.inputs.prompts(key.setting)
    groups = [workspace.inputs.embedder.group(group, method, sem.needs) for group in prompts.groups]
    table = weights.pivot(index="query", columns="latent", values="after").loc[QUERIES]
    after = torch.tensor(table[range(96)].to_numpy(), dtype=torch.float32)
    assert torch.allclose(sem.sae.decode(after), torch.cat(sem.debias_text(groups)), atol=1e-5)
    w, h, m = (weights[name].to_numpy() for name in ("weight", "before", "neutral"))
    np.testing.assert_allclose(weights["after"], w * h + (1 - w) * m, atol=1e-5)
    np.testing.assert_allclose(w, (1 + weights["s_concept"] - weights["s_bias"]) ** 2, atol=1e-5)


def test_latents_come_by_their_bias_score(report) -> None:
    first, everything = report(top=12), report().latents
    latents, weights = first.latents, first.weights
    assert len(latents) == 12
    assert (latents["s_bias"].diff().dropna() <= 0).all()
    assert set(latents["bias_class"]) <= {"left", "right"}
    assert list(dict.fromkeys(weights["query"])) == QUERIES
    assert len(everything) == 96
    assert everything["s_bias"].iloc[:12].min() >= everything["s_bias"].iloc[12:].max()
    ties = everything.groupby("s_bias")["movement"]
    assert ties.apply(lambda movement: movement.is_monotonic_decreasing).all()
    mean = weights.groupby("latent")["weight"].mean()
    np.testing.assert_allclose(mean.loc[latents["latent"]], latents["mean_weight"], atol=1e-6)


def test_the_prompts_named_are_those_that_activate_most(report, workspace: Workspace, study_world) -> None:
    latents = report(top=3).latents
    setting = workspace.inputs.prompts(workspace.config.settings["words_side"])
    sentences = setting.sentences("sem-b", METHODS["sem-b"].needs)
    active = load_sae(study_world.sae, dim=24).encode(workspace.inputs.text.embed(sentences))
    for row in latents.itertuples():
        column = active[:, row.latent]
        assert row.prompt_1 == sentences[int(column.argmax())]
        assert row.activation_1 == pytest.approx(float(column.max()), rel=1e-4)
        assert row.activation_2 <= row.activation_1
    assert "prompt_3" not in latents


def test_the_tables_and_the_figure_are_written_and_a_second_run_gives_the_same(
    run, report, tmp_path: Path
) -> None:
    latents, weights = run("--top", "6")
    assert list(latents["latent"]) == list(report(top=6).latents["latent"])
    np.testing.assert_allclose(weights["weight"], report(top=6).weights["weight"], rtol=1e-5)
    first = {
        path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".csv", ".png", ".pdf")
    }
    assert len(first) == 4
    run("--top", "6")
    assert {name: (tmp_path / name).read_bytes() for name in first} == first


def test_the_summary_counts_what_is_turned_down(report) -> None:
    found = report(top=6)
    rows = found.weights[found.weights["before"] != found.weights["neutral"]]
    down = rows.loc[rows["weight"] < 1, "weight"]
    assert len(down) > 0
    text = f"in {len(down)} of these SEM turns them down, by a weight of {down.mean():.2f} on average"
    assert neuron_report.describe(found).endswith(text)
    up = neuron_report.Report(found.latents, found.weights.assign(weight=1.5))
    assert neuron_report.describe(up).endswith("in 0 of these SEM turns them down")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--top", "0"), "--top must be at least 1, got 0"),
        (("--setting", "words"), "unknown setting 'words'; choose from: words_side"),
        (("--backbone", "RN50"), "unknown backbone 'RN50'; choose from: toy"),
    ],
)
def test_bad_options(run, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*more)
