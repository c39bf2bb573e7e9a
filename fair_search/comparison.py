"""What changed since an earlier audit of the same data: differences of means with intervals.

Symbols: K depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fair_search.fairness_metrics import METRICS
from safe_io.documents import Section, choices
from safe_io.errors import InputError
from safe_io.files import read_json

COLUMNS = ("method", "k", "metric", "old", "new", "change", "change_low", "change_high")


def read_earlier(path: Path) -> Mapping[str, Any]:
    """Read the ``audit.json`` of an earlier audit.

    Raises
    ------
    InputError
        It is missing, is not JSON, or does not have the form of an audit's.
    """
    record = read_json(path, "earlier audit")
    section = Section(record, f"{path} (an audit.json is needed)")
    section.take("attribute", str)
    for name in ("groups", "measurement", "digests"):
        section.take(name, dict)
    for name in ("queries", "means"):
        section.take(name, list)
    _means(record, path)
    return record


def check_same_data(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """Raise `InputError` unless two audits are of the same attribute, groups, queries, shares and metadata.

    The embeddings, the model and the methods may differ: their effect is what is asked for.
    """
    for name, one, other in (
        ("attribute", old["attribute"], new["attribute"]),
        ("groups", list(old["groups"]), list(new["groups"])),
        ("queries", _asked(old), _asked(new)),
        ("desired shares", old["measurement"].get("desired"), new["measurement"]["desired"]),
        ("metadata (digest)", old["digests"].get("metadata"), new["digests"].get("metadata")),
    ):
        if one != other:
            raise InputError(
                f"--compare {path} is of other data: its {name}: {_short(one)}; of this audit: "
                f"{_short(other)}; compare audits of the same images and queries"
            )


def _asked(record: Mapping[str, Any]) -> list[str]:
    """All queries of an audit, those that it had to leave out too."""
    return sorted([*record["queries"], *(record.get("left_out_queries") or ())])


def _short(value: object) -> str:
    return choices(value[:3]) + (", …" if len(value) > 3 else "") if isinstance(value, list) else str(value)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> pd.DataFrame:
    """Subtract the means of an earlier audit from those of a new one.

    Parameters
    ----------
    old, new : mapping
        What `audit_files.summary` makes; `old` as `read_earlier` gives it.
    path : pathlib.Path
        Of the earlier audit, for error lines.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`, for the methods, K and metrics that both have.

    Raises
    ------
    InputError
        They are of other data, or have no method and K in common.

    Notes
    -----
    The interval of a change is made from those of the two means (the MOVER of Zou & Donner 2008,
    "Construction of confidence limits about effect measures"), as if the audits were independent. Audits of
    the same images are not, and their errors mostly go the same way, so that it is wide rather than narrow.
    """
    check_same_data(old, new, path)
    if sorted(old["queries"]) != sorted(new["queries"]):
        raise InputError(
            f"--compare {path}: that audit had to leave out other queries, so that its means are of others; "
            "compare audits of the same methods"
        )
    key = ["method", "k", "metric"]
    both = _means(new, path).merge(_means(old, path), on=key, suffixes=("", "_old"))
    if both.empty:
        raise InputError(
            f"--compare {path}: no method and K in common; that audit has the methods "
            f"{choices(sorted({row['method'] for row in old['means']}))} and K = "
            f"{choices(sorted({row['k'] for row in old['means']}))}"
        )
    change = both["value"] - both["value_old"]
    below = np.hypot(both["value"] - both["low"], both["high_old"] - both["value_old"])
    above = np.hypot(both["high"] - both["value"], both["value_old"] - both["low_old"])
    return both.assign(
        old=both["value_old"],
        new=both["value"],
        change=change,
        change_low=change - below,
        change_high=change + above,
    )[list(COLUMNS)]


def _means(record: Mapping[str, Any], path: Path) -> pd.DataFrame:
    columns = ["method", "k", "metric", "value", "low", "high"]
    try:
        table = pd.DataFrame([[row[name] for name in columns] for row in record["means"]], columns=columns)
        table[columns[3:]] = table[columns[3:]].astype(float)
        table["k"] = table["k"].astype(int)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: 'means' do not have the columns {choices(columns)} of an audit.json ({error})"
        ) from None
    return table[table["metric"].isin(METRICS)]


def surely(changes: pd.DataFrame) -> pd.Series:
    """Whether the interval of each change leaves out 0."""
    return (changes["change_low"] > 0) | (changes["change_high"] < 0)


def change_lines(changes: pd.DataFrame, methods: Sequence[str], path: Path) -> list[str]:
    """Say for a terminal what changed at the largest K, a line for each method."""
    k = changes["k"].max()
    lines = [f"changes since {path}, K = {k} (* the interval leaves out 0):"]
    for method in methods:
        rows = changes[(changes["method"] == method) & (changes["k"] == k)]
        parts = [
            f"{METRICS[row.metric].label} {row.change:+.3f} [{row.change_low:+.3f}, {row.change_high:+.3f}]"
            f"{' *' if sure else ''}"
            for row, sure in zip(rows.itertuples(), surely(rows), strict=True)
            if row.metric != "overlap"
        ]
        if parts:
            lines.append(f"  {method}: {', '.join(parts)}")
    return lines
