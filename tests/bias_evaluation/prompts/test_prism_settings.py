"""PRISM's maps are looked up where training puts them: names, hyper-parameters, folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from bias_evaluation.grid.configs import get_backbone, load_dataset_config
from bias_evaluation.prompts.prism_settings import (
    TRAINING,
    hyperparameters,
    load_prism_training,
    text_set_name,
)
from bias_evaluation.prompts.prism_texts import load_text_sets
from bias_evaluation.weights.find import prism_files, prism_weight_name
from debiasing_methods.prism_training import needed_text_sets
from debiasing_methods.training.hyperparameters import PrismHyperparameters
from safe_io.checkout import ROOT
from safe_io.errors import InputError

CONFIG = ROOT / "config"
PAPER = ("celeba", "fairface", "utkface", "waterbirds")


def needed(*datasets: str) -> list[tuple[str, str]]:
    return needed_text_sets([load_dataset_config(CONFIG / f"{name}.yml") for name in datasets], "default")


def test_the_paper_s_configs_need_81_text_sets_for_four_backbones() -> None:
    sets = needed(*PAPER)
    assert len(sets) == len(set(sets)) == 81
    assert set(sets) <= set(load_text_sets(CONFIG / "prism" / "default"))
    for dataset in PAPER:
        assert len(load_dataset_config(CONFIG / f"{dataset}.yml").backbones) == 4


def test_the_demo_needs_its_45_text_sets() -> None:
    sets = needed("portraits")
    assert len(sets) == 45
    assert set(sets) <= set(load_text_sets(CONFIG / "prism" / "default"))


@pytest.mark.parametrize(
    ("dataset", "setting", "group", "name"),
    [
        ("fairface", "stereotype_race", "dangerous person", "stereotype_dangerous-person_race"),
        ("utkface", "stereotype_race", "thief", "stereotype_thief_utkrace"),
        ("utkface", "stereotype_gender", "thief", "stereotype_thief_gender"),
        ("celeba", "hair_gender", "Gray_Hair", "celeba_gray_hair_gender"),
        (
            "celeba",
            "celeba_blond_hair_gender",
            "celeba_blond_hair_gender",
            "celeba_blond_hair_gender",
        ),
        ("waterbirds", "waterbirds", "waterbirds", "waterbirds"),
        ("portraits", "hobby_skin", "tea_drinker", "hobby_tea_drinker_skin"),
        ("portraits", "blond_gender", "blond_gender", "blond_gender"),
    ],
)
def test_text_sets_are_named_as_in_the_release(dataset: str, setting: str, group: str, name: str) -> None:
    config = load_dataset_config(CONFIG / f"{dataset}.yml")
    assert text_set_name(config.settings[setting], group) == name


@pytest.mark.parametrize(
    ("name", "num_samples", "lr"),
    [
        ("stereotype_thief_gender", 100, 0.01),
        ("celeba_gray_hair_gender", 100, 0.01),
        ("celeba_blond_hair_gender", 100, 0.01),
        ("stereotype_thief_race", 200, 0.01),
        ("stereotype_thief_utkrace", 200, 0.01),
        ("waterbirds", 500, 0.1),
        ("role_nurse_gender", 100, 0.01),
    ],
)
def test_hyperparameters_are_the_paper_s(name: str, num_samples: int, lr: float) -> None:
    found = hyperparameters(load_prism_training(CONFIG / TRAINING), name, CONFIG / TRAINING)
    assert found == PrismHyperparameters(num_samples, lr, epochs=1, batch_size=64, wd=0.0)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: {num_samples: 100}", "the key 'lr' is missing"),
        ("a: {lr: 0.1}", "the key 'num_samples' is missing"),
        ("a: {lr: 0.1, num_samples: 1.5}", "'num_samples' must be a whole number"),
        ("a: {lr: 0.1, num_samples: 0}", "num_samples must be at least 1"),
        ("a: {lr: -1, num_samples: 1}", "lr must be above 0"),
        ("a: {lr: 0.1, num_samples: 1, bases: 3}", "unknown key 'bases'"),
        ("[1]", "a mapping is needed"),
        ("a: {lr: 0.1, num_samples: 1}", "no pattern fits the setting 'waterbirds'; there are: a"),
    ],
)
def test_mistakes_in_the_training_file_are_one_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / TRAINING
    path.write_text(text)
    with pytest.raises(InputError, match=line) as caught:
        hyperparameters(load_prism_training(path), "waterbirds", path)
    assert str(path) in str(caught.value)


def test_a_map_of_the_release_serves_the_official_texts_alone(tmp_path: Path) -> None:
    backbone = get_backbone("ViT-L-14", CONFIG / "backbones.yml")
    training = PrismHyperparameters(500, 0.1)
    name = prism_weight_name(backbone.name, "zs_classification", "waterbirds", training, 1)
    weights = tmp_path / "debiasing_methods" / "prism_weights"

    def found(prompts: str) -> Path:
        [file] = prism_files(
            tmp_path, prompts, backbone, "zs_classification", ["waterbirds"], 1, CONFIG / TRAINING
        )
        return file.path

    for path in (weights / name, weights / "default" / name, weights / "official" / name):
        path.parent.mkdir(parents=True, exist_ok=True)
    (weights / name).touch()
    assert found("official") == weights / name
    assert found("default") == weights / "default" / name
    assert not found("default").exists()
    (weights / "official" / name).touch()
    assert found("official") == weights / "official" / name
    safe = (weights / "default" / name).with_suffix(".safetensors")
    safe.touch()
    assert found("default") == safe


def test_a_missing_map_says_how_to_get_it(tmp_path: Path) -> None:
    backbone = get_backbone("RN50", CONFIG / "backbones.yml")
    [file] = prism_files(
        tmp_path, "mine", backbone, "retrieval", ["stereotype_thief_race"], 2, CONFIG / TRAINING
    )
    assert "setting=stereotype_thief_race_" in file.path.name
    assert (
        "prism_training.py --backbone RN50 --task retrieval --setting stereotype_thief_race --seed 2 "
        "--prompts mine`" in file.make
    )
    assert "download_release.py" in file.make
