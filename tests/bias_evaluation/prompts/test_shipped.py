"""The prompt sets that the project ships: shapes, the protocol's own sentences, and texts of their own."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.prompts.bias_corpora import load_corpus
from bias_evaluation.prompts.prism_texts import load_text_sets
from bias_evaluation.prompts.sentences import SettingPrompts, load_prompts
from debiasing_methods.registry import METHODS
from safe_io.checkout import ROOT
from safe_io.errors import InputError

CONFIG = ROOT / "config"
PROMPTS = CONFIG / "prompts" / "default"
DATASETS = ("celeba", "fairface", "utkface", "waterbirds")
SETTINGS = [
    (dataset, setting.prompts)
    for dataset in DATASETS
    for setting in load_dataset_config(CONFIG / f"{dataset}.yml").settings.values()
]
STEREOTYPES = [s for s in SETTINGS if s[1].startswith("stereotype")]
BIAS_CLASSES = {
    "stereotype_gender": ["male", "female"],
    "stereotype_race": [
        "black",
        "east asian",
        "indian",
        "latino hispanic",
        "middle eastern",
        "southeast asian",
        "white",
    ],
    "stereotype_utkrace": ["white", "black", "asian", "indian", "latino hispanic"],
}
# Smallest and largest number of harmful and of helpful pairs of a query.
PAIRS = {
    "stereotype": ((4, 5), (3, 3)),
    "hair_gender": ((5, 6), (4, 5)),
    "celeba_blond_hair_gender": ((11, 11), (3, 3)),
    "waterbirds": ((10, 10), (6, 6)),
}


@cache
def load(dataset: str, setting: str) -> SettingPrompts:
    return load_prompts(PROMPTS, dataset, setting)


def a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def lists_of(prompts: SettingPrompts) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every list of sentences or pairs that some method uses, with a name."""
    yield "diverse", prompts.diverse
    for group in prompts.groups:
        for method, cls in METHODS.items():
            used = group.for_method(method, cls.needs)
            for kind in ("spurious", "candidates", "augmentations", "harmful", "helpful"):
                yield f"{group.name}: {kind} of {method}", getattr(used, kind)
            for wordings in used.paraphrases:
                yield f"{group.name}: paraphrases", wordings
            for name, texts in used.bias_prompts.items():
                yield f"bias prompts of {name}", texts


# shapes


def test_the_eight_settings_of_the_protocol_are_there() -> None:
    assert len(SETTINGS) == 8
    assert len(STEREOTYPES) == 5


@pytest.mark.parametrize(("dataset", "setting"), SETTINGS)
def test_every_method_finds_what_it_needs(dataset: str, setting: str) -> None:
    for method, cls in METHODS.items():
        load(dataset, setting).check_for(method, cls.needs)


@pytest.mark.parametrize(("dataset", "setting"), SETTINGS)
def test_shapes(dataset: str, setting: str) -> None:
    prompts = load(dataset, setting)
    (harmful, helpful) = next(shape for name, shape in PAIRS.items() if setting.startswith(name))
    assert 320 <= len(prompts.diverse) <= 340
    for group in prompts.groups:
        assert [len(p) for p in group.common.paraphrases] == [10] * len(group.queries)
        assert {len(p) for p in group.common.bias_prompts.values()} == {20}
        assert harmful[0] <= len(group.common.harmful) <= harmful[1]
        assert helpful[0] <= len(group.common.helpful) <= helpful[1]


@pytest.mark.parametrize(("dataset", "setting"), SETTINGS)
def test_bias_prompts_are_of_the_bias_classes(dataset: str, setting: str) -> None:
    config = load_dataset_config(CONFIG / f"{dataset}.yml")
    [values] = [s.bias.values for s in config.settings.values() if s.prompts == setting]
    for group in load(dataset, setting).groups:
        assert sorted(group.common.bias_prompts) == sorted(values)


@pytest.mark.parametrize(("dataset", "setting"), SETTINGS)
def test_no_sentence_twice_in_a_list(dataset: str, setting: str) -> None:
    for name, entries in lists_of(load(dataset, setting)):
        assert not [entry for entry, n in Counter(entries).items() if n > 1], name


def test_datasets_share_their_texts() -> None:
    gender = [load(dataset, "stereotype_gender") for dataset in ("celeba", "fairface", "utkface")]
    assert gender[0].groups == gender[1].groups == gender[2].groups
    assert len({load(*setting).diverse for setting in SETTINGS}) == 1
    race, utkrace = load("fairface", "stereotype_race"), load("utkface", "stereotype_utkrace")
    for kind in ("paraphrases", "harmful", "helpful"):
        for other in (race, utkrace):
            assert [getattr(g.common, kind) for g in gender[0].groups] == [
                getattr(g.common, kind) for g in other.groups
            ]
    black = [p.groups[0].common.bias_prompts["Black"] for p in (race, utkrace)]
    assert black[0] == black[1]


def test_no_prompt_is_stated_twice() -> None:
    """No text of four words or more stands twice in the files (an alias is no second statement)."""
    files = [PROMPTS / f"{dataset}.yml" for dataset in DATASETS] + sorted(PROMPTS.glob("common/*.yml"))
    nodes = [node for path in files for node in scalars(yaml.compose(path.read_text()), set())]
    texts = Counter(node.lower().rstrip(".") for node in nodes if len(node.split()) >= 4)
    assert len(texts) > 500
    assert not [text for text, n in texts.items() if n > 1]


def scalars(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        yield node.value
    for child in node.value if not isinstance(node, yaml.ScalarNode) else ():
        for part in child if isinstance(child, tuple) else (child,):
            yield from scalars(part, seen)


# the protocol's own sentences


@pytest.mark.parametrize(("dataset", "setting"), STEREOTYPES)
def test_stereotype_sentences(dataset: str, setting: str) -> None:
    groups = load(dataset, setting).groups
    assert len(groups) == 25
    assert sorted(g.name for g in groups) == [g.name for g in groups]
    classes = BIAS_CLASSES[setting]
    for group in groups:
        assert group.queries == (f"A photo of {a(group.name)}.",)
        assert group.common.spurious == tuple(f"A photo of {a(c)} person." for c in classes)
        assert group.common.candidates == tuple(f"A photo of {a(c)} {group.name}." for c in classes)
        assert group.common.augmentations == group.common.candidates
        assert not group.overrides


def test_hair_sentences() -> None:
    groups = load("celeba", "hair_gender").groups
    assert [g.name for g in groups] == ["Blond_Hair", "Black_Hair", "Brown_Hair", "Gray_Hair"]
    for group, color in zip(groups, ("blond", "black", "brown", "gray"), strict=True):
        assert group.queries == (f"A photo of a celebrity with {color} hair.",)
        assert group.common.spurious == ("A photo of a male celebrity.", "A photo of a female celebrity.")
        assert group.common.candidates == (
            f"A photo of a male celebrity with {color} hair.",
            f"A photo of a female celebrity with {color} hair.",
        )


def test_blond_hair_sentences() -> None:
    [group] = load("celeba", "celeba_blond_hair_gender").groups
    bend = group.for_method("bendvlm", METHODS["bendvlm"].needs)
    assert group.queries == (
        "A photo of a celebrity with dark hair.",
        "A photo of a celebrity with blond hair.",
    )
    assert group.common.spurious == (
        "A photo of a male.",
        "A photo of a male celebrity.",
        "A photo of a man.",
        "A photo of a female.",
        "A photo of a female celebrity.",
        "A photo of a woman.",
    )
    assert group.common.candidates == tuple(
        f"A photo of a {gender} celebrity with {color} hair."
        for color in ("dark", "blond")
        for gender in ("male", "female")
    )
    assert group.common.candidate_pairs == ((0, 1), (2, 3))
    assert bend.spurious == ("A photo of a male celebrity.", "A photo of a female celebrity.")
    assert bend.augmentations == group.common.candidates


def test_waterbirds_sentences() -> None:
    [group] = load("waterbirds", "waterbirds").groups
    bend = group.for_method("bendvlm", METHODS["bendvlm"].needs)
    assert group.queries == ("This is a picture of a landbird.", "This is a picture of a waterbird.")
    places = ("land background", "forest", "mountain", "wood", "water background", "ocean", "beach", "port")
    for sentence, place in zip(group.common.spurious, places, strict=True):
        assert re.fullmatch(rf"This is (a picture of )?{a(place)}\.", sentence)
    habitats = ("land background", "water background", "ocean", "water", "forest")
    birds = [(bird, place) for bird in ("landbird", "waterbird") for place in habitats]
    for sentence, (bird, place) in zip(group.common.candidates, birds, strict=True):
        assert re.fullmatch(rf"This is a picture of a {bird} (in the|with) {place}\.", sentence)
    same_bird = {(i, j) for i in range(10) for j in range(i + 1, 10) if i // 5 == j // 5}
    assert len(same_bird) == 20
    assert set(group.common.candidate_pairs) == same_bird
    assert len(bend.spurious) == 2
    assert len(bend.augmentations) == 4


# texts of their own


def normal(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from texts_in(entry)


@pytest.fixture(scope="module")
def published(oracle_dir: Path) -> frozenset[str]:
    """All published sentences of six words or more, normalised."""
    folder = oracle_dir / "official"
    files = [p for part in ("query_templates", "prompt_templates") for p in (folder / part).glob("*.json")]
    files += [*(folder / "prism_data").glob("*/*.json"), folder / "diverse_prompts.json"]
    texts = {normal(t) for path in files for t in texts_in(json.loads(path.read_text(encoding="utf-8")))}
    for text_set in load_text_sets(folder / "prism_data").values():
        texts |= {normal(sentence) for sentence in text_set.sentences()}
    found = frozenset(text for text in texts if len(text.split()) >= 6)
    assert len(found) > 10_000
    return found


@pytest.mark.parametrize(("dataset", "setting"), SETTINGS)
def test_prompts_are_original(published: frozenset[str], dataset: str, setting: str) -> None:
    """Queries, spurious prompts, candidates and augmentations are the protocol's; the rest is ours."""
    for name, entries in lists_of(load(dataset, setting)):
        if not re.search("spurious|candidates|augmentations", name):
            texts = {t for entry in entries for t in (entry if isinstance(entry, tuple) else (entry,))}
            assert not {t for t in texts if normal(t) in published}, name


def test_prism_texts_are_original(published: frozenset[str]) -> None:
    for name, text_set in load_text_sets(CONFIG / "prism" / "default").items():
        scenes = set(map(normal, text_set.scene_descriptions))
        assert not scenes & published, name
        assert not {s for s in text_set.sentences()[::7] if normal(s) in published}, name


@pytest.mark.parametrize("kind", ["human", "animal"])
def test_bias_corpora_are_original(published: frozenset[str], kind: str) -> None:
    assert not {s for s in load_corpus(CONFIG / "zsdebias" / "default.yml", kind) if normal(s) in published}


# including a file


@pytest.fixture
def prompt_set(tmp_path: Path) -> Path:
    """Write a small prompt set whose settings and bias attributes come from `common/`."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "shapes.yml").write_text(
        "shape: {classes: [round, square], templates: ['It is {bias}.']}"
    )
    (tmp_path / "common" / "things.yml").write_text(
        "bias: shape\nqueries: [cup, box]\nquery: A {query}.\nspurious: ['{a_bias} thing']\n"
    )
    (tmp_path / "set.yml").write_text(
        "bias: {include: shapes.yml}\n"
        "settings:\n"
        "  things: {include: things.yml}\n"
        "  odd: {include: things.yml, query: 'An odd {query}.', candidates: ['{a_bias} {query}']}\n"
    )
    return tmp_path


def test_an_included_file_stands_in_for_the_section(prompt_set: Path) -> None:
    groups = load_prompts(prompt_set, "set", "things").groups
    assert [g.queries for g in groups] == [("A cup.",), ("A box.",)]
    assert groups[0].common.spurious == ("a round thing", "a square thing")
    assert groups[0].common.bias_prompts == {"round": ("It is round.",), "square": ("It is square.",)}


def test_own_keys_add_to_the_file_or_replace_it(prompt_set: Path) -> None:
    [cup, _] = load_prompts(prompt_set, "set", "odd").groups
    assert cup.queries == ("An odd cup.",)
    assert cup.common.spurious == ("a round thing", "a square thing")
    assert cup.common.candidates == ("a round cup", "a square cup")


@pytest.mark.parametrize(
    ("include", "content", "message"),
    [
        ("gone.yml", None, r"included prompt file not found: .*common.gone\.yml"),
        ("[a, b]", None, r"'include' must be text, found \['a', 'b'\]"),
        ("list.yml", "[cup, box]", r"list\.yml: a mapping is needed"),
        ("key.yml", "querys: [cup]", r"settings: things \(with .*key\.yml\): the key 'bias' is missing"),
        (
            "nested.yml",
            "include: things.yml\nbias: shape",
            r"nested\.yml: an included file cannot include another",
        ),
    ],
)
def test_mistakes_in_an_include_are_one_line(
    prompt_set: Path, include: str, content: str | None, message: str
) -> None:
    if content is not None:
        (prompt_set / "common" / include).write_text(content)
    text = (
        (prompt_set / "set.yml")
        .read_text()
        .replace("things: {include: things.yml}", f"things: {{include: {include}}}")
    )
    (prompt_set / "set.yml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_prompts(prompt_set, "set", "things")
    assert "\n" not in str(caught.value)
