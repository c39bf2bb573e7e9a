"""Bias files: a few lines of YAML that say what a bias is, and every prompt that the methods make of them.

A bias file (``config/bias/<name>.yml``, or one of the user's own) has the keys

- ``bias``: name of the attribute, as a metadata column is called;
- ``noun``: what the classes are kinds of ("person", "day"), in the singular;
- ``classes``: the attribute's values, or value → the words, or several, for it in a sentence;
- ``templates``: sentences with ``{bias}`` or ``{a_bias}`` that say the class and nothing else;
- ``own``: class → further sentences of that class alone (optional);
- ``like``: a prompt file of ``config/prompts/default/`` to take these from (optional);
- ``diverse``: neutral sentences for SEM, as in a prompt file (optional; else what datasets share);
- ``spurious``, ``candidates``, ``augmentations``, ``paraphrases``, ``harmful``, ``helpful``: in place
  of those that are made (optional; as in a prompt file, where `{query}` is the query). Each is a list, or
  a mapping query → list: a query takes its own list where there is one, else that under ``all``, else what
  is made.

The queries are anything at all. "A photo of a doctor." is taken as "a doctor" where a template writes it
anew; English wording apart, nothing depends on the query's language.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bias_evaluation.prompts.sentences import (
    PromptGroup,
    SettingPrompts,
    Wordings,
    article,
    expand_setting,
    read_attribute,
    read_diverse,
)
from fair_search.config_files import config_folder, prompt_folder
from safe_io.documents import Section, check_distinct, choices, describe, read_yaml
from safe_io.errors import InputError
from safe_io.files import sha256_json

# What is said of a query, when the bias file does not say it. {noun} is put in when the file is read.
DEFAULTS: dict[str, Any] = {
    "spurious": ["A photo of {a_bias} {noun}."],
    "candidates": ["A photo of {query}, {a_bias} {noun}."],
    "paraphrases": [
        "A picture of {query}.",
        "An image of {query}.",
        "This is {query}.",
        "Here we see {query}.",
        "A close-up of {query}.",
        "A snapshot that shows {query}.",
        "A drawing of {query}.",
        "An example of {query}.",
        "The picture shows {query}.",
        "In the middle there is {query}.",
    ],
    "helpful": [
        ["A photo of {query}.", "A photo of {a_noun}."],
        ["This is {query}.", "This is {a_noun}."],
        ["A drawing of {query}.", "A drawing of {a_noun}."],
    ],
}
MOST_CHARACTERS = 10_000_000  # of a bias file when its aliases are written out
_ENTRY_CHARACTERS = 100  # that an entry counts for beside its text
_MOST_LEVELS = 10
KINDS = ("spurious", "candidates", "augmentations", "paraphrases", "harmful", "helpful")
ALL = "all"  # stands for every query that is not named
_SOME_QUERY = "a query"
_LEAD = re.compile(
    r"(?:(?:an?|the)\s+)?(?:photo|photograph|picture|image|portrait)\s+(?:of|showing)\s+", re.I
)


@dataclass(frozen=True)
class BiasFile:
    """A bias attribute in words.

    Attributes
    ----------
    attribute : str
        Name of the attribute and, if not said otherwise, of the metadata column.
    classes : tuple of str
        Bias classes, as metadata write them.
    diverse : tuple of str
        Neutral sentences.
    noun : str
        What the classes are kinds of.
    source : str
        File that it comes from, for error lines.
    description : mapping
        Classes, templates and own sentences, as a prompt file has them.
    kinds : mapping
        Kind of prompt → templates, or query → templates, where ``all`` stands for every other query.
    """

    attribute: str
    classes: tuple[str, ...]
    diverse: tuple[str, ...] = field(repr=False)
    noun: str
    source: str
    description: Mapping[str, Any] = field(repr=False)
    kinds: Mapping[str, Any] = field(repr=False)

    @property
    def digest(self) -> str:
        """Digest of everything that prompts are made from."""
        return sha256_json([self.attribute, self.noun, self.description, self.kinds, self.diverse])

    def prompts(self, queries: Sequence[str]) -> SettingPrompts:
        """Make all prompts of some queries.

        Parameters
        ----------
        queries : sequence of str
            Distinct, not blank, in any script; full sentences or single words.

        Returns
        -------
        SettingPrompts
            One group a query, in order, named by the query.

        Raises
        ------
        InputError
            A query is blank, or a template of the file has a mistake.
        """
        for position, query in enumerate(queries):
            if not query.strip():
                raise InputError(f"query {position + 1} is blank; every query needs text")
        by_query = any(isinstance(value, Mapping) for value in self.kinds.values())
        parts = [[query] for query in queries] if by_query else [list(queries)]
        groups = itertools.chain.from_iterable(map(self._expand, parts))
        [about] = self._expand([article(self.noun)])
        given = tuple(_as_given(group, about.common.attribute_prompts) for group in groups)
        return SettingPrompts(given, self.diverse, self.source)

    def _expand(self, queries: Sequence[str]) -> tuple[PromptGroup, ...]:
        """Expand queries together; where a kind of prompt is given by query, a single one."""
        section = {
            "bias": self.attribute,
            "query": "{query}",
            "queries": {query: bare(query) for query in queries},
            **{kind: _of_query(value, queries[0]) for kind, value in self.kinds.items() if queries},
        }
        attributes = Section({self.attribute: self.description}, self.source)
        return expand_setting(Section(section, self.source), attributes, self.attribute)


BiasLike = str | Path | Mapping[str, Any] | BiasFile


def bare(query: str) -> str:
    """Return what a query is about: without "a photo of" before it and a full stop after it."""
    text = query.strip()
    about = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    return about.rstrip(".。") or text


def _as_given(group: PromptGroup, about: Wordings) -> PromptGroup:
    """Put the query itself back, which templates had without its frame.

    Attribute prompts, which queries share, become those of the noun: what one asks changes no other result.
    """
    shared = about if group.common.attribute_prompts else ()
    return replace(group, queries=(group.name,), common=replace(group.common, attribute_prompts=shared))


def _of_query(value: Any, query: str) -> Any:
    """Return a query's own templates of a mapping, else those for all, if any; a list is for all."""
    return value.get(query, value.get(ALL)) if isinstance(value, Mapping) else value


def _by_query(value: Any, default: Any, where: str) -> Any:
    """Check templates that are given by query, and put those that are made under 'all', if it is missing."""
    if not isinstance(value, Mapping):
        return value
    for query, entries in value.items():
        if not isinstance(query, str) or not query.strip():
            raise InputError(f"{where}: {describe(query)} is no query; put texts in quotes")
        if not isinstance(entries, list):
            raise InputError(f"{where}: the entries of '{query}' must be a list, found {describe(entries)}")
    return value if default is None else {ALL: default, **value}


def load_bias(bias: BiasLike) -> BiasFile:
    """Load a bias file.

    Parameters
    ----------
    bias : str, path, mapping or BiasFile
        A name of ``config/bias/`` ('gender', 'race', 'age' …), the path of a file of your own, or what such a
        file holds.

    Returns
    -------
    BiasFile

    Raises
    ------
    InputError
        The file does not exist, a key is unknown or missing, a template has a mistake, or there are fewer
        than two classes.
    """
    if isinstance(bias, BiasFile):
        return bias
    if isinstance(bias, Mapping):
        return _read(bias, "bias")
    path = _find(bias)
    return _read(read_yaml(path, "bias file"), str(path))


def _find(bias: str | Path) -> Path:
    """Return the path of a bias file: a name has neither suffix nor folder."""
    path = Path(bias)
    if path.suffix or len(path.parts) > 1 or path.is_file():
        return path
    folder = config_folder() / "bias"
    found = folder / f"{bias}.yml"
    if not found.is_file():
        names = sorted(p.stem for p in folder.glob("*.yml"))
        raise InputError(
            f"unknown bias '{bias}'; choose from: {choices(names)}, or give a file (.yml) of your own"
        )
    return found


def _read(document: Any, where: str) -> BiasFile:
    top = Section(document, where)
    attribute = top.take("bias", str)
    noun = top.take("noun", str)
    like = top.take("like", str, None)
    description, diverse = read_attribute(prompt_folder(), like, attribute) if like else ({}, ())
    description = {
        **description,
        **{key: top.take_any(key) for key in ("classes", "templates", "own") if key in top},
    }
    if "classes" not in description:
        raise InputError(f"{where}: the key 'classes' is missing")
    if not diverse or "diverse" in top:
        diverse = read_diverse(top.section("diverse", {"include": "diverse.yml"}), prompt_folder())
    if not diverse:
        raise InputError(f"{where}: 'diverse' must hold sentences: give 'frames', or leave it out")
    given = {kind: top.take_any(kind) for kind in KINDS if kind in top}
    top.finish()
    _check_size([given, description], where)
    words = {"{noun}": noun, "{a_noun}": article(noun)}
    given = {kind: _by_query(v, DEFAULTS.get(kind), f"{where}: '{kind}'") for kind, v in given.items()}
    kinds = {kind: _put_noun(value, words) for kind, value in {**DEFAULTS, **given}.items()}
    description = {key: _put_noun(value, words) for key, value in description.items()}
    bias = BiasFile(attribute, (), diverse, noun, where, description, kinds)
    return _checked(bias)


def _checked(bias: BiasFile) -> BiasFile:
    """Expand a bias for the queries that it names and some other, so that mistakes show now.

    Adds the classes and, for queries that no harmful pairs are given for, those pairs.
    """
    named = [query for value in bias.kinds.values() if isinstance(value, Mapping) for query in value]
    group, *_ = bias.prompts(list(dict.fromkeys([_SOME_QUERY, *named]))).groups
    classes = tuple(group.common.bias_prompts)
    if len(classes) < 2:
        raise InputError(f"{bias.source}: 'classes' must hold at least two, found: {choices(classes)}")
    check_distinct(classes, f"{bias.source}: 'classes'")
    pairs = _harmful_pairs(group.common.spurious)
    harmful = _by_query(bias.kinds.get("harmful", pairs), pairs, bias.source)
    bias = replace(bias, kinds={**bias.kinds, "harmful": harmful})
    return replace(bias, classes=classes)


def _harmful_pairs(spurious: Sequence[str]) -> list[list[str]]:
    """Every two prompts that name the classes: their difference is the bias."""
    return [list(pair) for pair in itertools.combinations(dict.fromkeys(spurious), 2)]


def _check_size(document: Any, where: str) -> None:
    """Raise where aliases make a few lines stand for more than fits any memory, or for themselves."""
    left = MOST_CHARACTERS
    for value, level in _values(document, 0):
        left -= _ENTRY_CHARACTERS + (len(value) if isinstance(value, str) else 0)
        if left < 0 or level > _MOST_LEVELS:
            much = f"more than {_MOST_LEVELS} levels" if left >= 0 else f"over {MOST_CHARACTERS} characters"
            raise InputError(
                f"{where}: it has {much} when its aliases (*name) are written out; make it smaller"
            )


def _values(value: Any, level: int) -> Iterator[tuple[Any, int]]:
    """Give every value of a document with its level; the one who asks stops."""
    yield value, level
    if isinstance(value, Mapping | list):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _values(entry, level + 1)


def _put_noun(value: Any, words: Mapping[str, str]) -> Any:
    """Put the noun into every text of a document."""
    if isinstance(value, str):
        for placeholder, word in words.items():
            value = value.replace(placeholder, word)
        return value
    if isinstance(value, Mapping):
        return {key: _put_noun(entry, words) for key, entry in value.items()}
    return [_put_noun(entry, words) for entry in value] if isinstance(value, list) else value
