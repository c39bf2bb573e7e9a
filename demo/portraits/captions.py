"""Captions of Portraits: each says some of what a picture shows, in varied words.

The prompts of the demo (`config/prompts/default/portraits.yml`) use the same words: its tiny CLIP has never
seen any other.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from demo.portraits.world import Shares

FRAMES = (
    "A photo of {}.", "A photo of {}.", "A photo of {}.", "A portrait of {}.", "A picture of {}.",
    "An image of {}.", "A drawing of {}.", "A sketch of {}.", "This is {}.", "Here is {}.",
    "The picture shows {}.", "We can see {} here.", "A close view of {}.", "A profile picture of {}.", "{}.",
)  # fmt: skip
PERSON = ("person", "person", "human", "character", "individual")
GENDER_NOUNS = {
    "woman": ("woman", "woman", "female person", "lady", "girl"),
    "man": ("man", "man", "male person", "gentleman", "guy"),
}
GENDER_ADJECTIVES = {"woman": "female", "man": "male"}
HAIR = {
    "blond": ("blond hair", "fair hair", "golden hair"),
    "black": ("black hair", "dark hair", "jet-black hair"),
    "brown": ("brown hair", "dark hair", "chestnut hair"),
    "gray": ("gray hair", "silver hair"),
    "red": ("red hair", "ginger hair"),
}
SKIN = {
    "light": ("light skin", "fair skin"),
    "tan": ("tan skin", "olive skin"),
    "brown": ("brown skin", "medium brown skin"),
    "dark": ("dark skin", "deep brown skin"),
}
STYLE = {
    "long": ("long hair",), "short": ("short hair",), "bun": ("a bun",), "curly": ("curly hair",),
    "shaggy": ("shaggy hair", "messy hair"),
}  # fmt: skip
BEARD = {"beard": ("a beard", "facial hair")}
GLASSES = {"glasses": ("glasses", "spectacles"), "sunglasses": ("sunglasses", "dark glasses")}
EXPRESSION = {
    "smiling": ("smiling", "with a smile", "who smiles"),
    "serious": ("with a straight face", "not smiling"),
    "sad": ("with a sad look", "who looks sad"),
    "surprised": ("who looks surprised", "with wide open eyes"),
}
CLOTHES = {
    "t-shirt": ("t-shirt", "shirt", "top"), "hoodie": ("hoodie", "hooded sweatshirt"),
    "sweater": ("sweater", "pullover"), "suit": ("suit", "jacket"), "overall": ("overall", "work overall"),
    "cook's jacket": ("cook's jacket", "apron"), "space suit": ("space suit",),
}  # fmt: skip
HAT = {
    "hat": ("hat", "wide hat"), "winter hat": ("winter hat", "woolen cap"),
    "cook's cap": ("cook's cap", "tall white hat"),
}  # fmt: skip
BACKGROUND = ("background", "wall", "backdrop")
# What the captions of the first training stage mention: appearance, but no roles and no hair color, which are
# left to the biased stage.
READING_MENTIONS: Shares = {
    "gender": 0.90, "skin": 0.30, "style": 0.35, "expression": 0.40, "clothes": 0.20, "clothes_color": 0.15,
    "background": 0.15, "glasses": 0.40, "hat": 0.40, "beard": 0.60,
}  # fmt: skip
_CORE = ("role", "trait", "hobby", "gender", "hair", "skin")
_MOST_WITH, _MOST_PHRASES = 3, 3


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def choose_facts(person: Mapping[str, str], mentions: Shares, rng: random.Random) -> dict[str, str]:
    """Choose what a caption mentions, each fact with its own probability; at least who the person is.

    Parameters
    ----------
    person : mapping
        Attribute to value; "none" is never mentioned.
    mentions : mapping
        Attribute to probability.
    rng : random.Random

    Returns
    -------
    dict of str to str
        The chosen part of `person`, with at least one of role, trait, hobby, gender, hair, and skin.
    """
    facts = {n: person[n] for n, share in mentions.items() if rng.random() < share and person[n] != "none"}
    core = [name for name in _CORE if mentions.get(name)]
    if not any(name in facts for name in core):
        name = _pick(core, rng)
        facts[name] = person[name]
    return facts


def write_caption(facts: Mapping[str, str], rng: random.Random) -> str:
    """Write one sentence that says what is in `facts`.

    Parameters
    ----------
    facts : mapping
        What `choose_facts` gave.
    rng : random.Random
        Chooses words, order, and frame.

    Returns
    -------
    str
        The sentence, such as "A portrait of a shy nurse with gray hair in a white top."
    """
    phrases = [*_with(facts, rng), *_wearing(facts, rng)]
    if "expression" in facts:
        phrases.append(_pick(EXPRESSION[facts["expression"]], rng))
    if "background" in facts:
        place = _pick(("in front of {}", "on {}", "before {}"), rng)
        phrases.append(place.format(with_article(f"{facts['background']} {_pick(BACKGROUND, rng)}")))
    rng.shuffle(phrases)
    subject = " ".join([_subject(facts, rng), *phrases[:_MOST_PHRASES]])
    sentence = _pick(FRAMES, rng).format(subject)
    return sentence[0].upper() + sentence[1:]


def _subject(facts: Mapping[str, str], rng: random.Random) -> str:
    """Say who the person is: trait, gender, role, and hobby."""
    trait = [facts["trait"]] if "trait" in facts else []
    occupation = facts.get("role", facts.get("hobby"))
    if occupation is None:
        return with_article(" ".join([*trait, _pick(GENDER_NOUNS.get(facts.get("gender", ""), PERSON), rng)]))
    phrase = _occupied(trait, occupation, facts.get("gender"), rng)
    if "role" in facts and "hobby" in facts:
        phrase += (
            f" who is also {with_article(facts['hobby'])}" if rng.random() < 0.5 else f" and {facts['hobby']}"
        )
    return phrase


def _occupied(trait: list[str], occupation: str, gender: str | None, rng: random.Random) -> str:
    """Say someone's occupation: "a shy female nurse", "a shy lady who is a nurse", "a shy nurse, a lady"."""
    if gender is None:
        return with_article(" ".join([*trait, occupation]))
    form, noun = rng.random(), _pick(GENDER_NOUNS[gender], rng)
    if form < 0.4:
        return with_article(" ".join([*trait, GENDER_ADJECTIVES[gender], occupation]))
    if form < 0.7:
        return f"{with_article(' '.join([*trait, noun]))} who is {with_article(occupation)}"
    return f"{with_article(' '.join([*trait, occupation]))}, {with_article(noun)}"


def _with(facts: Mapping[str, str], rng: random.Random) -> list[str]:
    """Phrase with hair, skin, beard, and glasses, such as "with gray hair and glasses"; at most three."""
    tables = {"hair": HAIR, "style": STYLE, "skin": SKIN, "beard": BEARD, "glasses": GLASSES}
    said = [_pick(table[facts[name]], rng) for name, table in tables.items() if name in facts]
    rng.shuffle(said)
    return ["with " + " and ".join(said[:_MOST_WITH])] if said else []


def _wearing(facts: Mapping[str, str], rng: random.Random) -> list[str]:
    """Phrase with clothes and hat, such as "in a red suit and a wide hat"."""
    things = []
    if "clothes" in facts or "clothes_color" in facts:
        garment = _pick(CLOTHES[facts["clothes"]], rng) if "clothes" in facts else "outfit"
        color = [facts["clothes_color"]] if "clothes_color" in facts else []
        things.append(with_article(" ".join([*color, garment])))
    if "hat" in facts:
        things.append(with_article(_pick(HAT[facts["hat"]], rng)))
    return [f"{_pick(('wearing', 'in'), rng)} {' and '.join(things)}"] if things else []


def _pick(options: Sequence[str], rng: random.Random) -> str:
    return options[int(rng.random() * len(options))]
