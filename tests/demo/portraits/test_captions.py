"""Captions of Portraits: they say what the picture shows, and nothing else."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from demo.portraits import captions
from demo.portraits.captions import choose_facts, write_caption
from demo.portraits.world import HOBBIES, ROLES, TRAITS, World, draw_people

PEOPLE = draw_people(1500, np.random.default_rng(0), World(), biased=True).to_dict("records")
EVERY = {
    name: {v: v for v in kinds} for name, kinds in (("role", ROLES), ("trait", TRAITS), ("hobby", HOBBIES))
}


def sentences(mentions: dict[str, float]) -> list[tuple[dict[str, str], str]]:
    rng = random.Random(0)
    chosen = [choose_facts(person, mentions, rng) for person in PEOPLE]
    return [(facts, write_caption(facts, rng)) for facts in chosen]


def test_articles_fit_their_words() -> None:
    for _, sentence in sentences(World().mentions):
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", sentence, re.IGNORECASE), sentence


@pytest.mark.parametrize("name", ["role", "trait", "hobby"])
def test_occupations_are_said_as_they_are(name: str) -> None:
    for facts, sentence in sentences({name: 1.0}):
        said = [v for v in EVERY[name] if re.search(rf"\b{v}\b", sentence)]
        assert said == [facts[name]]


def test_nothing_is_said_that_was_not_chosen() -> None:
    words = {w for nouns in captions.GENDER_NOUNS.values() for n in nouns for w in n.split()} - {"person"}
    words |= set(captions.GENDER_ADJECTIVES.values())
    for facts, sentence in sentences({**World().mentions, "gender": 0.5}):
        said = words & set(re.findall(r"[a-z]+", sentence.lower()))
        assert bool(said) == ("gender" in facts), sentence


def test_mentions_come_with_their_shares() -> None:
    chosen = [facts for facts, _ in sentences({"role": 1.0, "background": 0.25, "hat": 1.0})]
    assert np.mean(["background" in f for f in chosen]) == pytest.approx(0.25, abs=0.04)
    assert all(("hat" in f) == (p["hat"] != "none") for f, p in zip(chosen, PEOPLE, strict=True))


def test_a_caption_says_at_least_who_it_is() -> None:
    core = {"role", "trait", "hobby", "gender", "hair", "skin"}
    assert all(core & set(facts) for facts, _ in sentences(World().mentions))
    assert all({"gender", "skin"} & set(facts) for facts, _ in sentences(dict(captions.READING_MENTIONS)))


def test_the_first_stage_names_no_role_and_no_hair_color() -> None:
    colors = {phrase for phrases in captions.HAIR.values() for phrase in phrases}
    for _, sentence in sentences(dict(captions.READING_MENTIONS)):
        assert not any(phrase in sentence for phrase in colors)
        assert not any(re.search(rf"\b{kind}\b", sentence) for kinds in EVERY.values() for kind in kinds)
