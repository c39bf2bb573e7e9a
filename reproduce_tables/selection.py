"""What of a table or of the results is shown: chosen methods, backbones and settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from safe_io.documents import unknown

if TYPE_CHECKING:
    import pandas as pd

    from reproduce_tables.engine import Description


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that tables and figures share."""
    group = parser.add_argument_group("what is shown (default: everything)")
    group.add_argument(
        "--methods",
        nargs="+",
        metavar="M",
        help="only these methods, by result name: sem-bi, orth-proj+detcons",
    )
    group.add_argument("--backbone", nargs="+", metavar="B", help="only these backbones")
    group.add_argument("--settings", nargs="+", metavar="S", help="only these settings: stereotype_race, …")


def is_selection(args: argparse.Namespace) -> bool:
    """Whether the options choose anything."""
    return any((args.methods, args.backbone, args.settings))


def select_columns(
    description: Description,
    methods: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
) -> Description:
    """Restrict a table to some of its columns, and choose its rows.

    Parameters
    ----------
    description : Description
    methods : sequence of str, optional
        Result names of the rows, from top to bottom; they need not be rows of the description.
    backbones, settings : sequence of str, optional
        Columns of these are kept, in the description's order.

    Returns
    -------
    Description

    Raises
    ------
    InputError
        There is no such method, or the table has no column of a backbone or setting, or of both together.
    """
    from bias_evaluation.grid.methods import find_result_method

    where = f"table {description.name}"
    _check("backbone", backbones, (column.backbone for column in description.columns), where)
    _check("setting", settings, (column.setting for column in description.columns), where)
    columns = tuple(
        column
        for column in description.columns
        if (backbones is None or column.backbone in backbones)
        and (settings is None or column.setting in settings)
    )
    if not columns:
        pairs = [f"{column.setting} with {column.backbone}" for column in description.columns]
        raise unknown("selection", f"{settings} with {backbones}", list(dict.fromkeys(pairs)), where)
    rows = description.methods
    if methods is not None:
        rows = tuple(find_result_method(name, "--methods") for name in dict.fromkeys(methods))
    return replace(description, columns=columns, methods=rows)


def select_results(
    results: pd.DataFrame,
    methods: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Restrict results to some methods, backbones and settings.

    Raises
    ------
    InputError
        A name is in none of the results.
    """
    from bias_evaluation.results.aggregation import setting_name

    names = [setting_name(*pair) for pair in zip(results["task"], results["setting"], strict=True)]
    kept = np.ones(len(results), dtype=bool)
    for kind, wanted, values in (
        ("method", methods, list(results["method"])),
        ("backbone", backbones, list(results["backbone"])),
        ("setting", settings, names),
    ):
        _check(kind, wanted, values, "the results")
        if wanted is not None:
            kept &= np.array([value in wanted for value in values], dtype=bool)
    return results[kept]


def _check(kind: str, wanted: Sequence[str] | None, available: Iterable[str], where: str) -> None:
    known = list(dict.fromkeys(available))
    for name in wanted or ():
        if name not in known:
            raise unknown(kind, name, known, where)
