"""Bias files: what they give, and their mistakes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from debiasing_methods.registry import METHODS
from fair_search.bias_files import bare, load_bias
from fair_search.config_files import config_folder
from safe_io.errors import InputError

GIVEN = sorted(path.stem for path in (config_folder() / "bias").glob("*.yml"))
OWN = """\
bias: weather
noun: day
classes: [sunny, rainy]
templates:
  - A photo of {a_bias} day.
  - The weather is {bias}.
  - A street on {a_bias} day.
  - A view from the window on {a_bias} day.
"""


def own(**changes: Any) -> dict[str, Any]:
    document = yaml.safe_load(OWN) | changes
    return {key: value for key, value in document.items() if value is not None}


def test_gender_race_and_age_are_given() -> None:
    assert {"gender", "race", "age"} <= set(GIVEN)


@pytest.mark.parametrize("name", GIVEN)
def test_given_files_have_every_kind_of_prompt_for_every_method(name: str) -> None:
    bias = load_bias(name)
    prompts = bias.prompts(["A photo of a doctor.", "医者"])
    for method, cls in METHODS.items():
        prompts.check_for(method, cls.needs)
        for sentence in prompts.sentences(method, cls.needs):
            assert not set("{}") & set(sentence)
    for descriptions in prompts.groups[0].common.bias_prompts.values():
        assert len(descriptions) >= 10
    assert len(bias.diverse) >= 300


def test_an_own_file_takes_ten_lines_and_serves_every_method(tmp_path: Path) -> None:
    path = tmp_path / "weather.yml"
    path.write_text(OWN)
    assert len(OWN.splitlines()) <= 10
    bias = load_bias(path)
    assert (bias.attribute, bias.classes) == ("weather", ("sunny", "rainy"))
    prompts = bias.prompts(["a picture of the beach"])
    for method, cls in METHODS.items():
        prompts.check_for(method, cls.needs)
    common = prompts.groups[0].common
    assert common.spurious == ("A photo of a sunny day.", "A photo of a rainy day.")
    assert common.candidates == ("A photo of the beach, a sunny day.", "A photo of the beach, a rainy day.")
    assert common.harmful == (common.spurious,)
    assert common.helpful[0] == ("A photo of the beach.", "A photo of a day.")


def test_queries_stay_as_they_were_written() -> None:
    queries = ["A photo of a doctor.", "doctor", "a {strange} query", "médico", "all"]
    groups = load_bias(own()).prompts(queries).groups
    assert [group.queries for group in groups] == [(query,) for query in queries]
    assert groups[2].common.candidates[0] == "A photo of a {strange} query, a sunny day."


@pytest.mark.parametrize(
    ("query", "about"),
    [
        ("A photo of a doctor.", "a doctor"),
        ("an image showing two dogs", "two dogs"),
        ("the Picture of Dorian Gray", "Dorian Gray"),
        ("doctor", "doctor"),
        ("医者の写真。", "医者の写真"),
        ("A photo of", "A photo of"),
        ("...", "..."),
        ("a photographer", "a photographer"),
    ],
)
def test_what_a_query_is_about(query: str, about: str) -> None:
    assert bare(query) == about


def test_every_two_classes_make_a_harmful_pair() -> None:
    common = load_bias("race").prompts(["a nurse"]).groups[0].common
    assert common.harmful == tuple(itertools.combinations(common.spurious, 2))


def test_own_prompts_replace_those_that_are_made() -> None:
    bias = load_bias(own(paraphrases={"all": ["Here is {query}."], "surf": ["A big wave."], "x": ["y"]}))
    groups = bias.prompts(["surf", "a tree"]).groups
    assert groups[0].common.paraphrases == (("A big wave.",),)
    assert groups[1].common.paraphrases == (("Here is a tree.",),)


@pytest.mark.parametrize(
    "kind", ["spurious", "candidates", "augmentations", "paraphrases", "harmful", "helpful"]
)
def test_every_kind_may_be_given_by_query(kind: str) -> None:
    own_list = [["A wave.", "A wall."]] if kind in ("harmful", "helpful") else ["A wave."]
    made = load_bias(own()).prompts(["a tree", "all"]).groups
    surf, tree, named_all = (
        load_bias(own(**{kind: {"surf": own_list}})).prompts(["surf", "a tree", "all"]).groups
    )
    expected = (("A wave.", "A wall."),) if kind in ("harmful", "helpful") else ("A wave.",)
    assert getattr(surf.common, kind) == ((expected,) if kind == "paraphrases" else expected)
    assert (tree.common, named_all.common) == (made[0].common, made[1].common)


@pytest.mark.parametrize(
    "text",
    [
        "paraphrases: &a [*a]",
        "own: &a {sunny: *a}",
        "paraphrases: [" + "&b [" + "x, " * 99 + "x]" + "]\nhelpful:\n" + "- [*b, *b]\n" * 2000,
        "templates:\n- &x [" + "a, " * 99 + "]\n- &y [" + "*x, " * 99 + "]\n- &z [" + "*y, " * 99 + "]",
        "templates: [&x '" + "{noun}" * 10_000 + "'" + ", *x" * 1000 + "]",
    ],
)
def test_aliases_that_stand_for_too_much(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.yml").write_text(f"bias: weather\nnoun: day\nclasses: [sunny, rainy]\n{text}\n")
    with pytest.raises(InputError, match="when its aliases"):
        load_bias(tmp_path / "b.yml")


def test_words_of_a_class_may_differ_from_its_name() -> None:
    bias = load_bias(own(classes={"1": ["sunny", "bright"], "2": "rainy"}, templates=["It is {bias}."]))
    group = bias.prompts(["a tree"]).groups[0]
    assert bias.classes == ("1", "2")
    assert group.common.bias_prompts["1"] == ("It is sunny.", "It is bright.")


def test_the_digest_belongs_to_the_prompts() -> None:
    digests = {load_bias(own(**c)).digest for c in ({}, {"noun": "hour"}, {"spurious": ["{a_bias} sky"]})}
    assert len(digests) == 3
    assert load_bias(own()).digest == load_bias(own()).digest


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"noun": None}, "the key 'noun' is missing"),
        ({"classes": None}, "the key 'classes' is missing"),
        ({"classes": ["sunny"]}, "'classes' must hold at least two, found: sunny"),
        ({"templates": None}, "no bias prompts for 'sunny'"),
        ({"templates": ["A {bais} day."]}, "unknown placeholder 'bais'"),
        ({"candidates": ["{query} and {this}"]}, "unknown placeholder 'this'"),
        ({"tempaltes": []}, "unknown key 'tempaltes'"),
        ({"like": "nowhere"}, "prompt file not found"),
        ({"like": "fairface"}, "unknown bias attribute 'weather'"),
        ({"helpful": ["one"]}, "must be a pair"),
        ({"diverse": {}}, "'diverse' must hold sentences"),
        ({"paraphrases": {"surf": "one"}}, "the entries of 'surf' must be a list, found 'one'"),
        ({"paraphrases": {"surf": None}}, "the entries of 'surf' must be a list, found nothing"),
        ({"paraphrases": {"surf": ["{this}"]}}, "unknown placeholder 'this'"),
        ({"candidates": {3: ["a"]}}, "3 is no query; put texts in quotes"),
        ({"own": {"windy": ["A storm."]}}, "unknown key 'windy'"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        load_bias(own(**changes))


def test_unknown_names_list_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown bias 'gendre'; choose from: age, "):
        load_bias("gendre")
    with pytest.raises(InputError, match="bias file not found"):
        load_bias(tmp_path / "none.yml")


def test_a_blank_query_is_an_error() -> None:
    with pytest.raises(InputError, match="query 2 is blank"):
        load_bias("age").prompts(["a nurse", "  "])
