"""Prompts and texts of Portraits use only words that its tiny CLIP has seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.prompts.bias_corpora import load_corpus
from bias_evaluation.prompts.prism_texts import load_text_sets
from bias_evaluation.prompts.sentences import load_prompts
from bias_evaluation.prompts.study_config import load_study_config
from debiasing_methods.base import PROMPT_KINDS
from demo.portraits.__main__ import text_corpus
from demo.portraits.world import HOBBIES, ROLES, TRAITS, World
from safe_io.checkout import ROOT

CONFIG = ROOT / "config"
SETTINGS = ("blond_gender", "haircolor_gender", "role_gender", "trait_gender", "hobby_skin")
KINDS = frozenset(PROMPT_KINDS)


def words(sentences: list[str]) -> set[str]:
    return {word.strip(".,").lower() for sentence in sentences for word in sentence.split()}


def sources() -> Iterator[tuple[str, list[str]]]:
    for setting in SETTINGS:
        yield (
            setting,
            load_prompts(CONFIG / "prompts" / "default", "portraits", setting).sentences("any", KINDS),
        )
    names = ("blond_", "haircolor_", "role_", "trait_", "hobby_")
    sets = load_text_sets(CONFIG / "prism" / "default").items()
    yield "prism", [t for (_, n), s in sets if n.startswith(names) for t in s.sentences()]
    yield "zsdebias", load_corpus(CONFIG / "zsdebias" / "default.yml", "portrait")
    study = load_study_config(CONFIG / "studies" / "portraits.yml")
    sentences = [t for bias in study.biases for t in study.probe_sentences(bias).sentences]
    for frame in (study.qualitative.query, *study.qualitative.paraphrases):
        sentences += [t for subject in study.subjects for t in study.qualitative.wordings(frame, subject)]
    yield "studies", [*sentences, *study.qualitative.spurious]


@pytest.fixture(scope="module")
def known() -> set[str]:
    return words(text_corpus(8000, 0, World()))


@pytest.mark.parametrize(
    ("name", "sentences"), list(sources()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_words_have_been_seen(known: set[str], name: str, sentences: list[str]) -> None:
    assert len(sentences) > 100
    assert words(sentences) <= known


@pytest.mark.parametrize(
    ("setting", "kinds"), [("role_gender", ROLES), ("trait_gender", TRAITS), ("hobby_skin", HOBBIES)]
)
def test_every_kind_of_the_world_is_queried(setting: str, kinds) -> None:
    groups = load_prompts(CONFIG / "prompts" / "default", "portraits", setting).groups
    assert [g.name.replace("_", " ") for g in groups] == list(kinds)
    for group in groups:
        assert group.name.replace("_", " ") in group.queries[0]


def test_diverse_prompts_name_no_gender_and_no_skin() -> None:
    diverse = load_prompts(CONFIG / "prompts" / "default", "portraits", "role_gender").diverse
    assert len(set(diverse)) == 352
    named = {"woman", "man", "female", "male", "lady", "gentleman", "girl", "guy", "skin", "beard"}
    assert not named & words(list(diverse))


def test_labels_name_the_values_of_the_world() -> None:
    config = load_dataset_config(CONFIG / "portraits.yml")
    assert config.settings["role_gender"].query_labels == {role: ("role", role) for role in ROLES}
