"""Methods by result name: classes, display names and order, and how published files spell them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from debiasing_methods.base import DebiasingMethod
from debiasing_methods.registry import GROUPS, METHODS
from debiasing_methods.reranking import ALGORITHMS, DISPLAY_NAMES
from safe_io.documents import unknown
from safe_io.errors import InputError

RERANKED = "after-ranking"
"""Key of `GROUPS` of the results whose rankings are re-ranked."""


class PublishedName(NamedTuple):
    """How published result files and configs name a method.

    Attributes
    ----------
    method : str
        Value of ``method``; several results may share it.
    variant : str or None
        Which of the results that share it: ``sem_version`` of the published configs.
    """

    method: str
    variant: str | None = None


_PUBLISHED = {
    "sem-i": PublishedName("sem", "SEM_i"),
    "sem-b": PublishedName("sem", "SEM_b"),
    "sem-bi": PublishedName("sem", "SEM_bi"),
    "bendsem-bi": PublishedName("bendsem", "SEM_bi"),
}


def published_name(method: str) -> PublishedName:
    """Return the published spelling of a result name: '_' for '-', unless SEM's version is stated apart."""
    return _PUBLISHED.get(method, PublishedName(method.replace("-", "_")))


def find_method(name: str, where: str = "") -> type[DebiasingMethod]:
    """Return the class of a method that a user named.

    Parameters
    ----------
    name : str
        Result name.
    where : str
        File or option that has the name, for the error line.

    Raises
    ------
    InputError
        No method has that name; the line lists those there are.
    """
    if name not in METHODS:
        raise unknown("method", name, list(METHODS), where)
    return METHODS[name]


class ResultMethod(NamedTuple):
    """What tables say of a result name: a method, or a method whose rankings are re-ranked.

    Attributes
    ----------
    name, display_name : str
        Result name, such as ``sem-bi+detcons``; name in tables and figures.
    group : str
        Key of `GROUPS`.
    seeded : bool
        Whether there is one result for each of several seeds.
    """

    name: str
    display_name: str
    group: str
    seeded: bool


def split_reranked(name: str) -> tuple[str, str | None]:
    """Split a result name at its ``+``: the method, and how its rankings are re-ranked, if they are."""
    method, plus, algorithm = name.partition("+")
    return method, algorithm if plus else None


def find_result_method(name: str, where: str = "") -> ResultMethod:
    """Describe a result name that a user gave; raises as `find_method` does."""
    method, algorithm = split_reranked(name)
    cls = find_method(method, where)
    if algorithm is None:
        return ResultMethod(name, cls.display_name, cls.group, cls.seeded)
    if algorithm not in ALGORITHMS:
        raise unknown("re-ranking", algorithm, list(ALGORITHMS), where)
    return ResultMethod(name, f"{cls.display_name} + {DISPLAY_NAMES[algorithm]}", RERANKED, cls.seeded)


def _described(name: str) -> ResultMethod | None:
    try:
        return find_result_method(name)
    except InputError:
        return None


def display_name(method: str) -> str:
    """Return the name of a method in tables and figures; of an unregistered one, its result name."""
    found = _described(method)
    return found.display_name if found else method


def group_index(method: str) -> int:
    """Return the place of a method's group among `GROUPS`; an unregistered method comes after all."""
    found = _described(method)
    return list(GROUPS).index(found.group) if found else len(GROUPS)


def in_table_order(methods: Iterable[str]) -> list[str]:
    """Sort result names as tables do: registered ones, re-ranked ones, others; each name once."""
    known = list(METHODS)

    def place(name: str) -> tuple[int, int, int]:
        if _described(name) is None:
            return 2, 0, 0
        method, algorithm = split_reranked(name)
        return (
            (1, known.index(method), ALGORITHMS.index(algorithm))
            if algorithm
            else (0, known.index(method), 0)
        )

    return sorted(dict.fromkeys(methods), key=place)
