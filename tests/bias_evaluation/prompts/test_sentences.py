"""Prompt sets: how compact YAML expands, the release's form, and what shares one tensor."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.prompts.official import CLASS_PROMPTS, is_official, load_official
from bias_evaluation.prompts.sentences import (
    GroupEmbedder,
    PromptGroup,
    SettingPrompts,
    article,
    load_prompts,
)
from debiasing_methods.registry import METHODS, get_method
from safe_io.checkout import ROOT
from safe_io.errors import InputError

NOTHING: frozenset[str] = frozenset()

GENDER = {"classes": ["Male", "Female"], "templates": ["A {bias}.", "{a_bias} there"]}


def load(tmp_path: Path, setting: dict[str, Any], **changes: Any) -> SettingPrompts:
    """Load one setting of a prompt file that is made of it."""
    document = {"bias": {"gender": GENDER}, "settings": {"s": {"bias": "gender", **setting}}} | changes
    folder = tmp_path / "config" / "prompts" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "celeba.yml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return load_prompts(folder, "celeba", "s")


def one_group(tmp_path: Path, **setting: Any) -> PromptGroup:
    """Load a setting of the queries thief and old_hacker asked together."""
    setting = {"queries": ["thief", "old_hacker"], "query": "A {query}.", "together": True} | setting
    [group] = load(tmp_path, setting).groups
    return group


# --- queries ----------------------------------------------------------------------------------------------


def test_queries_are_groups_of_their_own(tmp_path: Path) -> None:
    prompts = load(tmp_path, {"queries": ["Thief", "Old_Addict"], "query": "A photo of {a_query}."})
    assert [(g.name, g.queries) for g in prompts.groups] == [
        ("Thief", ("A photo of a thief.",)),  # lower case
        ("Old_Addict", ("A photo of an old addict.",)),  # "_" is a space
    ]
    assert prompts.source.endswith("celeba.yml")


def test_classes_form_one_group(tmp_path: Path) -> None:
    group = one_group(tmp_path)
    assert (group.name, group.queries) == ("s", ("A thief.", "A old hacker."))


def test_queries_may_say_how_they_are_spoken(tmp_path: Path) -> None:
    queries = {"Blond_Hair": "BLOND hair", "Gray_Hair": "gray"}
    prompts = load(tmp_path, {"queries": queries, "query": "{query}"})
    assert [(g.name, g.queries) for g in prompts.groups] == [
        ("Blond_Hair", ("BLOND hair",)),  # as it is written
        ("Gray_Hair", ("gray",)),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("addict", "an addict"),
        ("East Asian", "an East Asian"),
        ("insane person", "an insane person"),
        ("old man", "an old man"),
        ("umbrella", "an umbrella"),
        ("thief", "a thief"),
        ("Male", "a Male"),
        ("young man", "a young man"),
    ],
)
def test_article(words: str, expected: str) -> None:
    assert article(words) == expected


# --- bias prompts -----------------------------------------------------------------------------------------


def test_bias_prompts_are_templates_then_the_classs_own(tmp_path: Path) -> None:
    bias = {"gender": {**GENDER, "classes": ["Male", "old_female"], "own": {"Male": ["He."]}}}
    prompts = load(tmp_path, {"queries": ["thief"], "query": "{query}"}, bias=bias)
    assert prompts.groups[0].common.bias_prompts == {
        "Male": ("A male.", "a male there", "He."),
        "old_female": ("A old female.", "an old female there"),
    }


def test_a_bias_class_may_have_several_words(tmp_path: Path) -> None:
    classes = {"warm": ["red", "orange"], "cold": "blue"}
    bias = {"gender": {"classes": classes, "templates": ["A {bias} wall.", "Near {a_bias} one."]}}
    prompts = load(tmp_path, {"queries": ["cat"], "query": "{query}", "spurious": ["{bias}!"]}, bias=bias)
    assert prompts.groups[0].common.bias_prompts == {
        "warm": ("A red wall.", "A orange wall.", "Near a red one.", "Near an orange one."),
        "cold": ("A blue wall.", "Near a blue one."),
    }
    assert prompts.groups[0].common.spurious == ("red!", "orange!", "blue!")


# --- kinds of prompts -------------------------------------------------------------------------------------


def test_spurious_prompts_expand_over_bias_classes(tmp_path: Path) -> None:
    group = one_group(tmp_path, spurious=["A {bias} person.", "Nobody.", "Here is {a_bias}."])
    assert group.common.spurious == (
        "A male person.",
        "A female person.",
        "Nobody.",
        "Here is a male.",
        "Here is a female.",
    )


def test_candidates_go_query_by_query_with_pairs_within_one(tmp_path: Path) -> None:
    group = one_group(tmp_path, candidates=["A {bias} {query}.", "The {query}."])
    assert group.common.candidates == (
        "A male thief.",
        "A female thief.",
        "The thief.",
        "A male old hacker.",
        "A female old hacker.",
        "The old hacker.",
    )
    assert group.common.candidate_pairs == ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5))
    assert group.common.augmentations == group.common.candidates  # unless they are given
    own = one_group(tmp_path, candidates=["A {bias} {query}."], augmentations=["{query} {bias}"])
    assert own.common.augmentations == ("thief male", "thief female", "old hacker male", "old hacker female")
    assert own.common.candidate_pairs == ((0, 1), (2, 3))


def test_pairs_stay_within_a_query_where_queries_have_unequally_many(tmp_path: Path) -> None:
    group = one_group(tmp_path, candidates={"all": ["A {bias} {query}."], "thief": ["The {query}."]})
    assert group.common.candidates == (
        "A male thief.",
        "A female thief.",
        "The thief.",
        "A male old hacker.",
        "A female old hacker.",
    )
    assert group.common.candidate_pairs == ((0, 1), (0, 2), (1, 2), (3, 4))


def test_lists_by_query_add_to_those_of_all(tmp_path: Path) -> None:
    paraphrases = {"all": ["See the {query}."], "thief": ["A robber."], "old_hacker": ["A coder."]}
    group = one_group(tmp_path, paraphrases=paraphrases)
    assert group.common.paraphrases == (
        ("See the thief.", "A robber."),
        ("See the old hacker.", "A coder."),
    )
    alone = load(
        tmp_path, {"queries": ["thief", "felon"], "query": "{query}", "paraphrases": ["{query}", "x"]}
    )
    assert [g.common.paraphrases for g in alone.groups] == [(("thief", "x"),), (("felon", "x"),)]


def test_pairs_of_all_queries_of_a_group_without_repetitions(tmp_path: Path) -> None:
    group = one_group(
        tmp_path,
        harmful=[["rich", "poor"], ["a rich {query}", "a poor {query}"]],
        helpful={"all": [["{query}", "person"]], "thief": [["steals", "gives"]]},
    )
    assert group.common.harmful == (
        ("rich", "poor"),
        ("a rich thief", "a poor thief"),
        ("a rich old hacker", "a poor old hacker"),
    )
    assert group.common.helpful == (("thief", "person"), ("steals", "gives"), ("old hacker", "person"))


def test_overrides_replace_kinds_for_one_method(tmp_path: Path) -> None:
    group = one_group(
        tmp_path,
        spurious=["A {bias} person."],
        candidates=["A {bias} {query}."],
        overrides={"bendvlm": {"spurious": ["{bias}"], "augmentations": ["{query} {bias}"]}},
    )
    needs = get_method("bendvlm").needs
    bend, cali = group.for_method("bendvlm", needs), group.for_method("orth-cali", frozenset({"spurious"}))
    assert bend.spurious == ("male", "female")
    assert bend.augmentations == ("thief male", "thief female", "old hacker male", "old hacker female")
    assert cali.spurious == ("A male person.", "A female person.")


def test_methods_get_what_they_need_and_no_more(tmp_path: Path) -> None:
    group = one_group(
        tmp_path,
        spurious=["{bias}"],
        candidates=["{bias} {query}"],
        harmful=[["a", "b"]],
        helpful=[["c", "d"]],
        paraphrases=["the {query}"],
    )
    empty = group.for_method("vanilla", NOTHING)
    assert list(empty.sentences()) == []
    cali = group.for_method("orth-cali", get_method("orth-cali").needs)
    assert (cali.candidate_pairs, cali.harmful, cali.augmentations) == (((0, 1), (2, 3)), (), ())
    shot = group.for_method("roboshot", get_method("roboshot").needs)
    assert list(shot.sentences()) == ["a", "b", "c", "d"]
    sem = group.for_method("sem-bi", get_method("sem-bi").needs)
    assert sem.paraphrases == (("the thief",), ("the old hacker",))
    assert list(sem.bias_prompts) == ["Male", "Female"]


# --- diverse prompts --------------------------------------------------------------------------------------


def test_diverse_prompts_are_frames_times_words(tmp_path: Path) -> None:
    words = {"animal": ["owl", "dog"], "place": ["sea", "hill"]}
    frames = ["{a_animal} by the {place}", "Just {animal}.", "Nothing.", "Just {animal}."]
    setting = {"queries": ["thief"], "query": "{query}"}
    prompts = load(tmp_path, setting, diverse={"words": words, "frames": frames})
    assert prompts.diverse == (
        "an owl by the sea",
        "an owl by the hill",
        "a dog by the sea",
        "a dog by the hill",
        "Just owl.",
        "Just dog.",
        "Nothing.",  # and no repetition
    )
    assert load(tmp_path, setting).diverse == ()


def test_sentences_of_a_method_are_distinct_and_in_order(tmp_path: Path) -> None:
    setting = {"queries": ["thief", "felon"], "query": "{query}", "paraphrases": ["{query}", "x", "{query}!"]}
    prompts = load(tmp_path, setting, diverse={"frames": ["x", "y"]})
    assert prompts.sentences("sem-i", get_method("sem-i").needs) == [
        "x",
        "y",
        "thief",
        "thief!",
        "felon",
        "felon!",
    ]
    assert prompts.sentences("vanilla", NOTHING) == ["thief", "felon"]


def test_what_a_result_depends_on(tmp_path: Path) -> None:
    setting = {"queries": ["thief"], "query": "{query}", "paraphrases": ["x"], "spurious": ["{bias}"]}
    needs = get_method("sem-i").needs
    first = load(tmp_path, setting, diverse={"frames": ["x"]}).used_by("sem-i", needs)
    other = load(tmp_path, setting | {"spurious": ["no"]}, diverse={"frames": ["x"]})
    assert other.used_by("sem-i", needs) == first  # another method's prompts
    assert load(tmp_path, setting, diverse={"frames": ["y"]}).used_by("sem-i", needs) != first
    changed = load(tmp_path, setting | {"paraphrases": ["y"]}, diverse={"frames": ["x"]})
    assert changed.used_by("sem-i", needs) != first


def test_a_method_without_its_prompts_is_told(tmp_path: Path) -> None:
    prompts = load(tmp_path, {"queries": ["thief"], "query": "{query}", "paraphrases": ["x"]})
    prompts.check_for("vanilla", NOTHING)
    for method, kind in (("sem-i", "diverse"), ("orth-proj", "spurious"), ("roboshot", "harmful")):
        with pytest.raises(InputError) as error:
            prompts.check_for(method, get_method(method).needs)
        assert f"{method} needs {kind} for 'thief', but " in str(error.value)
        assert "celeba.yml has none" in str(error.value)


# --- what is refused --------------------------------------------------------------------------------------

BASE = {"queries": ["thief", "felon"], "query": "{query}"}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "placeholder in a query": (
        {"query": "A {quary}."},
        {},
        ["s: 'A {quary}.': unknown placeholder 'quary'; choose from: a_query, query; did you mean 'query'?"],
    ),
    "placeholder in a list": (
        {"spurious": ["A {query}."]},
        {},
        ["'A {query}.': unknown placeholder 'query'; choose from: "],
    ),
    "placeholder in a diverse frame": (
        {},
        {"diverse": {"words": {"animal": ["owl"]}, "frames": ["The {animl}."]}},
        ["diverse: 'The {animl}.': unknown placeholder 'animl'; choose from: animal"],
    ),
    "braces": ({"spurious": ["A {bias-class}."]}, {}, ["'A {bias-class}.' has braces that are no place"]),
    "empty braces": ({"paraphrases": ["A {}."]}, {}, ["'A {}.' has braces that are no placeholder"]),
    "one brace": ({"query": "A {query"}, {}, ["'A {query' has braces that are no placeholder"]),
    "conversion": ({"query": "A {query!r}"}, {}, ["'A {query!r}' has braces that are no placeholder"]),
    "braces in a diverse frame": (
        {},
        {"diverse": {"frames": ["The {owl."]}},
        ["diverse: 'The {owl.' has braces that are no placeholder"],
    ),
    "bias in a query": (
        {"query": "A {bias} {query}."},
        {},
        ["'A {bias} {query}.' gives 2 sentences; there must be one a query"],
    ),
    "bias in a pair": ({"harmful": [["A {bias}.", "b"]]}, {}, ["'A {bias}.' gives 2 sentences"]),
    "spurious empty": ({"spurious": []}, {}, ["'spurious' must be a list with at least one text"]),
    "spurious a text": ({"spurious": "A {bias}."}, {}, ["'spurious' must be a list with at least one text"]),
    "spurious with a number": ({"spurious": [3]}, {}, ["'spurious' must hold texts only, found 3"]),
    "blank sentence": ({"spurious": [" "]}, {}, ["'spurious' must hold texts only, found ' '"]),
    "paraphrases empty": ({"paraphrases": []}, {}, ["'paraphrases': no entries for 'thief'"]),
    "paraphrases of one query": (
        {"paraphrases": {"thief": ["x"]}},
        {},
        ["'paraphrases': no entries for 'felon'"],
    ),
    "paraphrases a text": (
        {"paraphrases": "The {query}."},
        {},
        ["'paraphrases'", "must be a list, found 'The {query}.'"],
    ),
    "paraphrases of all a text": (
        {"paraphrases": {"all": "The {query}."}},
        {},
        ["'paraphrases': the entries of 'all' must be a list, found 'The {query}.'"],
    ),
    "list of an unknown query": (
        {"paraphrases": {"all": ["x"], "theif": ["y"]}},
        {},
        ["'paraphrases': unknown query 'theif'; choose from: all, thief, felon; did you mean 'thief'?"],
    ),
    "pair of three": (
        {"helpful": [["a", "b", "c"]]},
        {},
        ["'helpful': each entry must be a pair of texts, found ['a', 'b', 'c']"],
    ),
    "pair of numbers": ({"helpful": [[1, 2]]}, {}, ["'helpful' must hold texts only, found 1"]),
    "pairs empty": ({"helpful": []}, {}, ["'helpful': no entries for 'thief'"]),
    "queries missing": ({"queries": None}, {}, ["'queries' must be a list with at least one text"]),
    "queries empty": ({"queries": []}, {}, ["'queries' must be a list with at least one text"]),
    "queries empty mapping": ({"queries": {}}, {}, ["'queries' must hold at least one class"]),
    "query with several words": (
        {"queries": {"a": ["b", "c"]}},
        {},
        ["query 'a' has several words; only bias classes may"],
    ),
    "query a number": ({"query": 3}, {}, ["'query' must be text, found 3"]),
    "together a text": ({"together": "yes"}, {}, ["'together' must be true or false, found 'yes'"]),
    "unknown kind": (
        {"paraphrase": ["x"]},
        {},
        ["s: unknown key 'paraphrase'; choose from: ", "did you mean 'paraphrases'?"],
    ),
    "unknown bias attribute": (
        {"bias": "race"},
        {},
        ["s: unknown 'bias' 'race'; choose from: gender"],
    ),
    "override of an unknown method": (
        {"overrides": {"bendvml": {"spurious": ["x"]}}},
        {},
        ["overrides: unknown method 'bendvml'; choose from: vanilla", "did you mean 'bendvlm'?"],
    ),
    "override of an unknown kind": (
        {"overrides": {"bendvlm": {"bias_prompts": ["x"]}}},
        {},
        ["unknown kind of prompt 'bias_prompts'; choose from: spurious, candidates"],
    ),
    "bias without prompts": (
        {},
        {"bias": {"gender": {"classes": ["a", "b"], "own": {"a": ["x"]}}}},
        ["bias: gender: no bias prompts for 'b'; give 'templates' or 'own: b'"],
    ),
    "own prompts of an unknown class": (
        {},
        {"bias": {"gender": {**GENDER, "own": {"male": ["x"]}}}},
        ["bias: gender: own: unknown key 'male'; choose from: Male, Female; did you mean 'Male'?"],
    ),
    "bias with an unknown key": (
        {},
        {"bias": {"gender": {**GENDER, "template": ["x"]}}},
        ["bias: gender: unknown key 'template'", "did you mean 'templates'?"],
    ),
    "bias classes empty": (
        {},
        {"bias": {"gender": {"classes": {}, "templates": ["x"]}}},
        ["bias: gender: 'classes' must hold at least one class"],
    ),
    "diverse without frames": (
        {},
        {"diverse": {"words": {"a": ["b"]}}},
        ["diverse: the key 'frames' is missing"],
    ),
    "diverse frames empty": (
        {},
        {"diverse": {"frames": []}},
        ["diverse: 'frames' must be a list with at least one text"],
    ),
    "unknown part of the file": (
        {},
        {"divers": {}},
        ["unknown key 'divers'; choose from: settings, bias, diverse; did you mean 'diverse'?"],
    ),
    "unknown setting": ({}, {"settings": {"S": {}}}, ["unknown setting 's'; choose from: S"]),
}


@pytest.mark.parametrize(("setting", "changes", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_prompt_file_is_one_line(
    tmp_path: Path, setting: dict[str, Any], changes: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, BASE | setting, **changes)
    message = str(error.value)
    assert "\n" not in message
    assert "celeba.yml" in message
    for part in expected:
        assert part in message


def test_unknown_set_and_missing_file(tmp_path: Path) -> None:
    load(tmp_path, BASE)
    prompts = tmp_path / "config" / "prompts"
    with pytest.raises(InputError, match=r"prompts: unknown prompt set 'min'; choose from: mine; did"):
        load_prompts(prompts / "min", "celeba", "s")
    with pytest.raises(InputError, match=r"prompt file not found: .*utkface\.yml"):
        load_prompts(prompts / "mine", "utkface", "s")


# --- embeddings -------------------------------------------------------------------------------------------


class Counter:
    """Stands in for a text tower: a random vector a sentence, and a record of what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.known: dict[str, Tensor] = {}

    def __call__(self, sentences: tuple[str, ...]) -> Tensor:
        self.asked.append(sentences)
        generator = torch.Generator().manual_seed(len(self.known))
        for sentence in sentences:
            self.known.setdefault(sentence, torch.randn(6, generator=generator))
        return torch.stack([self.known[s] for s in sentences])


def test_equal_lists_share_one_tensor(tmp_path: Path) -> None:
    setting = {
        **BASE,
        "spurious": ["{bias}"],
        "candidates": ["{bias} {query}"],
        "harmful": [["rich", "poor"], ["x", "y"]],
        "helpful": [["{query}", "person"]],
        "paraphrases": ["the {query}"],
    }
    prompts, counter = load(tmp_path, setting), Counter()
    embedder, needs = GroupEmbedder(counter), frozenset().union(*(m.needs for m in METHODS.values()))
    first, second = (embedder.group(g, "any", needs) for g in prompts.groups)
    assert first.spurious is second.spurious
    assert first.harmful is second.harmful
    assert first.helpful is not second.helpful
    assert all(a is b for a, b in zip(first.bias_prompts, second.bias_prompts, strict=True))
    assert first.augmentations is first.candidates
    assert len(counter.asked) == len(set(counter.asked))  # nothing is embedded twice
    again = embedder.group(prompts.groups[0], "other", needs)
    assert again.queries is first.queries
    assert again.helpful is first.helpful


def test_embedded_groups_hold_their_sentences_in_order(tmp_path: Path) -> None:
    group = one_group(
        tmp_path,
        spurious=["{bias}"],
        candidates=["{bias} {query}"],
        harmful=[["a", "b"], ["c", "d"], ["a", "d"]],
        helpful=[["{query}", "e"]],
        paraphrases={"all": ["the {query}", "x"], "thief": ["y"]},
    )
    counter = Counter()
    embedded = GroupEmbedder(counter).group(
        group, "any", frozenset().union(*(m.needs for m in METHODS.values()))
    )

    def rows(*sentences: str) -> Tensor:
        return torch.stack([counter.known[s] for s in sentences])

    assert embedded.name == "s"
    torch.testing.assert_close(embedded.queries, rows("A thief.", "A old hacker."), rtol=0, atol=0)
    torch.testing.assert_close(embedded.spurious, rows("male", "female"), rtol=0, atol=0)
    assert embedded.candidate_pairs.tolist() == [[0, 1], [2, 3]]
    assert embedded.harmful.shape == (3, 2, 6)
    torch.testing.assert_close(embedded.harmful[:, 0], rows("a", "c", "a"), rtol=0, atol=0)
    torch.testing.assert_close(embedded.harmful[:, 1], rows("b", "d", "d"), rtol=0, atol=0)
    torch.testing.assert_close(embedded.helpful[1], rows("old hacker", "e"), rtol=0, atol=0)
    assert [len(p) for p in embedded.paraphrases] == [3, 2]
    torch.testing.assert_close(embedded.paraphrases[1], rows("the old hacker", "x"), rtol=0, atol=0)
    torch.testing.assert_close(embedded.bias_prompts[1], rows("A female.", "a female there"), rtol=0, atol=0)
    bare = GroupEmbedder(Counter()).group(group, "vanilla", NOTHING)
    assert (bare.spurious, bare.candidates, bare.harmful, bare.candidate_pairs) == (None, None, None, None)
    assert (bare.paraphrases, bare.bias_prompts) == ((), ())


# --- the release's form -----------------------------------------------------------------------------------

QUERY_FILE = {
    "thief": {
        "query": "One thief.",
        "extra prompts": {
            "vanilla": {},
            "prism": {},
            "orth_proj": {"spurious prompts": ["m", "f"]},
            "orth_cali": {"spurious prompts": ["m2", "f2"], "candidate prompts": ["m thief", "f thief"]},
            "bendvlm": {"spurious prompts": ["m3"], "augmentations": ["thief m", "thief f"]},
            "roboshot": {"harmful prompts": [["a", "b"]], "helpful prompts": [["c", "d"], ["e", "f"]]},
            "sem": {
                "extra class prompts": [["p1", "p2"]],
                "bias prompts": {"Male": ["he", "him"], "Female": ["she"]},
            },
            "bendsem": {"extra class prompts": [["p3"]], "bias prompts": {"Male": ["he"], "Female": ["her"]}},
        },
    }
}


def write_official(folder: Path, queries: Any = QUERY_FILE, classes: Any = None) -> Path:
    """Write a prompt set in the release's form."""
    for part in ("query_templates", "prompt_templates"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "diverse_prompts.json").write_text(json.dumps(["one", "two"]))
    (folder / "query_templates" / "stereotype_gender_query_templates.json").write_text(json.dumps(queries))
    if classes is not None:
        path = folder / "prompt_templates" / "waterbirds_prompt_templates.json"
        path.write_text(json.dumps(classes))
    return folder


def test_official_queries(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "official")
    assert is_official(folder)
    assert not is_official(tmp_path)
    prompts = load_official(folder, "stereotype_gender")
    [group] = prompts.groups
    assert (group.name, group.queries, prompts.diverse) == ("thief", ("One thief.",), ("one", "two"))

    def needed(method: str) -> Any:
        return group.for_method(method, get_method(method).needs)

    assert needed("orth-proj").spurious == ("m", "f")
    assert (needed("orth-cali").spurious, needed("orth-cali").candidates) == (
        ("m2", "f2"),
        ("m thief", "f thief"),
    )
    assert needed("orth-cali").candidate_pairs == ()  # the method takes every two
    assert needed("bendvlm").augmentations == ("thief m", "thief f")
    assert needed("roboshot").harmful == (("a", "b"),)
    assert needed("roboshot").helpful == (("c", "d"), ("e", "f"))
    for method in ("sem-bi", "sem-i"):
        assert needed(method).paraphrases == (("p1", "p2"),)
    for method in ("sem-bi", "sem-b"):
        assert needed(method).bias_prompts == {"Male": ("he", "him"), "Female": ("she",)}
    assert needed("bendsem-bi").paraphrases == (("p3",),)
    assert list(needed("vanilla").sentences()) == []


def test_official_classes(tmp_path: Path) -> None:
    extra = {
        "orth_cali": {
            "spurious prompts": ["s"],
            "candidate prompts": ["a", "b", "c", "d"],
            "S": [[0, 1], [2, 3]],
        },
        "sem": {"extra class prompts": [["l1", "l2"], ["w1"]], "bias prompts": {"land": ["x"]}},
    }
    folder = write_official(tmp_path / "official", classes={"extra prompts": extra})
    [group] = load_official(folder, "waterbirds").groups
    assert (group.name, group.queries) == ("waterbirds", CLASS_PROMPTS["waterbirds"])
    assert group.for_method("orth-cali", get_method("orth-cali").needs).candidate_pairs == ((0, 1), (2, 3))
    assert group.for_method("sem-i", get_method("sem-i").needs).paraphrases == (("l1", "l2"), ("w1",))


def _changed(**extra: Any) -> Any:
    return {"thief": {"query": "One thief.", "extra prompts": extra}}


@pytest.mark.parametrize(
    ("queries", "expected"),
    [
        ([], "a mapping is needed, found an empty list"),
        ({}, "has no query"),
        ({"thief": {"extra prompts": {}}}, "thief: the key 'query' is missing"),
        ({"thief": {"query": "x"}}, "thief: the key 'extra prompts' is missing"),
        (_changed(orth_proj={"spurious": ["x"]}), "orth_proj: unknown key 'spurious'"),
        (_changed(orth_proj={"spurious prompts": []}), "'spurious prompts' must be a list with at least one"),
        (
            _changed(roboshot={"harmful prompts": [["a"]]}),
            "roboshot: pairs of texts are needed, found ['a']",
        ),
        (_changed(roboshot={"helpful prompts": [[1, 2]]}), "pairs of texts are needed, found [1, 2]"),
        (_changed(orth_cali={"S": [["a", "b"]]}), "pairs of whole numbers are needed, found ['a', 'b']"),
        (_changed(sem={"extra class prompts": ["p"]}), "extra class prompts must be a list with at least"),
        (_changed(sem={"bias prompts": {"Male": []}}), "bias prompts of 'Male' must be a list with at least"),
    ],
)
def test_wrong_official_file_is_one_line(tmp_path: Path, queries: Any, expected: str) -> None:
    folder = write_official(tmp_path / "official", queries)
    with pytest.raises(InputError) as error:
        load_official(folder, "stereotype_gender")
    assert "stereotype_gender_query_templates.json" in str(error.value)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_official_files_that_are_missing_or_no_json(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "official", classes={"extra prompts": {}})
    with pytest.raises(InputError, match="prompt set 'official' has no setting 'hair_gender': neither"):
        load_official(folder, "hair_gender")
    templates = folder / "prompt_templates"
    (templates / "waterbirds_prompt_templates.json").rename(templates / "fish_prompt_templates.json")
    with pytest.raises(InputError, match="unknown class setting 'fish'; choose from: celeba_blond_hair"):
        load_official(folder, "fish")
    (folder / "query_templates" / "stereotype_gender_query_templates.json").write_text("{")
    with pytest.raises(InputError, match=r"query templates is not valid JSON: .*stereotype_gender"):
        load_official(folder, "stereotype_gender")


def test_only_methods_that_use_diverse_prompts_need_their_file(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "official", classes={"extra prompts": {"vanilla": {}}})
    (folder / "diverse_prompts.json").unlink()
    prompts = load_official(folder, "waterbirds")
    prompts.check_for("vanilla", frozenset())
    with pytest.raises(InputError, match=r"sem-b needs diverse for 'waterbirds', but .* has none"):
        prompts.check_for("sem-b", frozenset({"diverse"}))


# --- real files -------------------------------------------------------------------------------------------

CONFIGS = ["celeba", "fairface", "utkface", "waterbirds"]


@pytest.mark.parametrize("dataset", CONFIGS)
def test_published_prompts_have_the_protocols_shape(oracle_dir: Path, dataset: str) -> None:
    config = load_dataset_config(ROOT / "config" / f"{dataset}.yml")
    for setting in config.settings.values():
        prompts = load_official(oracle_dir / "official", setting.prompts)
        assert len(prompts.diverse) == 328
        queries = {"stereotype": 25, "hair": 4}.get(setting.query_type, 1)
        classes = len(setting.target.values) if setting.target else 1
        assert [len(g.queries) for g in prompts.groups] == [classes] * queries
        if setting.query_labels:
            assert [g.name for g in prompts.groups] == list(setting.query_labels)
        for name, method in METHODS.items():
            prompts.check_for(name, method.needs)
        for group in prompts.groups:
            sem = group.for_method("sem-bi", get_method("sem-bi").needs)
            assert [len(p) for p in sem.paraphrases] == [10] * classes
            assert [len(p) for p in sem.bias_prompts.values()] == [20] * len(setting.bias.values)
            assert set(sem.bias_prompts) == set(setting.bias.values) or setting.target
            shot = group.for_method("roboshot", get_method("roboshot").needs)
            expected = {"stereotype": ({4, 5}, {3}), "hair": ({5, 6}, {4, 5})}.get(setting.query_type)
            expected = expected or {"waterbirds": ({10}, {6})}.get(setting.name, ({11}, {3}))
            assert len(shot.harmful) in expected[0]
            assert len(shot.helpful) in expected[1]
            cali = group.for_method("orth-cali", get_method("orth-cali").needs)
            counts = (len(cali.spurious), len(cali.candidates), len(cali.candidate_pairs))
            special = {"waterbirds": (8, 10, 20), "celeba_blond_hair_gender": (6, 4, 2)}
            n = len(setting.bias.values)
            assert counts == special.get(setting.name, (n, n, 0))


SHIPPED = sorted(p for p in (ROOT / "config" / "prompts").glob("*/*.yml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_shipped_prompts_serve_every_method(path: Path) -> None:
    config = load_dataset_config(ROOT / "config" / f"{path.stem}.yml")
    for setting in config.settings.values():
        prompts = load_prompts(path.parent, path.stem, setting.prompts)
        for name, method in METHODS.items():
            prompts.check_for(name, method.needs)
        for group in prompts.groups:
            assert len(group.queries) == (len(setting.target.values) if setting.target else 1)
            assert len(group.common.bias_prompts) == len(setting.bias.values)
            sentences = list(group.common.sentences())
            assert not [s for s in itertools.chain(sentences, group.queries) if "{" in s or "  " in s]
        if setting.query_labels:
            assert {g.name for g in prompts.groups} <= set(setting.query_labels)
