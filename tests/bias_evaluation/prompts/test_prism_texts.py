"""PRISM's text sets: ours expand, the release's are read, and sentences are written as published."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.prompts.prism_texts import (
    PrismTextSet,
    fill_scene,
    load_text_sets,
)
from bias_evaluation.prompts.sentences import load_prompts
from safe_io.checkout import ROOT
from safe_io.errors import InputError

CONFIG = ROOT / "config"
SHIPPED = CONFIG / "prism" / "default"
DEMO = ("blond_", "haircolor_", "role_", "trait_", "hobby_")
EVERYTHING = load_text_sets(SHIPPED)
SETS = {name: texts for name, texts in EVERYTHING.items() if not name[1].startswith(DEMO)}
SMALL = PrismTextSet(
    scene_descriptions=("A picture of a <x> in a <y>.",),
    target_classes=("cup", "box"),
    bias_classes=("red", "green"),
    target_class_descriptions={"cup": ("cup",), "box": ("box", "case")},
    bias_class_descriptions={"red": ("red room",), "green": ("green room",)},
    target_placeholder="<x>",
    bias_placeholder="<y>",
)


def expected_names() -> set[tuple[str, str]]:
    """Every setting that has maps, from the dataset configs and the queries of the prompt files."""
    names = {("zs_classification", "celeba_blond_hair_gender"), ("zs_classification", "waterbirds")}
    for dataset in ("celeba", "fairface", "utkface"):
        for setting in load_dataset_config(CONFIG / f"{dataset}.yml").settings.values():
            if setting.task != "retrieval":
                continue
            prompts, bias = setting.prompts, setting.prompts.split("_")[1]
            for group in load_prompts(CONFIG / "prompts" / "default", dataset, prompts).groups:
                query = group.name.lower().replace(" ", "-")
                stem = f"celeba_{query}" if setting.query_type == "hair" else f"stereotype_{query}"
                names.add(("retrieval", f"{stem}_{bias}"))
    return names


# ours


def test_the_shipped_sets_are_those_of_the_81_settings() -> None:
    assert len(SETS) == 81
    assert set(SETS) == expected_names()


def test_the_demo_has_a_set_for_every_query_and_for_its_classification() -> None:
    demo = set(EVERYTHING) - set(SETS)
    names = {("zs_classification", "blond_gender")}
    for prompts in ("haircolor_gender", "role_gender", "trait_gender", "hobby_skin"):
        for group in load_prompts(CONFIG / "prompts" / "default", "portraits", prompts).groups:
            query_type, bias = prompts.split("_")
            names.add(("retrieval", f"{query_type}_{group.name}_{bias}"))
    assert demo == names
    assert all(len(set(EVERYTHING[name].scene_descriptions)) == 20 for name in demo)


@pytest.mark.parametrize("name", list(SETS), ids="-".join)
def test_shapes(name: tuple[str, str]) -> None:
    text_set, birds = SETS[name], name[1] == "waterbirds"
    targets = [len(v) for v in text_set.target_class_descriptions.values()]
    biases = [len(v) for v in text_set.bias_class_descriptions.values()]
    assert len(set(text_set.scene_descriptions)) == 20
    assert len(targets) == 2
    assert all(n == 20 if birds else 4 <= n <= 6 for n in targets)
    assert all(n == 10 if birds else 4 <= n <= 6 for n in biases)
    classes = {"utkrace": 5, "_race": 7}
    assert len(biases) == next((n for end, n in classes.items() if name[1].endswith(end)), 2)
    for descriptions in (text_set.target_class_descriptions, text_set.bias_class_descriptions):
        words = [word.lower() for texts in descriptions.values() for word in texts]
        assert len(set(words)) == len(words)


def test_every_text_can_be_told_from_every_other() -> None:
    """As many different sentences as combinations: no two descriptions give the same one."""
    text_set = SETS["zs_classification", "waterbirds"]
    assert len(text_set.sentences()) == 20 * 40 * 20
    assert len(SETS["retrieval", "stereotype_thief_race"].sentences()) == 20 * 9 * 28


def test_a_class_is_described_by_its_name_too() -> None:
    for (_, name), text_set in SETS.items():
        if name != "waterbirds":
            first = text_set.target_classes[0]
            assert text_set.target_class_descriptions[first][0] == first
            assert all(texts[0] == bias for bias, texts in text_set.bias_class_descriptions.items())


def test_settings_share_texts() -> None:
    gender, race = (SETS["retrieval", f"stereotype_thug_{b}"] for b in ("gender", "race"))
    assert gender.target_class_descriptions == race.target_class_descriptions
    assert gender.scene_descriptions == race.scene_descriptions
    blond = [SETS[task, "celeba_blond_hair_gender"] for task in ("retrieval", "zs_classification")]
    assert blond[0].target_classes == ("blond hair", "not blond hair")
    assert blond[1].target_classes == ("dark hair", "blond hair")
    assert (
        blond[0].target_class_descriptions["blond hair"] == blond[1].target_class_descriptions["blond hair"]
    )


# sentences


@pytest.mark.parametrize(
    ("scene", "target", "bias", "sentence"),
    [
        ("A picture of a <x> in a <y>.", "cup", "red room", "A picture of a cup in a red room."),
        ("A picture of a <x> in a <y>.", "egg", "old  room", "A picture of an egg in an old room."),
        ("A <y> with a  <x>", "Urn", "open room", "an open room with an Urn"),
        ("Banana <x> with\ta\n<y>", "a ice", "x", "Banana an ice with a x"),
    ],
)
def test_a_scene_is_filled(scene: str, target: str, bias: str, sentence: str) -> None:
    assert fill_scene(scene, target, bias, SMALL) == sentence


def test_all_sentences_of_a_set() -> None:
    assert SMALL.sentences() == [
        f"A picture of a {x} in a {y}." for x in ("cup", "box", "case") for y in ("red room", "green room")
    ]


# the release's


def write_release(folder: Path, task: str, setting: str, **changes: object) -> None:
    names = (
        "scene_descriptions",
        "target_classes",
        "bias_classes",
        "target_class_descriptions",
        "bias_class_descriptions",
        "target_placeholder",
        "bias_placeholder",
    )
    value = {name.replace("_", " "): getattr(SMALL, name) for name in names} | changes
    (folder / task).mkdir(exist_ok=True)
    (folder / task / f"{setting}.json").write_text(json.dumps(value))


def test_the_releases_form_is_read(tmp_path: Path) -> None:
    write_release(tmp_path, "zs_classification", "cups")
    write_release(tmp_path, "retrieval", "boxes", **{"target placeholder": "in", "bias placeholder": "<y>"})
    sets = load_text_sets(tmp_path)
    assert list(sets) == [("retrieval", "boxes"), ("zs_classification", "cups")]
    assert sets["zs_classification", "cups"] == SMALL
    assert sets["retrieval", "boxes"] == replace(SMALL, target_placeholder="in")


def test_published_sets_form_the_published_sentences(oracle_dir: Path) -> None:
    """The oracle's text embeddings hold every sentence that the six settings with published maps can form."""
    archive = oracle_dir / "golden" / "world" / "text_embeddings.npz"
    known = set(np.load(archive)["prompts"].tolist())
    folder = oracle_dir / "official" / "prism_data"
    names = [("retrieval", f"celeba_{c}_hair_gender") for c in ("black", "blond", "brown", "gray")]
    names += [("zs_classification", "celeba_blond_hair_gender"), ("zs_classification", "waterbirds")]
    published = load_text_sets(folder)
    for name in names:
        sentences = published[name].sentences()
        assert len(sentences) == (800 if name[1] == "waterbirds" else 480)
        assert set(sentences) <= known
    assert set(published) == set(SETS)


# mistakes

FAMILY = """
bias: {color: {red: [red, crimson], green: [green]}}
families:
  things:
    task: retrieval
    setting: "{target}_{bias}"
    bias: [color]
    scenes: ["A {bias} {target}."]
    classes: ["{target}", "no {target}"]
    targets: {tea cup: [[cup], [box]]}
"""


def test_a_family_is_expanded(tmp_path: Path) -> None:
    (tmp_path / "things.yml").write_text(FAMILY)
    text_set = load_text_sets(tmp_path)["retrieval", "tea-cup_color"]
    assert text_set.target_class_descriptions == {"tea cup": ("cup",), "no tea cup": ("box",)}
    assert text_set.sentences() == [
        f"A {bias} {target}." for target in ("cup", "box") for bias in ("red", "crimson", "green")
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "retrieval",
            "retrieve",
            r"things\.yml: families: things: unknown 'task' 'retrieve'; .*mean 'retrieval'",
        ),
        ("bias: [color]", "bias: [colour]", "things: unknown bias attribute 'colour'; choose from: color"),
        (
            "A {bias} {target}.",
            "A {bias}.",
            r"things\.yml.* 'tea cup': the scene 'A \{bias\}\.' must hold \{target\}",
        ),
        (
            "[[cup], [box]]",
            "[[cup]]",
            r"'tea cup': one list a class is needed \(\{target\}, no .*\), found 1",
        ),
        ("[[cup], [box]]", "[[cup], []]", "'tea cup' must be a list with at least one text"),
        ('["{target}", "no {target}"]', "[a, a]", "target classes must be two or more different names"),
        (", green: [green]}", "}", "bias classes must be two or more different names"),
        ("scenes:", "scene:", "things: the key 'scenes' is missing"),
        ("task:", "tasks: 1\n    task:", "unknown key 'tasks'"),
        (
            "tea cup: [[cup], [box]]",
            "tea cup: [[a], [b]], tea-cup: [[c], [d]]",
            "second text set 'tea-cup_color'",
        ),
    ],
)
def test_mistakes_in_a_family_are_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FAMILY
    (tmp_path / "things.yml").write_text(FAMILY.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_text_sets(tmp_path)
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_releases_form_name_the_file(tmp_path: Path) -> None:
    write_release(tmp_path, "retrieval", "cups", **{"target classes": ["cup", "tin"]})
    with pytest.raises(InputError, match=r"cups\.json: target classes must be"):
        load_text_sets(tmp_path)
    (tmp_path / "retrieval" / "cups.json").write_text('{"scene descriptions": ["x"]')
    with pytest.raises(InputError, match=r"cups\.json"):
        load_text_sets(tmp_path)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown PRISM text sets 'defalt'; .*did you mean 'default'"):
        load_text_sets(SHIPPED.parent / "defalt")
    with pytest.raises(InputError, match="holds no PRISM text sets"):
        load_text_sets(tmp_path)
