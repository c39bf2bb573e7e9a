"""Methods by result name: classes, display names and order, and how published files spell them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from debiasing_methods.base import DebiasingMethod
from debiasing_methods.registry import GROUPS, METHODS
from safe_io.documents import unknown

SEEDS: tuple[int, ...] = (0, 1, 2)
"""Seeds of the seeded methods in the paper's suite."""


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


def display_name(method: str) -> str:
    """Return the name of a method in tables and figures; of an unregistered one, its result name."""
    return METHODS[method].display_name if method in METHODS else method


def group_index(method: str) -> int:
    """Return the place of a method's group among `GROUPS`; an unregistered method comes after all."""
    return list(GROUPS).index(METHODS[method].group) if method in METHODS else len(GROUPS)


def in_table_order(methods: Iterable[str]) -> list[str]:
    """Sort result names as tables do: registered ones first, each name once."""
    known = list(METHODS)
    found = dict.fromkeys(methods)
    return sorted(found, key=lambda name: known.index(name) if name in METHODS else len(known))
