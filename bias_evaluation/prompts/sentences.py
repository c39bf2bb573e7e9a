"""Prompt sets: compact YAML that expands to the sentences of each query and method.

A set is a folder ``config/prompts/<name>/`` with one file a dataset. In a sentence `{query}` stands for the
query class, `{bias}` for a bias class (both in lower case, "_" as a space), `{a_query}` and `{a_bias}` for
the same with "a" or "an" before it. A list of sentences with `{query}` is expanded for each query.

What several datasets share lies in the folder's `common/`: where `bias`, `diverse` or a setting has the key
`include`, it takes over the mapping in that file; its own keys are added to the file's, or replace them. An
included file includes no other.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from debiasing_methods.base import QueryGroup
from debiasing_methods.registry import METHODS
from safe_io.documents import Section, as_strings, describe, read_yaml, unknown
from safe_io.errors import InputError

Pair = tuple[str, str]
Wordings = tuple[tuple[tuple[str, ...], ...], ...]  # class → query → wordings, as many for each query
_MOST_SENTENCES = 1_000_000  # of one frame
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


# What to do where a kind of prompt is missing that files do not spell out.
_HINTS = {
    "attribute_prompts": "; they are made from 'augmentations' (or 'candidates') that all hold {bias}, "
    "or of which there is one for each bias class"
}


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
    attribute_prompts: Wordings = ()

    def sentences(self) -> Iterator[str]:
        """All sentences, in a fixed order, with repetitions."""
        yield from self.spurious + self.candidates + self.augmentations
        yield from itertools.chain.from_iterable(self.harmful + self.helpful)
        yield from itertools.chain.from_iterable(self.paraphrases)
        yield from itertools.chain.from_iterable(self.bias_prompts.values())
        yield from itertools.chain.from_iterable(itertools.chain.from_iterable(self.attribute_prompts))


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
                        f"but {self.source} has none{_HINTS.get(kind, '')}"
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
        if pairs not in self._done:
            flat = self.matrix(tuple(itertools.chain.from_iterable(pairs)))
            self._done[pairs] = flat.reshape(len(pairs), 2, -1)
        return self._done[pairs]

    def _wordings(self, queries: tuple[tuple[str, ...], ...]) -> Tensor:
        if queries not in self._done:
            flat = self.matrix(tuple(itertools.chain.from_iterable(queries)))
            self._done[queries] = flat.reshape(len(queries), len(queries[0]), -1)
        return self._done[queries]

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
            attribute_prompts=tuple(map(self._wordings, prompts.attribute_prompts)),
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
    attributes, diverse, chosen = (
        _with_included(section, folder / "common")
        for section in (top.section("bias"), top.section("diverse", {}), settings.section(setting))
    )
    top.finish()
    return SettingPrompts(expand_setting(chosen, attributes, setting), _neutral(diverse), str(path))


def read_attribute(folder: Path, dataset: str, attribute: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Read how a dataset's prompt file describes one bias attribute, and its diverse prompts.

    Returns
    -------
    description : mapping
        `classes`, `templates` and `own`, as in the file.
    diverse : tuple of str

    Raises
    ------
    InputError
        The file or the attribute in it does not exist.
    """
    path = folder / f"{dataset}.yml"
    top = Section(read_yaml(path, "prompt file"), str(path))
    attributes = _with_included(top.section("bias"), folder / "common")
    if attribute not in attributes:
        raise unknown("bias attribute", attribute, list(attributes), str(path))
    return attributes.take_any(attribute), read_diverse(top.section("diverse", {}), folder)


def read_diverse(section: Section, folder: Path) -> tuple[str, ...]:
    """Expand diverse prompts that are written out or included from the `common/` of a prompt set."""
    return _neutral(_with_included(section, folder / "common"))


def _neutral(section: Section) -> tuple[str, ...]:
    return tuple(dict.fromkeys(expand_frames(section))) if list(section) else ()


def _with_included(section: Section, common: Path) -> Section:
    """Lay a section's own keys over those of the file that its key 'include' names."""
    name = section.take("include", str, None)
    if name is None:
        return section
    shared = Section(read_yaml(common / name, "included prompt file"), str(common / name))
    if "include" in shared:
        raise InputError(f"{shared.where}: an included file cannot include another")
    merged = {key: s.take_any(key) for s in (shared, section) for key in s}
    return Section(merged, f"{section.where} (with {shared.where})")


def expand_frames(section: Section) -> Iterator[str]:
    """Expand sentence frames.

    Parameters
    ----------
    section : Section
        ``frames``: sentences with placeholders; ``words``: placeholder → list of words. `{a_x}` puts "a" or
        "an" before the words of `x`.

    Yields
    ------
    str
        Every frame with every combination of its words, in the order of the file.

    Raises
    ------
    InputError
        A key or a placeholder is unknown, or a list is empty.
    """
    words = section.section("words", {})
    lists = {name: words.strings(name) for name in words}
    frames = section.strings("frames")
    section.finish()
    for frame in frames:
        names = _PLACEHOLDER.findall(frame)
        if math.prod(len(lists.get(name.removeprefix("a_"), ())) for name in names) > _MOST_SENTENCES:
            raise InputError(f"{section.where}: '{frame}' stands for more than {_MOST_SENTENCES} sentences")
        for name in names:
            if name.removeprefix("a_") not in lists:
                raise unknown("placeholder", name, list(lists), f"{section.where}: '{frame}'")
        for combination in itertools.product(*(lists[n.removeprefix("a_")] for n in names)):
            values = {
                n: article(w) if n.startswith("a_") else w for n, w in zip(names, combination, strict=True)
            }
            yield _put(frame, values, section.where)


def _put(template: str, values: Mapping[str, str], where: str) -> str:
    """Put words in the place of placeholders; any other brace is a mistake."""
    if set("{}") & set(_PLACEHOLDER.sub("", template)):
        raise InputError(f"{where}: '{template}' has braces that are no placeholder, such as {{query}}")
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


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
        return [_put(template, filling, self.where) for filling in fillings]

    def one(self, template: str, query: str) -> str:
        """Fill a template that must give one sentence a query."""
        sentences = self.fill(template, query)
        if len(sentences) != 1:
            raise InputError(
                f"{self.where}: '{template}' gives {len(sentences)} sentences; there must be one a query, so "
                f"it cannot hold {{bias}}"
            )
        return sentences[0]

    def many(
        self, templates: tuple[str, ...], query: str | None = None, bias: str | None = None
    ) -> tuple[str, ...]:
        """Fill a list of templates."""
        return tuple(itertools.chain.from_iterable(self.fill(t, query, bias) for t in templates))


def expand_setting(section: Section, attributes: Section, setting: str) -> tuple[PromptGroup, ...]:
    """Expand the sentences of one setting; `attributes` holds the bias attributes that it may name."""
    attribute = section.choice("bias", list(attributes))
    words = attributes.section(attribute)
    queries = _class_words(section, "queries")
    for name, spoken in queries.items():
        if len(spoken) > 1:
            raise InputError(f"{section.where}: query '{name}' has several words; only bias classes may")
    filler = _Filler(
        {name: spoken[0] for name, spoken in queries.items()}, _class_words(words, "classes"), section.where
    )
    bias_prompts = _bias_prompts(words, filler)
    sentence = section.take("query", str)
    together = section.take("together", bool, False)
    raw = {kind: section.take_any(kind, None) for kind in _EXPANDERS}
    special = section.section("overrides", {})
    for method in special:
        if method not in METHODS:
            raise unknown("method", method, list(METHODS), special.where)
    overrides = {
        m: {k: special_m.take_any(k) for k in special_m}
        for m in special
        for special_m in [special.section(m)]
    }
    section.finish()
    names = list(filler.queries)
    groups = [(setting, names)] if together else [(name, [name]) for name in names]
    expanded = [
        PromptGroup(
            name=name,
            queries=tuple(filler.one(sentence, q) for q in members),
            common=MethodPrompts(bias_prompts=bias_prompts, **_expand_kinds(raw, members, filler)),
            overrides={m: _expand_kinds(kinds, members, filler) for m, kinds in overrides.items()},
        )
        for name, members in groups
    ]
    sizes = {m: _words_by_class(kinds, filler) for m, kinds in {"": raw, **overrides}.items()}
    return with_attribute_prompts(expanded, {m: words for m, words in sizes.items() if words})


def _words_by_class(kinds: Mapping[str, Any], filler: _Filler) -> tuple[int, ...]:
    """How many augmentations of a template are of each class; empty if they are not listed class by class.

    They are if all templates name a class, or none does and there is one template for each class.
    """
    value = kinds.get("augmentations") or kinds.get("candidates") or []
    lists = list(value.values()) if isinstance(value, Mapping) else [value]
    templates = list(itertools.chain.from_iterable(lists))
    if _name_classes(templates):
        return tuple(map(len, filler.bias.values()))
    written_out = not any(map(_names_class, templates)) and all(len(t) == len(filler.bias) for t in lists)
    return (1,) * len(filler.bias) if written_out else ()


def _name_classes(templates: Iterable[str]) -> bool:
    return all(map(_names_class, templates))


def _names_class(template: str) -> bool:
    return bool({"bias", "a_bias"} & set(_PLACEHOLDER.findall(template)))


def with_attribute_prompts(
    groups: Sequence[PromptGroup], words: Mapping[str, Sequence[int]] | None = None
) -> tuple[PromptGroup, ...]:
    """Give every group the attribute prompts of its setting, which all groups share.

    They are the augmentations of all queries by bias class. Where augmentations are not listed class by class
    there are none.

    Parameters
    ----------
    groups : sequence of PromptGroup
    words : mapping, optional
        Method with augmentations of its own ("": the common ones) that are listed class by class → how many
        of a template are of each class. Without it, all are, and one of each.
    """
    common = attribute_prompts(groups, words and words.get("")) if words is None or "" in words else ()
    groups = [replace(g, common=replace(g.common, attribute_prompts=common)) for g in groups]
    for method in {m for g in groups for m, kinds in g.overrides.items() if "augmentations" in kinds}:
        known = words is None or method in words
        found = attribute_prompts(groups, words and words[method], method) if known else ()
        own = {"attribute_prompts": found}
        groups = [
            replace(g, overrides={**g.overrides, method: {**g.overrides.get(method, {}), **own}})
            for g in groups
        ]
    return tuple(groups)


def attribute_prompts(
    groups: Sequence[PromptGroup], words: Sequence[int] | None = None, method: str = ""
) -> Wordings:
    """Sort the augmentations of all queries of some groups by bias class; none where they cannot be.

    Parameters
    ----------
    groups : sequence of PromptGroup
    words : sequence of int, optional
        How many augmentations of a template are of each class; one by default.
    method : str
        Whose augmentations; of a method without its own, the common ones.
    """
    queries: list[list[tuple[str, ...]]] = []  # query → class → wordings
    for group in groups:
        found = group.for_method(method, frozenset({"augmentations", "bias_prompts"}))
        sentences, sizes = found.augmentations, list(words or [1] * len(found.bias_prompts))
        if not sentences or not sizes or len(sentences) % (len(group.queries) * sum(sizes)):
            return ()
        templates = len(sentences) // (len(group.queries) * sum(sizes))
        rest = iter(sentences)
        queries += [[tuple(itertools.islice(rest, templates * n)) for n in sizes] for _ in group.queries]
    if len({tuple(map(len, by_class)) for by_class in queries}) != 1:
        return ()
    return tuple(zip(*queries, strict=True))


def _class_words(section: Section, key: str) -> dict[str, tuple[str, ...]]:
    """Read class names: a list, or a mapping class → the words, or several, for it in a sentence."""
    value, where = section.take_any(key), f"{section.where}: '{key}'"
    if not isinstance(value, Mapping):
        return {name: (_spoken(name),) for name in as_strings(value, where)}
    if not value:
        raise InputError(f"{where} must hold at least one class")
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
        lists = _lists(raw["candidates"], members, filler, f"{filler.where}: 'candidates'")
        kinds["candidate_pairs"] = _pairs_within([len(each) for each in lists])
        if "augmentations" not in kinds:
            kinds["augmentations"] = _by_class(
                raw["candidates"], members, filler, f"{filler.where}: 'candidates'"
            )
    return kinds


def _pairs_within(sizes: list[int]) -> tuple[tuple[int, int], ...]:
    """All pairs of the candidates of one query, query by query; `sizes` says how many each has."""
    starts = itertools.accumulate(sizes, initial=0)
    return tuple(
        pair
        for start, n in zip(starts, sizes, strict=False)
        for pair in itertools.combinations(range(start, start + n), 2)
    )


def _for_query(value: Any, query: str, filler: _Filler, where: str) -> tuple[Any, ...]:
    """Entries for one query: of a list all, of a mapping those under 'all' and under the query's name."""
    if not isinstance(value, Mapping):
        value = {"all": value}
    for name, entries in value.items():
        if name != "all" and name not in filler.queries:
            raise unknown("query", name, ["all", *filler.queries], where)
        if not isinstance(entries, list):
            raise InputError(f"{where}: the entries of '{name}' must be a list, found {describe(entries)}")
    own = value.get(query, []) if query != "all" else []  # a query may be called so
    entries = [*value.get("all", []), *own]
    if not entries:
        raise InputError(f"{where}: no entries for '{query}'")
    return tuple(entries)


def _once(value: Any, members: list[str], filler: _Filler, where: str) -> tuple[str, ...]:
    """Sentences that do not depend on the query."""
    return filler.many(as_strings(value, where))


def _per_query(value: Any, members: list[str], filler: _Filler, where: str) -> tuple[str, ...]:
    """Sentences for each query, query by query."""
    lists = _lists(value, members, filler, where)
    return tuple(itertools.chain.from_iterable(lists))


def _by_class(value: Any, members: list[str], filler: _Filler, where: str) -> tuple[str, ...]:
    """Sentences for each query, query by query and, where all templates name a class, class by class."""
    found: list[str] = []
    for query in members:
        templates = as_strings(list(_for_query(value, query, filler, where)), where)
        classes = list(filler.bias) if _name_classes(templates) else [None]
        for name in classes:
            found += filler.many(templates, query, name)
    return tuple(found)


def _lists(value: Any, members: list[str], filler: _Filler, where: str) -> tuple[tuple[str, ...], ...]:
    """One list of sentences for each query."""
    return tuple(
        filler.many(as_strings(list(_for_query(value, query, filler, where)), where), query)
        for query in members
    )


def _pair_list(value: Any, members: list[str], filler: _Filler, where: str) -> tuple[Pair, ...]:
    """Pairs of sentences; those of all queries of a group, repetitions dropped."""
    pairs: dict[Pair, None] = {}
    for query in members:
        for entry in _for_query(value, query, filler, where):
            if not isinstance(entry, list) or len(entry) != 2:
                raise InputError(f"{where}: each entry must be a pair of texts, found {describe(entry)}")
            first, second = (filler.one(t, query) for t in as_strings(entry, where))
            pairs[first, second] = None
    return tuple(pairs)


_EXPANDERS: dict[str, Callable[[Any, list[str], _Filler, str], Any]] = {
    "spurious": _once,
    "candidates": _per_query,
    "augmentations": _by_class,
    "harmful": _pair_list,
    "helpful": _pair_list,
    "paraphrases": _lists,
}
