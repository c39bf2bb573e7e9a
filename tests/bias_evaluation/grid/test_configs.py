"""Configs: every mistake is one line that names the file, the key and what is allowed."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import main_eval
from bias_evaluation.grid.configs import get_backbone, load_backbones, load_dataset_config, load_methods
from debiasing_methods.registry import METHODS
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main

SHIPPED = sorted(
    p for p in (ROOT / "config").glob("*.yml") if p.stem not in ("backbones", "methods", "prism_training")
)

DATASET = {
    "dataset": "celeba",
    "folder": "CelebA",
    "retrieval_k": 20,
    "prompts": "mine",
    "backbones": ["big", "small"],
    "settings": {
        "hair_gender": {
            "task": "retrieval",
            "query_type": "hair",
            "bias": {"attribute": "gender", "values": ["Male", "Female"]},
            "labels": {"Blond_Hair": {"Blond_Hair": 1}},
        },
        "celeba_blond_hair_gender": {
            "task": "zs_classification",
            "prompts": "blond",
            "target": {"column": "Blond_Hair", "values": [-1, 1]},
            "bias": {"attribute": "gender", "column": "Male", "values": [-1, 1]},
            "zsdebias": "human",
        },
    },
}
BACKBONES = {
    "small": {"open_clip": "RN50", "pretrained": "openai", "dim": 8, "quick_gelu": True, "sae": "small.pth"},
    "big": {
        "open_clip": "models/big.json",
        "checkpoint": "models/big.pt",
        "dim": 16,
        "quick_gelu": False,
        "stem": "b",
        "openai_name": "Big/16",
    },
}
METHOD_OPTIONS = {
    "vanilla": {},
    "roboshot": {"reject_harmful": True},
    "orth-cali": {"lam": 10, "by_bias_attribute": {"race": {"lam": 20.5}}},
    "bendvlm": {"num_neighbors": 100},
    "prism": {"seeds": [0, 1]},
}

Documents = dict[str, Any]
Change = Callable[[Documents], Any]
HAIR, BLOND = ("settings", "hair_gender"), ("settings", "celeba_blond_hair_gender")


def write_config(folder: Path, documents: Documents) -> Path:
    """Write the three files of a config folder; returns the dataset's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        text = document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False)
        (folder / f"{name}.yml").write_text(text, encoding="utf-8")
    return folder / "celeba.yml"


def documents(change: Change | None = None) -> Documents:
    """Make the valid documents, with one change."""
    beside = {"settings": {"faces": {"bias": {"attribute": "race"}}}}  # all that is looked at
    made = copy.deepcopy(
        {"celeba": DATASET, "backbones": BACKBONES, "methods": METHOD_OPTIONS, "fairface": beside}
    )
    if change is not None:
        change(made)
    return made


def put(file: str, *keys: str, value: Any) -> Change:
    """Set one value of a file."""

    def change(made: Documents) -> None:
        place = made[file]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def drop(file: str, *keys: str) -> Change:
    """Remove one key of a file."""

    def change(made: Documents) -> None:
        place = made[file]
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


def whole(file: str, document: Any) -> Change:
    """Replace a whole file."""
    return lambda made: made.update({file: document})


# --- what is read -----------------------------------------------------------------------------------------


def test_values_and_defaults(tmp_path: Path) -> None:
    config = load_dataset_config(write_config(tmp_path / "config", documents()))
    assert (config.dataset, config.folder, config.retrieval_k) == ("celeba", "CelebA", 20)
    assert config.prompts == "mine"
    assert config.root == tmp_path.resolve()
    assert list(config.backbones) == ["big", "small"]  # the dataset's order, not the backbone file's
    hair, blond = config.settings["hair_gender"], config.settings["celeba_blond_hair_gender"]
    assert (hair.bias_attribute, hair.bias.column, hair.bias.values) == (
        "gender",
        "gender",
        ("Male", "Female"),
    )
    assert (hair.prompts, hair.target, hair.zsdebias) == ("hair_gender", None, None)
    assert hair.query_labels == {"Blond_Hair": ("Blond_Hair", 1)}
    assert (blond.bias_attribute, blond.bias.column, blond.bias.values) == ("gender", "Male", (-1, 1))
    assert (blond.target.column, blond.target.values) == ("Blond_Hair", (-1, 1))
    assert (blond.prompts, blond.query_type, blond.query_labels) == ("blond", None, {})


def test_backbone_paths_are_relative_to_the_project(tmp_path: Path) -> None:
    write_config(tmp_path / "config", documents())
    backbones = load_backbones(tmp_path / "config" / "backbones.yml")
    root = tmp_path.resolve()
    assert backbones["big"].checkpoint == root / "models/big.pt"
    assert backbones["big"].open_clip == str(root / "models/big.json")
    assert backbones["big"].pretrained is None
    small = backbones["small"]
    assert (small.stem, small.openai_name, small.checkpoint) == ("small", "small", None)
    assert (small.pretrained, small.quick_gelu, small.sae) == ("openai", True, "small.pth")


@pytest.mark.parametrize("name", ["big", "b", "Big/16"])
def test_a_backbone_goes_by_three_names(tmp_path: Path, name: str) -> None:
    write_config(tmp_path, documents())
    assert get_backbone(name, tmp_path / "backbones.yml").name == "big"


def test_unknown_backbone_name(tmp_path: Path) -> None:
    write_config(tmp_path, documents())
    with pytest.raises(InputError, match=r"backbones\.yml: unknown backbone 'huge'; choose from: small, big"):
        get_backbone("huge", tmp_path / "backbones.yml")


def test_options_by_bias_attribute(tmp_path: Path) -> None:
    write_config(tmp_path, documents())
    methods = load_methods(tmp_path / "methods.yml")
    assert list(methods) == list(METHOD_OPTIONS)
    assert methods["orth-cali"].options_for("gender") == {"lam": 10.0}
    assert methods["orth-cali"].options_for("race") == {"lam": 20.5}
    assert methods["prism"].seeds == (0, 1)
    assert methods["vanilla"].seeds == ()


def test_names_in_result_files() -> None:
    settings = {}
    for path in SHIPPED:
        settings.update(load_dataset_config(path).settings)
    assert settings["stereotype_race"].file_part == "retrieval_stereotype_race"
    assert settings["hair_gender"].file_part == "retrieval_hair_gender"
    blond = settings["celeba_blond_hair_gender"]
    assert blond.file_part == "zs-classification_celeba-blond-hair-gender"
    assert blond.record_name(500) == "celeba_blond_hair_gender"
    assert settings["hair_gender"].record_name(500) == "query=hair|bias=gender|K=500"


# --- what ships -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_load(path: Path) -> None:
    config = load_dataset_config(path)
    assert config.dataset == path.stem
    assert config.settings
    assert config.backbones
    assert set(config.methods) <= set(METHODS)


def test_shipped_configs_are_the_protocols() -> None:
    configs = {p.stem: load_dataset_config(p) for p in SHIPPED}
    assert {n: list(c.settings) for n, c in configs.items() if n != "portraits"} == {
        "celeba": ["stereotype_gender", "hair_gender", "celeba_blond_hair_gender"],
        "fairface": ["stereotype_race", "stereotype_gender"],
        "utkface": ["stereotype_race", "stereotype_gender"],
        "waterbirds": ["waterbirds"],
    }
    races = {n: configs[n].settings["stereotype_race"].bias.values for n in ("fairface", "utkface")}
    assert races["fairface"] == (
        "Black",
        "East Asian",
        "Indian",
        "Latino_Hispanic",
        "Middle Eastern",
        "Southeast Asian",
        "White",
    )
    assert races["utkface"] == ("White", "Black", "Asian", "Indian", "Latino Hispanic")
    assert all(c.retrieval_k == 500 for n, c in configs.items() if n != "portraits")
    backbones = configs["celeba"].backbones
    assert {b.name: (b.stem, b.openai_name, b.dim) for b in backbones.values()} == {
        "ViT-B-16": ("ViT-B-16", "ViT-B/16", 512),
        "ViT-L-14@336px": ("ViT-L-14", "ViT-L/14@336px", 768),
        "RN50": ("RN50", "RN50", 1024),
        "RN101": ("RN101", "RN101", 512),
    }


# --- what is refused --------------------------------------------------------------------------------------

CASES: dict[str, tuple[Change, list[str]]] = {
    # dataset file
    "dataset missing": (drop("celeba", "dataset"), ["celeba.yml", "the key 'dataset' is missing"]),
    "dataset that is no file name": (
        put("celeba", "dataset", value="My Set"),
        ["celeba.yml", "'dataset' must be of lower-case letters, digits and '_', found 'My Set'"],
    ),
    "dataset of another type": (
        put("celeba", "dataset", value=3),
        ["celeba.yml", "'dataset' must be text, found 3"],
    ),
    "folder missing": (drop("celeba", "folder"), ["celeba.yml", "'folder' is missing"]),
    "folder of another type": (put("celeba", "folder", value=["x"]), ["'folder' must be text, found ['x']"]),
    "folder empty": (put("celeba", "folder", value=None), ["'folder' must be text, found nothing"]),
    "K zero": (put("celeba", "retrieval_k", value=0), ["'retrieval_k' must be at least 1, found 0"]),
    "K a fraction": (
        put("celeba", "retrieval_k", value=1.5),
        ["'retrieval_k' must be a whole number, found 1.5"],
    ),
    "K a boolean": (
        put("celeba", "retrieval_k", value=True),
        ["'retrieval_k' must be a whole number, found True"],
    ),
    "K a text": (
        put("celeba", "retrieval_k", value="500"),
        ["'retrieval_k' must be a whole number, found '500'"],
    ),
    "prompts of another type": (put("celeba", "prompts", value=7), ["'prompts' must be text, found 7"]),
    "unknown key": (
        put("celeba", "retrival_k", value=5),
        [
            "celeba.yml",
            "unknown key 'retrival_k'",
            "choose from: dataset, folder, retrieval_k",
            "'retrieval_k'?",
        ],
    ),
    "key that is no text": (
        lambda made: made["celeba"].update({1: 2}),
        ["celeba.yml", "key 1 is not text; YAML reads it as a number"],
    ),
    "backbones missing": (drop("celeba", "backbones"), ["'backbones' is missing"]),
    "backbones empty": (
        put("celeba", "backbones", value=[]),
        ["'backbones' must be a list with at least one text, found an empty list"],
    ),
    "backbones a text": (put("celeba", "backbones", value="small"), ["'backbones' must be a list"]),
    "backbones of another type": (
        put("celeba", "backbones", value=[3]),
        ["'backbones' must hold texts only, found 3"],
    ),
    "backbone unknown": (
        put("celeba", "backbones", value=["smal"]),
        ["celeba.yml", "unknown backbone 'smal'", "choose from: small, big", "did you mean 'small'?"],
    ),
    # settings
    "settings missing": (drop("celeba", "settings"), ["the key 'settings' is missing"]),
    "settings empty": (
        put("celeba", "settings", value={}),
        ["celeba.yml: settings", "at least one setting is needed"],
    ),
    "settings a list": (
        put("celeba", "settings", value=["hair_gender"]),
        ["celeba.yml: settings: a mapping is needed, found ['hair_gender']"],
    ),
    "setting empty": (
        put("celeba", *HAIR, value=None),
        ["celeba.yml: settings: hair_gender: a mapping is needed, found nothing"],
    ),
    "task missing": (drop("celeba", *HAIR, "task"), ["settings: hair_gender: the key 'task' is missing"]),
    "task unknown": (
        put("celeba", *HAIR, "task", value="retrival"),
        ["unknown 'task' 'retrival'; choose from: retrieval, zs_classification", "'retrieval'?"],
    ),
    "query type missing": (drop("celeba", *HAIR, "query_type"), ["hair_gender: the key 'query_type' is"]),
    "setting with an unknown key": (
        put("celeba", *HAIR, "lables", value={}),
        ["hair_gender: unknown key 'lables'; choose from: ", "labels", "did you mean 'labels'?"],
    ),
    "target in a retrieval": (
        put("celeba", *HAIR, "target", value={"column": "x", "values": [0, 1]}),
        ["hair_gender: unknown key 'target'; choose from: task, bias, prompts, query_type, labels, zsdebias"],
    ),
    "labels in a classification": (
        put("celeba", *BLOND, "labels", value={"a": {"b": 1}}),
        ["blond_hair_gender: unknown key 'labels'; choose from: task, bias, prompts, target, zsdebias"],
    ),
    "query type in a classification": (
        put("celeba", *BLOND, "query_type", value="hair"),
        ["celeba_blond_hair_gender: unknown key 'query_type'"],
    ),
    "target missing": (drop("celeba", *BLOND, "target"), ["gender: the key 'target' is missing"]),
    "target column missing": (
        drop("celeba", *BLOND, "target", "column"),
        ["gender: target: the key 'column' is missing"],
    ),
    "target with an unknown key": (
        put("celeba", *BLOND, "target", "value", value=1),
        ["gender: target: unknown key 'value'; choose from: column, values; did you mean 'values'?"],
    ),
    "bias missing": (drop("celeba", *HAIR, "bias"), ["hair_gender: the key 'bias' is missing"]),
    "bias a text": (
        put("celeba", *HAIR, "bias", value="gender"),
        ["hair_gender: bias: a mapping is needed, found 'gender'"],
    ),
    "attribute missing": (
        drop("celeba", *HAIR, "bias", "attribute"),
        ["hair_gender: bias: the key 'attribute' is missing"],
    ),
    "values missing": (
        drop("celeba", *HAIR, "bias", "values"),
        ["hair_gender: bias: the key 'values' is missing"],
    ),
    "values a text": (
        put("celeba", *HAIR, "bias", "values", value="Male"),
        ["hair_gender: bias: 'values' must be a list, found 'Male'"],
    ),
    "one value": (
        put("celeba", *HAIR, "bias", "values", value=["Male"]),
        ["bias: 'values' must be a list of at least two different values", "found ['Male']"],
    ),
    "value twice": (
        put("celeba", *HAIR, "bias", "values", value=["Male", "Female", "Male"]),
        [
            "bias: 'values' must be a list of at least two different values",
            "found ['Male', 'Female', 'Male']",
        ],
    ),
    "value twice, as number and boolean": (
        put("celeba", *BLOND, "target", "values", value=[1, True]),
        ["target: 'values' must be a list of at least two different values", "found [1, True]"],
    ),
    "values that are lists": (
        put("celeba", *HAIR, "bias", "values", value=[["Male"], ["Female"]]),
        ["bias: 'values'", "['Male']"],
    ),
    "values that are nothing": (
        put("celeba", *HAIR, "bias", "values", value=[None, "Male"]),
        ["bias: 'values'", "[None, 'Male']"],
    ),
    "labels a list": (
        put("celeba", *HAIR, "labels", value=["Blond_Hair"]),
        ["hair_gender: labels: a mapping is needed"],
    ),
    "label a text": (
        put("celeba", *HAIR, "labels", "Blond_Hair", value="blond"),
        ["labels: 'Blond_Hair' must be one pair {column: value}, found 'blond'"],
    ),
    "label of two pairs": (
        put("celeba", *HAIR, "labels", "Blond_Hair", value={"a": 1, "b": 1}),
        ["labels: 'Blond_Hair' must be one pair {column: value}"],
    ),
    "label value a list": (
        put("celeba", *HAIR, "labels", "Blond_Hair", value={"Blond_Hair": [1]}),
        ["labels: 'Blond_Hair'", "[1]"],
    ),
    "two settings of one result file": (
        put("celeba", "settings", "again", value=copy.deepcopy(DATASET["settings"]["hair_gender"])),
        ["celeba.yml: the settings 'hair_gender' and 'again' would both write", "'retrieval_hair_gender'"],
    ),
    # backbone file
    "backbone with an unknown key": (
        put("backbones", "small", "quickgelu", value=True),
        ["backbones.yml: small: unknown key 'quickgelu'", "did you mean 'quick_gelu'?"],
    ),
    "no model": (drop("backbones", "small", "open_clip"), ["backbones.yml: small: the key 'open_clip' is"]),
    "no dimension": (drop("backbones", "small", "dim"), ["backbones.yml: small: the key 'dim' is missing"]),
    "no quick_gelu": (drop("backbones", "small", "quick_gelu"), ["small: the key 'quick_gelu' is missing"]),
    "quick_gelu a text": (
        put("backbones", "small", "quick_gelu", value="yes"),
        ["small: 'quick_gelu' must be true or false, found 'yes'"],
    ),
    "quick_gelu a number": (
        put("backbones", "small", "quick_gelu", value=1),
        ["small: 'quick_gelu' must be true or false, found 1"],
    ),
    "dimension zero": (put("backbones", "big", "dim", value=0), ["big: 'dim' must be at least 1, found 0"]),
    "dimension a boolean": (
        put("backbones", "big", "dim", value=True),
        ["big: 'dim' must be a whole number, found True"],
    ),
    "tag and checkpoint": (
        put("backbones", "big", "pretrained", value="openai"),
        ["backbones.yml: big: give either 'pretrained'", "or 'checkpoint'"],
    ),
    "neither tag nor checkpoint": (
        drop("backbones", "big", "checkpoint"),
        ["backbones.yml: big: give either 'pretrained'", "or 'checkpoint'"],
    ),
    "backbone empty": (
        put("backbones", "big", value=None),
        ["backbones.yml: big: a mapping is needed, found nothing"],
    ),
    "two backbones of one result file": (
        put("backbones", "small", "stem", value="b"),
        [
            "backbones.yml: the backbones (by their 'stem') 'big' and 'small' would both write results",
            "named 'b'",
        ],
    ),
    # method file
    "method unknown": (
        put("methods", "orth-porj", value={}),
        ["methods.yml: unknown method 'orth-porj'; choose from: vanilla", "did you mean 'orth-proj'?"],
    ),
    "method empty": (
        put("methods", "vanilla", value=None),
        ["methods.yml: vanilla: a mapping is needed, found nothing"],
    ),
    "no method": (whole("methods", {}), ["methods.yml", "at least one method is needed"]),
    "option unknown": (
        put("methods", "orth-cali", "lambda", value=1),
        ["methods.yml: orth-cali: 'lambda' is no option of orth-cali; its options: lam"],
    ),
    "option of a method without any": (
        put("methods", "vanilla", "lam", value=1),
        ["methods.yml: vanilla: 'lam' is no option of vanilla; its options: (none)"],
    ),
    "option that is a weight": (
        put("methods", "prism", "maps", value={}),
        ["methods.yml: prism: 'maps' is no option of prism"],
    ),
    "option a text": (
        put("methods", "orth-cali", "lam", value="big"),
        ["orth-cali: 'lam' must be a number, found 'big'"],
    ),
    "option a boolean": (
        put("methods", "orth-cali", "lam", value=True),
        ["orth-cali: 'lam' must be a number, found True"],
    ),
    "option a fraction": (
        put("methods", "bendvlm", "num_neighbors", value=1.5),
        ["bendvlm: 'num_neighbors' must be a whole number, found 1.5"],
    ),
    "option a number": (
        put("methods", "roboshot", "reject_harmful", value=1),
        ["roboshot: 'reject_harmful' must be true or false, found 1"],
    ),
    "option unknown for an attribute": (
        put("methods", "orth-cali", "by_bias_attribute", "race", value={"lamda": 1}),
        ["orth-cali: by_bias_attribute: race: 'lamda' is no option of orth-cali; its options: lam"],
    ),
    "options for no bias attribute": (
        put("methods", "orth-cali", "by_bias_attribute", value={"rase": {"lam": 1}}),
        ["methods.yml: orth-cali: by_bias_attribute: unknown bias attribute 'rase'; choose from"],
    ),
    "options of an attribute a number": (
        put("methods", "orth-cali", "by_bias_attribute", "race", value=3),
        ["orth-cali: by_bias_attribute: race: a mapping is needed, found 3"],
    ),
    "seeds missing": (drop("methods", "prism", "seeds"), ["methods.yml: prism: the key 'seeds' is missing"]),
    "seeds a number": (put("methods", "prism", "seeds", value=3), ["prism: 'seeds' must be a list, found 3"]),
    "seeds empty": (
        put("methods", "prism", "seeds", value=[]),
        ["prism: 'seeds' must be a list of", "found an empty list"],
    ),
    "seed negative": (put("methods", "prism", "seeds", value=[0, -1]), ["'seeds' must be", "found [0, -1]"]),
    "seed a boolean": (put("methods", "prism", "seeds", value=[True]), ["'seeds' must be", "found [True]"]),
    "seed twice": (put("methods", "prism", "seeds", value=[0, 1, 0]), ["'seeds' must be", "found [0, 1, 0]"]),
    "seeds of a method without any": (
        put("methods", "vanilla", "seeds", value=[0]),
        ["methods.yml: vanilla: 'seeds' is no option of vanilla"],
    ),
    # whole documents
    "dataset file empty": (whole("celeba", ""), ["celeba.yml: a mapping is needed, found nothing"]),
    "dataset file a list": (whole("celeba", ["celeba"]), ["celeba.yml: a mapping is needed, found"]),
    "dataset file not YAML": (whole("celeba", "a: [1, 2\nb: {"), ["not valid YAML", "celeba.yml"]),
    "backbone file not YAML": (whole("backbones", "a: b: c"), ["not valid YAML", "backbones.yml"]),
    "python object in YAML": (
        whole("methods", "vanilla: !!python/object/apply:os.system ['true']"),
        ["not valid YAML", "methods.yml"],
    ),
    "key twice": (
        whole("celeba", yaml.safe_dump(DATASET) + "folder: Other\n"),
        ["celeba.yml", "'folder'", "twice"],
    ),
    "setting twice": (
        whole("methods", "vanilla: {}\nsem-b: {}\nvanilla: {}\n"),
        ["methods.yml", "'vanilla'", "twice"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), CASES.values(), ids=CASES)
def test_a_wrong_config_is_one_line(tmp_path: Path, change: Change, expected: list[str]) -> None:
    path = write_config(tmp_path / "config", documents(change))
    with pytest.raises(InputError) as error:
        load_dataset_config(path)
    message = str(error.value)
    assert "\n" not in message
    for part in expected:
        assert part in message
    assert str(tmp_path) in message  # the file, in full


@pytest.mark.parametrize("name", ["celeba", "backbones", "methods"])
def test_missing_files_and_folders_in_their_place(tmp_path: Path, name: str) -> None:
    path = write_config(tmp_path / "config", documents())
    target = path.with_name(f"{name}.yml")
    target.unlink()
    with pytest.raises(InputError, match="not found: .*config/" + name):
        load_dataset_config(path)
    target.mkdir()
    with pytest.raises(InputError, match="not found: .*config/" + name):
        load_dataset_config(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = write_config(tmp_path / "config", documents())
    path.write_bytes(b"dataset: \xff\xfe")
    with pytest.raises(InputError, match=r"not valid YAML: .*celeba\.yml"):
        load_dataset_config(path)


def test_yaml_merge_keys_are_no_repetition(tmp_path: Path) -> None:
    text = "base: &base {open_clip: RN50, pretrained: openai, dim: 4, quick_gelu: true}\n"
    path = tmp_path / "backbones.yml"
    path.write_text(text + "other:\n  <<: *base\n  dim: 8\n")
    assert {n: b.dim for n, b in load_backbones(path).items()} == {"base": 4, "other": 8}


# --- the command ------------------------------------------------------------------------------------------


def _listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_command_refuses_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    path = write_config(tmp_path / "config", documents(put("celeba", "kk", value=1)))
    before = _listing(tmp_path)
    done = subprocess.run(
        [sys.executable, ROOT / "main_eval.py", "--config", path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: unknown key 'kk'; choose from: dataset, folder, ")
    assert _listing(tmp_path) == before


@pytest.mark.parametrize("case", ["file missing", *list(CASES)[::9]])
def test_a_refusal_becomes_exit_code_2(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    change = CASES[case][0] if case in CASES else None
    path = write_config(tmp_path / "config", documents(change))
    if change is None:
        path.unlink()
    before = _listing(tmp_path)
    assert run_main(lambda: main_eval.main(["--config", str(path)])) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path) in line
    assert _listing(tmp_path) == before
