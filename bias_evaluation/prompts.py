"""Prompt sets: compact YAML that expands to the sentences of each query and method.

A set is a folder ``config/prompts/<name>/`` with one file a dataset. In a sentence `{query}` stands for the
query class, `{bias}` for a bias class (both in lower case, "_" as a space), `{a_query}` and `{a_bias}` for
the same with "a" or "an" before it. A list of sentences with `{query}` is expanded for each query.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bias_evaluation.sections import Section, as_strings, read_yaml, unknown
from debiasing_methods.base import QueryGroup
from debiasing_methods.errors import InputError

Pair = tuple[str, str]
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class MethodPrompts:
    """The sentences that methods use beside a group's queries; the fields are those of `QueryGroup`."""

    spurious: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    candidate_pairs: tuple[tuple[int, int], ...] = ()
    augmentations: tuple[str, ...] = ()
    harmful: tuple[Pair, ...] = ()
    helpful: tuple[Pair, ...] = ()
    paraphrases: tuple[tuple[str, ...], ...] = ()
    bias_prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def sentences(self) -> Iterator[str]:
        """All sentences, in a fixed order, with repetitions."""
        yield from self.spurious + self.candidates + self.augmentations
        yield from itertools.chain.from_iterable(self.harmful + self.helpful)
        yield from itertools.chain.from_iterable(self.paraphrases)
        yield from itertools.chain.from_iterable(self.bias_prompts.values())


@dataclass(frozen=True)
class PromptGroup:
    """Queries that are debiased together, and the sentences for every method.

    Attributes
    ----------
    name : str
        Query class (retrieval) or setting (classification).
    queries : tuple of str
        One sentence, or one a class.
    common : MethodPrompts
        Sentences for all methods.
    overrides : mapping
        Method → sentences that it uses in place of the common ones (only the kinds that differ).
    """

    name: str
    queries: tuple[str, ...]
    common: MethodPrompts
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def for_method(self, method: str, needs: frozenset[str]) -> MethodPrompts:
        """Return the kinds of sentences that a method needs, and no others."""
        own = self.overrides.get(method, {})
        kinds = set(needs) - {"diverse"} | ({"candidate_pairs"} if "candidates" in needs else set())
        return MethodPrompts(**{kind: own.get(kind, getattr(self.common, kind)) for kind in sorted(kinds)})


@dataclass(frozen=True)
class SettingPrompts:
    """All sentences of one setting.

    Attributes
    ----------
    groups : tuple of PromptGroup
        One a query (retrieval), or one for all classes (classification).
    diverse : tuple of str
        Diverse prompts, the neutral background of SEM.
    source : str
        File that they come from, for error lines.
    """

    groups: tuple[PromptGroup, ...]
    diverse: tuple[str, ...]
    source: str

    def check_for(self, method: str, needs: frozenset[str]) -> None:
        """Raise `InputError` where a method needs a kind of sentence that the setting has none of."""
        for group in self.groups:
            prompts = group.for_method(method, needs)
            for kind in sorted(needs):
                if not (self.diverse if kind == "diverse" else getattr(prompts, kind)):
                    raise InputError(
                        f"{method} needs {kind.replace('_', ' ')} for '{group.name}', "
                        f"but {self.source} has none"
                    )

    def used_by(self, method: str, needs: frozenset[str]) -> dict[str, Any]:
        """Everything that a method's result depends on, as plain values (for the digest)."""
        groups = [
            {"name": g.name, "queries": g.queries, **_plain(g.for_method(method, needs))} for g in self.groups
        ]
        return {"groups": groups, **({"diverse": self.diverse} if "diverse" in needs else {})}

    def sentences(self, method: str, needs: frozenset[str]) -> list[str]:
        """Distinct sentences that a method needs here, in a fixed order."""
        found = list(self.diverse) if "diverse" in needs else []
        for group in self.groups:
            found += [*group.queries, *group.for_method(method, needs).sentences()]
        return list(dict.fromkeys(found))


def _plain(prompts: MethodPrompts) -> dict[str, Any]:
    return {f.name: getattr(prompts, f.name) for f in fields(prompts) if getattr(prompts, f.name)}


class GroupEmbedder:
    """Turns groups of sentences into groups of embeddings; equal lists share one tensor.

    Parameters
    ----------
    embed : callable
        Sentences → raw embeddings ``(P, d)``.
    """

    def __init__(self, embed: Callable[[tuple[str, ...]], Tensor]) -> None:
        self._embed = embed
        self._done: dict[Any, Tensor] = {}

    def matrix(self, sentences: tuple[str, ...]) -> Tensor:
        """Raw embeddings ``(P, d)`` of some sentences."""
        if sentences not in self._done:
            self._done[sentences] = self._embed(sentences)
        return self._done[sentences]

    def _pairs(self, pairs: tuple[Pair, ...]) -> Tensor:
        flat = self.matrix(tuple(itertools.chain.from_iterable(pairs)))
        return flat.reshape(len(pairs), 2, -1)

    def group(self, group: PromptGroup, method: str, needs: frozenset[str]) -> QueryGroup:
        """Embed one group's queries and the sentences that a method needs."""
        prompts = group.for_method(method, needs)
        matrices = {
            kind: self.matrix(getattr(prompts, kind))
            for kind in ("spurious", "candidates", "augmentations")
            if getattr(prompts, kind)
        }
        pairs = {
            kind: self._pairs(getattr(prompts, kind))
            for kind in ("harmful", "helpful")
            if getattr(prompts, kind)
        }
        if prompts.candidate_pairs:
            pairs["candidate_pairs"] = torch.tensor(prompts.candidate_pairs)
        return QueryGroup(
            queries=self.matrix(group.queries),
            name=group.name,
            paraphrases=tuple(self.matrix(p) for p in prompts.paraphrases),
            bias_prompts=tuple(self.matrix(p) for p in prompts.bias_prompts.values()),
            **matrices,
            **pairs,
        )


def load_prompts(folder: Path, dataset: str, setting: str) -> SettingPrompts:
    """Load and expand the sentences of one setting.

    Parameters
    ----------
    folder : pathlib.Path
        The prompt set: ``config/prompts/<name>``.
    dataset : str
        Name of the dataset; its file is ``<dataset>.yml``.
    setting : str
        Name of the setting in that file.

    Returns
    -------
    SettingPrompts

    Raises
    ------
    InputError
        The set, file or setting does not exist, or a sentence has an unknown placeholder, or a list is empty.
    """
    if not folder.is_dir():
        found = sorted(p.name for p in folder.parent.glob("*") if p.is_dir())
        raise unknown("prompt set", folder.name, found, str(folder.parent))
    path = folder / f"{dataset}.yml"
    top = Section(read_yaml(path, "prompt file"), str(path))
    settings = top.section("settings")
    if setting not in settings:
        raise unknown("setting", setting, list(settings), str(path))
    attributes = top.section("bias")
    diverse = tuple(dict.fromkeys(_expand_diverse(top.section("diverse", {}))))
    top.finish()
    return SettingPrompts(_expand_setting(settings.section(setting), attributes, setting), diverse, str(path))


def _expand_diverse(section: Section) -> Iterator[str]:
    """Sentence frames × the words of their placeholders, in the order of the file."""
    if not list(section):
        return
    words = section.section("words", {})
    lists = {name: words.strings(name) for name in words}
    frames = section.strings("frames")
    section.finish()
    for frame in frames:
        names = _PLACEHOLDER.findall(frame)
        for name in names:
            if name.removeprefix("a_") not in lists:
                raise unknown("placeholder", name, list(lists), f"{section.where}: '{frame}'")
        for combination in itertools.product(*(lists[n.removeprefix("a_")] for n in names)):
            values = {
                n: article(w) if n.startswith("a_") else w for n, w in zip(names, combination, strict=True)
            }
            yield frame.format(**values)


def article(words: str) -> str:
    """Put "an" before a vowel letter and "a" before any other."""
    return f"an {words}" if words[:1].lower() in "aeiou" else f"a {words}"


def _spoken(name: str) -> str:
    """Write a class name as it stands in a sentence."""
    return name.replace("_", " ").lower()


@dataclass(frozen=True)
class _Filler:
    """Expands sentences for one setting; `where` is for error lines."""

    queries: Mapping[str, str]  # query class → its words in a sentence
    bias: Mapping[str, tuple[str, ...]]  # bias class → one or several words, each of which makes a sentence
    where: str

    def fill(self, template: str, query: str | None = None, bias: str | None = None) -> list[str]:
        """Fill one template: for the given query, and for the given bias class or for every one."""
        names = set(_PLACEHOLDER.findall(template))
        values: dict[str, str] = {}
        if query is not None:
            values |= {"query": self.queries[query], "a_query": article(self.queries[query])}
        if names & {"bias", "a_bias"}:
            kinds = self.bias if bias is None else [bias]
            fillings = [values | {"bias": b, "a_bias": article(b)} for kind in kinds for b in self.bias[kind]]
        else:
            fillings = [values]
        for name in names:
            if name not in fillings[0]:
                raise unknown("placeholder", name, sorted(fillings[0]), f"{self.where}: '{template}'")
        return [template.format(**filling) for filling in fillings]

    def many(
        self, templates: tuple[str, ...], query: str | None = None, bias: str | None = None
    ) -> tuple[str, ...]:
        """Fill a list of templates."""
        return tuple(itertools.chain.from_iterable(self.fill(t, query, bias) for t in templates))


def _expand_setting(section: Section, attributes: Section, setting: str) -> tuple[PromptGroup, ...]:
    attribute = section.choice("bias", list(attributes))
    words = attributes.section(attribute)
    queries = {name: spoken[0] for name, spoken in _class_words(section, "queries").items()}
    filler = _Filler(queries, _class_words(words, "classes"), section.where)
    bias_prompts = _bias_prompts(words, filler)
    sentence = section.take("query", str)
    together = section.take("together", bool, False)
    raw = {kind: section.any(kind, None) for kind in _EXPANDERS}
    special = section.section("overrides", {})
    overrides = {
        m: {k: special_m.any(k) for k in special_m} for m in special for special_m in [special.section(m)]
    }
    section.finish()
    names = list(filler.queries)
    groups = [(setting, names)] if together else [(name, [name]) for name in names]
    return tuple(
        PromptGroup(
            name=name,
            queries=tuple(filler.fill(sentence, q)[0] for q in members),
            common=MethodPrompts(bias_prompts=bias_prompts, **_expand_kinds(raw, members, filler)),
            overrides={m: _expand_kinds(kinds, members, filler) for m, kinds in overrides.items()},
        )
        for name, members in groups
    )


def _class_words(section: Section, key: str) -> dict[str, tuple[str, ...]]:
    """Read class names: a list, or a mapping class → the words, or several, for it in a sentence."""
    value, where = section.any(key), f"{section.where}: '{key}'"
    if not isinstance(value, Mapping):
        return {name: (_spoken(name),) for name in as_strings(value, where)}
    several = {name: words if isinstance(words, list) else [words] for name, words in value.items()}
    return {str(name): as_strings(words, f"{where}: '{name}'") for name, words in several.items()}


def _bias_prompts(section: Section, filler: _Filler) -> dict[str, tuple[str, ...]]:
    """Sentences for each bias class: common templates, then the class's own."""
    templates = section.strings("templates", ())
    own = section.section("own", {})
    prompts = {}
    for name in filler.bias:
        prompts[name] = filler.many(templates, bias=name) + own.strings(name, ())
        if not prompts[name]:
            raise InputError(
                f"{section.where}: no bias prompts for '{name}'; give 'templates' or 'own: {name}'"
            )
    own.finish()
    section.finish()
    return prompts


def _expand_kinds(raw: Mapping[str, Any], members: list[str], filler: _Filler) -> dict[str, Any]:
    """Expand each kind of sentence that is given, for the queries of one group."""
    kinds: dict[str, Any] = {}
    for kind, value in raw.items():
        if kind not in _EXPANDERS:
            raise unknown("kind of prompt", kind, list(_EXPANDERS), filler.where)
        if value is not None:
            kinds[kind] = _EXPANDERS[kind](value, members, filler, f"{filler.where}: '{kind}'")
    if "candidates" in kinds:
        kinds["candidate_pairs"] = _pairs_within(len(kinds["candidates"]), len(members))
        kinds.setdefault("augmentations", kinds["candidates"])
    return kinds


def _pairs_within(n: int, n_queries: int) -> tuple[tuple[int, int], ...]:
    """All pairs of the candidates of one query, query by query."""
    each = n // n_queries
    pairs = itertools.combinations(range(each), 2)
    return tuple(
        (q * each + j, q * each + k) for q, (j, k) in itertools.product(range(n_queries), list(pairs))
    )


def _for_query(value: Any, query: str, where: str) -> tuple[Any, ...]:
    """Entries for one query: of a list all, of a mapping those under 'all' and under the query's name."""
    named = isinstance(value, Mapping)
    entries = [*(value.get("all") or []), *(value.get(query) or [])] if named else value
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{where}: no entries for '{query}'")
    return tuple(entries)


def _once(value: Any, members: list[str], filler: _Filler, where: str) -> tuple[str, ...]:
    """Sentences that do not depend on the query."""
    return filler.many(as_strings(value, where))


def _per_query(value: Any, members: list[str], filler: _Filler, where: str) -> tuple[str, ...]:
    """Sentences for each query, query by query."""
    lists = _lists(value, members, filler, where)
    return tuple(itertools.chain.from_iterable(lists))


def _lists(value: Any, members: list[str], filler: _Filler, where: str) -> tuple[tuple[str, ...], ...]:
    """One list of sentences for each query."""
    return tuple(
        filler.many(as_strings(list(_for_query(value, query, where)), where), query) for query in members
    )


def _pair_list(value: Any, members: list[str], filler: _Filler, where: str) -> tuple[Pair, ...]:
    """Pairs of sentences; those of all queries of a group, repetitions dropped."""
    pairs: dict[Pair, None] = {}
    for query in members:
        for entry in _for_query(value, query, where):
            if not isinstance(entry, list) or len(entry) != 2:
                raise InputError(f"{where}: each entry must be a pair of texts, found {entry!r}")
            first, second = (filler.fill(t, query)[0] for t in as_strings(entry, where))
            pairs[first, second] = None
    return tuple(pairs)


_EXPANDERS: dict[str, Callable[[Any, list[str], _Filler, str], Any]] = {
    "spurious": _once,
    "candidates": _per_query,
    "augmentations": _per_query,
    "harmful": _pair_list,
    "helpful": _pair_list,
    "paraphrases": _lists,
}
