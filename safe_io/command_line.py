"""The parser of commands whose options have published spellings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any


class ArgumentParser(argparse.ArgumentParser):
    """A parser that shows options with hyphens and also accepts the published spellings.

    An underscore in an option's name is read as a hyphen: ``--dataset_path`` is ``--dataset-path``. Values
    are left as they are.

    Parameters
    ----------
    published : mapping, optional
        Published name of an option → its name here, for names that differ by more than underscores, such as
        ``--CLIP_model`` → ``--backbone``. They are accepted and not shown.
    **settings
        As for `argparse.ArgumentParser`.
    """

    def __init__(self, *, published: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._published = {name.replace("_", "-"): option for name, option in (published or {}).items()}

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments in either spelling; `parse_args` calls this too."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        spelled = [self._spell(argument) for argument in given[:end]]
        return super().parse_known_args(spelled + given[end:], namespace)

    def _spell(self, argument: str) -> str:
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        return self._published.get(name, name) + equals + value


def program(otherwise: str) -> str:
    """Name a program in its usage line: as ``fair-search`` was called, or else as given."""
    return sys.argv[0] if sys.argv[0].startswith("fair-search ") else otherwise
