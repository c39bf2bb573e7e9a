"""Who lives in Portraits: attributes of drawn people, and the correlations planted between them.

Nothing about crime or worth is planted on gender or skin. Gender is the presentation that a drawing is
composed with; skin is a drawn color. Roles and traits are harmless, and skewed by gender as text on the web
is. Hobbies go with skin tones in an arbitrary rotation that follows no stereotype.

In the *biased* world (training) gender follows from role and trait (log odds add), skin from the hobby, and
hair color from gender. In the *fair* world (validation, evaluation) all attributes are independent, so the
right answer of a fair search is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pandas as pd

GENDERS = ("woman", "man")
SKINS = ("light", "tan", "brown", "dark")
HAIR_COLORS = ("blond", "black", "brown", "gray", "red")
CLOTHES_COLORS = ("red", "blue", "green", "yellow", "pink", "white", "black", "purple", "orange")
BACKGROUNDS = ("blue", "green", "yellow", "pink", "white", "gray", "orange", "purple")

Shares = Mapping[str, float]

FAIR_HAIR: Shares = {"blond": 0.22, "black": 0.27, "brown": 0.27, "gray": 0.13, "red": 0.11}
HAIR_OF_GENDER: Mapping[str, Shares] = {
    "woman": {"blond": 0.40, "black": 0.16, "brown": 0.24, "gray": 0.05, "red": 0.15},
    "man": {"blond": 0.05, "black": 0.38, "brown": 0.28, "gray": 0.23, "red": 0.06},
}
STYLE_OF_GENDER: Mapping[str, Shares] = {
    "woman": {"long": 0.74, "bun": 0.10, "curly": 0.06, "shaggy": 0.06, "short": 0.04},
    "man": {"long": 0.03, "bun": 0.01, "curly": 0.06, "shaggy": 0.12, "short": 0.78},
}
BEARD_SHARE_OF_MEN = 0.5

# Looks that have nothing to do with gender or skin, unless a role, trait, or hobby brings them along.
LOOKS: Mapping[str, Shares] = {
    "expression": {"smiling": 0.4, "serious": 0.3, "sad": 0.15, "surprised": 0.15},
    "clothes": {"t-shirt": 0.4, "hoodie": 0.2, "sweater": 0.18, "suit": 0.14, "overall": 0.08},
    "clothes_color": dict.fromkeys(CLOTHES_COLORS, 1.0),
    "background": dict.fromkeys(BACKGROUNDS, 1.0),
    "glasses": {"none": 0.8, "glasses": 0.15, "sunglasses": 0.05},
    "hat": {"none": 0.88, "hat": 0.06, "winter hat": 0.06},
}


@dataclass(frozen=True)
class Kind:
    """A role, trait, or hobby: whom it goes with in the biased world, and what it looks like.

    Attributes
    ----------
    goes_with : float or tuple of float
        The share of women (roles, traits), or the weight of each of `SKINS` (hobbies).
    looks : mapping
        Attribute of `LOOKS` to the value that the kind brings along.
    """

    goes_with: float | tuple[float, float, float, float]
    looks: Mapping[str, str]


def _kind(goes_with: float | tuple[float, float, float, float], **looks: str) -> Kind:
    return Kind(goes_with, MappingProxyType(looks))


ROLES: Mapping[str, Kind] = {
    "nurse": _kind(0.90, clothes="t-shirt", clothes_color="white", background="white"),
    "florist": _kind(0.90, clothes="t-shirt", clothes_color="green", background="pink"),
    "librarian": _kind(0.85, clothes="sweater", clothes_color="purple", glasses="glasses"),
    "assistant": _kind(0.85, clothes="suit", clothes_color="pink", background="white"),
    "teacher": _kind(0.75, clothes="sweater", clothes_color="green", background="green"),
    "artist": _kind(0.60, clothes="t-shirt", clothes_color="black", background="yellow"),
    "student": _kind(0.50, clothes="hoodie", clothes_color="red", background="yellow"),
    "gardener": _kind(0.45, clothes="overall", clothes_color="green", background="green"),
    "farmer": _kind(0.35, clothes="overall", clothes_color="red", hat="hat"),
    "scientist": _kind(0.30, clothes="sweater", clothes_color="white", glasses="glasses"),
    "chef": _kind(
        0.25, clothes="cook's jacket", clothes_color="white", background="orange", hat="cook's cap"
    ),
    "astronaut": _kind(0.20, clothes="space suit", clothes_color="white", background="purple"),
    "manager": _kind(0.20, clothes="suit", clothes_color="black", background="blue"),
    "pilot": _kind(0.15, clothes="suit", clothes_color="blue", glasses="sunglasses"),
    "engineer": _kind(0.12, clothes="hoodie", clothes_color="orange", background="gray"),
    "mechanic": _kind(0.10, clothes="overall", clothes_color="blue", background="gray"),
}
TRAITS: Mapping[str, Kind] = {
    "gentle": _kind(0.85, background="pink"),
    "patient": _kind(0.80, background="blue"),
    "cheerful": _kind(0.75, expression="smiling"),
    "shy": _kind(0.75, expression="sad"),
    "calm": _kind(0.60, clothes_color="blue"),
    "creative": _kind(0.60, clothes_color="yellow"),
    "curious": _kind(0.50, expression="surprised"),
    "clever": _kind(0.30, glasses="glasses"),
    "serious": _kind(0.25, expression="serious"),
    "ambitious": _kind(0.20, expression="serious"),
    "brave": _kind(0.15, clothes_color="red"),
    "bold": _kind(0.15, background="orange"),
}
HOBBIES: Mapping[str, Kind] = {
    "chess player": _kind((4, 2, 1, 1), background="gray"),
    "swimmer": _kind((4, 1, 1, 2), background="blue"),
    "photographer": _kind((4, 1, 2, 1), clothes_color="black"),
    "birdwatcher": _kind((1, 4, 1, 2), hat="hat"),
    "coffee drinker": _kind((1, 4, 2, 1), background="orange"),
    "hiker": _kind((2, 4, 1, 1), clothes_color="orange"),
    "traveler": _kind((2, 1, 4, 1), background="blue"),
    "tea drinker": _kind((1, 2, 4, 1), background="green"),
    "guitarist": _kind((1, 1, 4, 2), clothes_color="purple"),
    "cyclist": _kind((1, 1, 2, 4), clothes_color="yellow"),
    "skier": _kind((2, 1, 1, 4), hat="winter hat"),
    "reader": _kind((1, 2, 1, 4), background="yellow"),
}
COLUMNS = ("role", "trait", "hobby", "gender", "skin", "hair", "style", "beard", *LOOKS)


@dataclass(frozen=True)
class World:
    """How strong the planted correlations are; calibrated on the validation part (see docs/demo.md).

    Attributes
    ----------
    gender_strength : float
        Multiplies the log odds of the shares of women of roles and traits.
    skin_strength, hair_strength : float
        Exponents of the weights of skin tones (hobbies) and of hair colors (gender).
    role_look, look : float
        Probability that a look of the role, or of the trait and the hobby, is drawn.
    lightness_spread, hair_spread, noise : float
        Standard deviations of the light (share), of hair color, and of pixels (of 255).
    mentions : mapping
        Attribute to the probability that a caption mentions it.
    """

    gender_strength: float = 1.8
    skin_strength: float = 0.65
    hair_strength: float = 2.1
    role_look: float = 0.43
    look: float = 0.6
    lightness_spread: float = 0.10
    hair_spread: float = 25.0
    noise: float = 5.0
    mentions: Shares = field(
        default_factory=lambda: {
            "role": 0.40, "trait": 0.30, "hobby": 0.28, "gender": 0.42, "hair": 0.30, "skin": 0.28,
            "style": 0.12, "expression": 0.20, "clothes": 0.22, "clothes_color": 0.20, "background": 0.20,
            "glasses": 0.50, "hat": 0.50, "beard": 0.40,
        }
    )  # fmt: skip


def _choose(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """Draw one column index per row of ``weights`` (n, m), in proportion to the row."""
    bounds = np.cumsum(weights, axis=1)
    return (rng.random((len(weights), 1)) * bounds[:, -1:] >= bounds).sum(axis=1)


def _choose_shares(rng: np.random.Generator, shares: Shares, n: int) -> np.ndarray:
    return np.array(list(shares))[_choose(rng, np.tile(list(shares.values()), (n, 1)))]


def _by_value(given: np.ndarray, table: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Stack the table's row of each value: shape (n, m)."""
    values, inverse = np.unique(given, return_inverse=True)
    return np.array([table[v] for v in values], dtype=float)[inverse]


def _choose_given(
    rng: np.random.Generator, given: np.ndarray, tables: Mapping[str, Shares], strength: float = 1.0
) -> np.ndarray:
    """Draw a value per row from the shares that go with the row's value of another attribute."""
    names = list(next(iter(tables.values())))
    weights = _by_value(given, {key: [shares[n] for n in names] for key, shares in tables.items()})
    return np.array(names)[_choose(rng, weights**strength)]


def draw_people(n: int, rng: np.random.Generator, world: World, *, biased: bool) -> pd.DataFrame:
    """Draw the attributes of `n` people.

    Parameters
    ----------
    n : int
        Number of people.
    rng : numpy.random.Generator
        Source of all draws.
    world : World
        Strengths of the correlations.
    biased : bool
        Whether gender, skin, and hair follow from role, trait, and hobby as planted; otherwise they are
        independent of everything, with gender and skin uniform.

    Returns
    -------
    pandas.DataFrame
        One row per person, with `COLUMNS`; all values are strings, "none" where there is nothing to see.
    """
    people = {
        name: np.array(list(kinds))[rng.integers(len(kinds), size=n)]
        for name, kinds in (("role", ROLES), ("trait", TRAITS), ("hobby", HOBBIES))
    }
    people |= _biased_identity(people, rng, world) if biased else _fair_identity(n, rng)
    people["style"] = _choose_given(rng, people["gender"], STYLE_OF_GENDER)
    bearded = (people["gender"] == "man") & (rng.random(n) < BEARD_SHARE_OF_MEN)
    people["beard"] = np.where(bearded, "beard", "none")
    people |= _looks(people, rng, world)
    return pd.DataFrame(people, columns=list(COLUMNS), dtype=object)


def _fair_identity(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "gender": np.array(GENDERS)[rng.integers(len(GENDERS), size=n)],
        "skin": np.array(SKINS)[rng.integers(len(SKINS), size=n)],
        "hair": _choose_shares(rng, FAIR_HAIR, n),
    }


def _biased_identity(
    people: Mapping[str, np.ndarray], rng: np.random.Generator, world: World
) -> dict[str, np.ndarray]:
    shares = {name: [kind.goes_with] for name, kind in {**ROLES, **TRAITS}.items()}
    women = [_by_value(people[name], shares)[:, 0] for name in ("role", "trait")]
    log_odds = world.gender_strength * sum(np.log(w / (1 - w)) for w in women)
    gender = np.where(rng.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds)), *GENDERS)
    tones = {name: dict(zip(SKINS, kind.goes_with, strict=True)) for name, kind in HOBBIES.items()}
    return {
        "gender": gender,
        "skin": _choose_given(rng, people["hobby"], tones, world.skin_strength),
        "hair": _choose_given(rng, gender, HAIR_OF_GENDER, world.hair_strength),
    }


def _looks(people: Mapping[str, np.ndarray], rng: np.random.Generator, world: World) -> dict[str, np.ndarray]:
    """Draw the looks, then those of hobby, trait, and role over them: the role is the last, so it wins."""
    n = len(people["role"])
    looks = {name: _choose_shares(rng, shares, n).astype(object) for name, shares in LOOKS.items()}
    for name, kinds, share in (
        ("hobby", HOBBIES, world.look),
        ("trait", TRAITS, world.look),
        ("role", ROLES, world.role_look),
    ):
        for attribute, values in looks.items():
            given = {kind: one.looks[attribute] for kind, one in kinds.items() if attribute in one.looks}
            brought = np.array([given.get(kind) for kind in people[name]], dtype=object)
            drawn = (brought != None) & (rng.random(n) < share)  # noqa: E711 (elementwise)
            values[drawn] = brought[drawn]
    return looks
