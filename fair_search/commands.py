"""Commands for a report: the one that reproduces an audit, and the next step. They name no absolute path."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

AGAIN = "audit_again"  # folder of a reproduced audit: nothing is overwritten, and the two can be compared
_NOT_REPRODUCED = ("output_dir", "compare", "fail_if", "json", "from_results")


def audit_command(args: argparse.Namespace, defaults: Mapping[str, Any]) -> str:
    """Write the command that repeats an audit.

    Parameters
    ----------
    args : argparse.Namespace
        Of `audit_options.build_parser`.
    defaults : mapping
        Values that need not be written, by name.

    Returns
    -------
    str
        One line for a POSIX shell.
    """
    words = ["python", "audit_bias.py"]
    for name, value in vars(args).items():
        if name not in _NOT_REPRODUCED and value != defaults.get(name):
            words += option_words(name, value)
    return shlex.join([*words, "--output-dir", AGAIN])


def debias_command(args: argparse.Namespace, method: str, weights: Path | None, *, reference: bool) -> str:
    """Write the command that debiases the queries of an audit with one of its methods.

    Parameters
    ----------
    args : argparse.Namespace
        Of the audit.
    method : str
    weights : pathlib.Path or None
        The method's trained weights, if they were given.
    reference : bool
        Whether the method needs labeled images: those of the audit are taken.

    Returns
    -------
    str
        One line for a POSIX shell.
    """
    given: dict[str, Any] = {"queries": args.queries, "column": args.query_column, "method": method}
    for name in ("backbone", "pretrained", "checkpoint", "text_embeddings", "bias"):
        given[name] = getattr(args, name)
    given["weights"] = weights
    mine = [pair.partition(".")[2] for pair in args.option if pair.partition(".")[0] == method]
    given["option"] = mine or None
    if args.device != "cpu":
        given["device"] = args.device
    if args.seed:
        given["seed"] = args.seed
    if reference:
        given |= {
            "reference_embeddings": args.embeddings,
            "reference_metadata": args.metadata,
            "reference_column": args.attribute,
        }
    words = [word for name, value in given.items() if value is not None for word in option_words(name, value)]
    return shlex.join(["python", "debias_queries.py", *words, "--output", "debiased.npy"])


def option_words(name: str, value: Any) -> list[str]:
    """Words of one option; none for a switch that is off."""
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    if value is None or value is False:
        return []
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [option, *(plain_word(each) for each in value)]
    word = plain_word(value)
    return [f"{option}={word}"] if word.startswith("-") else [option, word]


def plain_word(value: Any) -> str:
    """Write a value without the folders of an absolute path in it."""
    if isinstance(value, Path):
        return plain_path(value)
    head, equals, tail = str(value).partition("=")
    if equals and Path(tail).is_absolute():  # METHOD=FILE
        return f"{head}={plain_path(Path(tail))}"
    return plain_path(Path(value)) if Path(str(value)).is_absolute() else str(value)


def plain_path(path: Path) -> str:
    """Write a path relative to the working folder; of a file that is elsewhere its name alone."""
    if not path.is_absolute():
        return str(path)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name
