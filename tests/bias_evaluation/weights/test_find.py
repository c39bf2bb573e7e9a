"""Where evaluation finds the ZSDebias models, and what it says of those that are missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.grid.plan import ResultKey, RunOptions, Selection, plan
from bias_evaluation.suite.workspace import Workspace
from bias_evaluation.weights.find import sae_file, zsdebias_file
from debiasing_methods.training.zsdebias_network import TrainableVAE
from safe_io.errors import InputError
from safe_io.files import save_weights

DIM = 6
SETTINGS = {
    "people": {"bias": {"attribute": "gender", "values": ["a", "b"]}, "zsdebias": "human"},
    "birds": {"bias": {"attribute": "place", "values": ["a", "b"]}, "zsdebias": "animal"},
    "bare": {"bias": {"attribute": "gender", "values": ["a", "b"]}},
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Make the workspace of a project with configs and prompts, and no models."""
    backbone = {"open_clip": "RN50", "pretrained": "openai", "dim": DIM, "quick_gelu": True}
    task = {"task": "retrieval", "prompts": "asked"}
    settings = {name: {**task, "query_type": name, **setting} for name, setting in SETTINGS.items()}
    documents = {
        "backbones.yml": {"tiny": backbone},
        "methods.yml": {"zsdebias": {"seeds": [0, 5]}},
        "toy.yml": {"dataset": "celeba", "folder": "Toy", "backbones": ["tiny"], "settings": settings},
    }
    (tmp_path / "config").mkdir()
    for name, document in documents.items():
        (tmp_path / "config" / name).write_text(json.dumps(document))
    config = load_dataset_config(tmp_path / "config" / "toy.yml")
    options = RunOptions(tmp_path / "data", tmp_path / "out", "mine", 2)
    return Workspace(config, config.backbones["tiny"], options)


def _key(workspace: Workspace, setting: str, seed: int = 0) -> ResultKey:
    [key] = plan(workspace.config, Selection(settings=[setting], seeds=[seed]))
    return key


def _save_model(path: Path, seed: int) -> dict[str, torch.Tensor]:
    state = TrainableVAE(DIM, torch.Generator().manual_seed(seed)).state_dict()
    save_weights(path, state)
    return state


def _folder(workspace: Workspace) -> Path:
    return workspace.config.root / "debiasing_methods" / "zsdebias_weights"


def test_names_say_backbone_kind_and_seed(workspace):
    for setting, seed, name in (
        ("people", 5, "tiny_human_zsdebias_5"),
        ("birds", 0, "tiny_animal_zsdebias_0"),
    ):
        [file] = workspace.methods.files(_key(workspace, setting, seed))
        assert file.path == _folder(workspace) / "mine" / f"{name}.pth"


def test_own_models_come_before_the_release(workspace):
    root, backbone, folder = workspace.config.root, workspace.backbone, _folder(workspace)
    for path in (
        folder / "tiny_human_zsdebias_0.safetensors",
        folder / "tiny_human_zsdebias_0.pth",
        folder / "mine" / "tiny_human_zsdebias_0.safetensors",
        folder / "mine" / "tiny_human_zsdebias_0.pth",
    ):
        _save_model(path, 0)
        assert zsdebias_file(root, "mine", backbone, "human", 0).path == path


def test_a_missing_model_is_named_with_the_commands_that_get_it(workspace):
    key = _key(workspace, "people", 5)
    [line] = workspace.states.lacks(key)["weights"]
    assert str(_folder(workspace) / "mine" / "tiny_human_zsdebias_5.pth") in line
    assert "zsdebias_training.py --bias-attribute human --backbone tiny --seed 5 --prompts mine" in line
    assert "download_release.py" in line
    _save_model(_folder(workspace) / "tiny_human_zsdebias_5.pth", 0)
    assert "weights" not in workspace.states.lacks(key)
    assert "metadata" in workspace.states.lacks(key)


def test_a_setting_without_a_model_is_an_error(workspace):
    message = r"toy\.yml: setting 'bare' does not say which ZSDebias model.*key 'zsdebias'"
    with pytest.raises(InputError, match=message):
        workspace.methods.files(_key(workspace, "bare"))
    [line] = workspace.states.lacks(_key(workspace, "bare"))["weights"]
    assert "setting 'bare' does not say which ZSDebias model" in line


def test_each_setting_and_seed_has_its_own_model_and_noise(workspace, monkeypatch):
    class NoPrompts:
        diverse = ()

    monkeypatch.setattr(workspace.inputs, "prompts", lambda setting: NoPrompts())
    for n, (kind, seed) in enumerate((k, s) for k in ("human", "animal") for s in (0, 5)):
        state = _save_model(_folder(workspace) / f"tiny_{kind}_zsdebias_{seed}.pth", n)
        method = workspace.methods.get(_key(workspace, "people" if kind == "human" else "birds", seed))
        assert torch.equal(method.vae.encoder.weight_in, state["encoder.0.weight"])
        assert method.seed == seed
        assert (
            workspace.methods.get(_key(workspace, "people" if kind == "human" else "birds", seed)) is method
        )


def test_an_sae_is_found_by_its_backbone_in_the_folder_of_another_prompt_set(workspace: Workspace) -> None:
    root, backbone = workspace.config.root, workspace.backbone
    folder = root / "debiasing_methods" / "sae_weights"
    first, second = (folder / prompts / "MSAE_tiny.pth" for prompts in ("first", "second"))
    for path in (first, second):
        path.parent.mkdir(parents=True)
    first.touch()
    assert sae_file(root, "mine", backbone).path == first
    second.touch()  # which of the two is meant is not known
    assert sae_file(root, "mine", backbone).path == folder / "mine" / "MSAE_tiny.pth"
    assert sae_file(root, "second", backbone).path == second
