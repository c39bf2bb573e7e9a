"""Who lives in Portraits: what is planted in the biased world, and that nothing is in the fair one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from demo.portraits.painter import (
    BACKGROUND_COLORS,
    BEARD,
    CLOTHES,
    CLOTHES_COLORS,
    EYEBROWS,
    EYES,
    GLASSES,
    HAIR,
    HAIR_COLORS,
    HAT,
    MOUTH,
    SKIN_COLORS,
)
from demo.portraits.world import COLUMNS, HOBBIES, ROLES, SKINS, TRAITS, World, draw_people

PALETTES = {
    "background": (BACKGROUND_COLORS,),
    "beard": (BEARD,),
    "clothes": (CLOTHES,),
    "clothes_color": (CLOTHES_COLORS,),
    "expression": (MOUTH, EYES, EYEBROWS),
    "glasses": (GLASSES,),
    "hair": (HAIR_COLORS,),
    "hat": (HAT,),
    "skin": (SKIN_COLORS,),
    "style": (HAIR,),
}


def people(n: int, *, biased: bool, seed: int = 0, **changes: float) -> pd.DataFrame:
    return draw_people(n, np.random.default_rng(seed), replace(World(), **changes), biased=biased)


@pytest.fixture(scope="module")
def fair() -> pd.DataFrame:
    return people(20_000, biased=False)


@pytest.mark.parametrize(
    "pair",
    [
        *itertools.combinations(("role", "trait", "hobby", "gender", "skin", "hair"), 2),
        *((a, b) for a in ("gender", "skin", "hair") for b in ("clothes", "background", "glasses", "hat")),
    ],
    ids="-".join,
)
def test_the_fair_world_has_no_correlation(fair: pd.DataFrame, pair: tuple[str, str]) -> None:
    p = stats.chi2_contingency(pd.crosstab(fair[pair[0]], fair[pair[1]])).pvalue
    assert p > 1e-4


def test_gender_follows_role_and_trait_as_planted() -> None:
    """Log odds add, multiplied by the strength: P(woman) = sigmoid(g (logit r + logit t))."""
    world = people(200_000, biased=True, gender_strength=0.7)
    for role, trait in (("nurse", "gentle"), ("nurse", "bold"), ("pilot", "shy"), ("student", "curious")):
        chosen = world[(world["role"] == role) & (world["trait"] == trait)]["gender"]
        log_odds = sum(np.log(w / (1 - w)) for w in (ROLES[role].goes_with, TRAITS[trait].goes_with))
        expected = 1 / (1 + np.exp(-0.7 * log_odds))
        assert (chosen == "woman").mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / len(chosen)))


def test_skin_follows_the_hobby_as_planted() -> None:
    world = people(60_000, biased=True, skin_strength=0.5)
    for hobby, kind in HOBBIES.items():
        shares = world[world["hobby"] == hobby]["skin"].value_counts(normalize=True)
        weights = np.sqrt(kind.goes_with)
        assert [shares[s] for s in SKINS] == pytest.approx(weights / weights.sum(), abs=0.03)


def test_hobbies_favor_every_skin_tone_equally_often() -> None:
    weights = np.array([kind.goes_with for kind in HOBBIES.values()])
    assert sorted(map(tuple, (weights == 4).sum(0, keepdims=True))) == [(3, 3, 3, 3)]
    assert len(set(weights.sum(0))) == 1


def test_hair_follows_gender_in_the_biased_world() -> None:
    shares = pd.crosstab(*(people(20_000, biased=True)[c] for c in ("gender", "hair")), normalize="index")
    assert shares.loc["woman", "blond"] > 4 * shares.loc["man", "blond"]
    assert shares.loc["man", "black"] > 1.5 * shares.loc["woman", "black"]


def test_a_role_shows_its_looks_with_the_share_that_was_asked_for() -> None:
    drawn = people(100_000, biased=False, role_look=0.5)
    chefs = drawn[drawn["role"] == "chef"]
    assert (chefs["clothes"] == "cook's jacket").mean() == pytest.approx(0.5, abs=0.03)
    assert not (drawn[drawn["role"] != "chef"]["clothes"] == "cook's jacket").any()


def test_every_value_can_be_drawn(fair: pd.DataFrame) -> None:
    assert list(fair) == list(COLUMNS)
    for column, tables in PALETTES.items():
        for table in tables:
            assert set(fair[column]) - {"none"} == set(table)
    for kinds in (ROLES, TRAITS, HOBBIES):
        for attribute, value in ((a, v) for kind in kinds.values() for a, v in kind.looks.items()):
            assert all(value in table for table in PALETTES[attribute])


def test_same_seed_same_people() -> None:
    pd.testing.assert_frame_equal(people(50, biased=True), people(50, biased=True))
    assert not people(50, biased=True).equals(people(50, biased=True, seed=1))
