"""Gates: conditions under which an audit fails, for continuous integration.

A gate is written ``[METHOD:]METRIC[@K]>VALUE`` (or ``>=``, ``<``, ``<=``), such as ``max_skew>0.5``. It is
about the mean over the queries, of the first method and at the largest K unless they are named.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bias_evaluation.grid.methods import display_name
from fair_search.fairness_metrics import METRICS
from safe_io.documents import choices, unknown
from safe_io.errors import InputError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_FORM = re.compile(r"\s*(?:(.+?):)?\s*([^:@<>=\s]+)\s*(?:@\s*(\w+))?\s*(>=|<=|>|<)\s*(\S+)\s*")


@dataclass(frozen=True)
class Gate:
    """A condition under which an audit fails.

    Attributes
    ----------
    text : str
        As it was written.
    method : str or None
        None: the first.
    metric : str
    k : int
    operator : str
        One of ``>``, ``>=``, ``<``, ``<=``.
    bound : float
    """

    text: str
    method: str | None
    metric: str
    k: int
    operator: str
    bound: float


def parse_gates(texts: Sequence[str], ks: Sequence[int], *, labels: bool) -> list[Gate]:
    """Read gates, before anything is computed.

    Parameters
    ----------
    texts : sequence of str
    ks : sequence of int
        Depths that are judged.
    labels : bool
        Whether precision is judged.

    Raises
    ------
    InputError
        A gate has another form, or names a metric or a K that is not judged.
    """
    return [_parse(text, ks, labels=labels) for text in texts]


def _parse(text: str, ks: Sequence[int], *, labels: bool) -> Gate:
    where = f"--fail-if '{text}'"
    found = _FORM.fullmatch(text)
    if found is None:
        raise InputError(f"{where}: give [METHOD:]METRIC[@K]>VALUE, such as max_skew>0.5 or kl@10>=0.1")
    method, metric, k, sign, bound = found.groups()
    metrics = [name for name in METRICS if labels or name != "precision"]
    if metric == "precision" and not labels:
        raise InputError(f"{where}: precision needs labels; give --label-column and --query-labels")
    if metric not in metrics:
        raise unknown("metric", metric, metrics, where)
    if k is not None and k not in map(str, ks):
        raise InputError(f"{where}: K = {k} is not judged; choose from: {choices(sorted(ks))} (--k)")
    try:
        number = float(bound)
    except ValueError:
        raise InputError(f"{where}: '{bound}' is no number") from None
    if number != number:
        raise InputError(f"{where}: no value is above or below '{bound}'")
    return Gate(text, method, metric, max(ks) if k is None else int(k), sign, number)


def check_gates(
    gates: Sequence[Gate], table: pd.DataFrame, methods: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Hold an audit against gates.

    Parameters
    ----------
    gates : sequence of Gate
    table : pandas.DataFrame
        Of `judging.judge`.
    methods : sequence of str
        Methods of the audit, the first one first.

    Returns
    -------
    results : list of dict
        A plain record of each gate: what it is about, the value, and whether it failed.
    failures : list of str
        A line for each gate that failed: by how much.
    """
    means = table[table["scope"] == "mean"].set_index(["method", "k", "metric"])
    results, failures = [], []
    for gate in gates:
        method = gate.method or methods[0]
        row = means.loc[(method, gate.k, gate.metric)]
        value = float(row["value"])
        failed = _OPERATORS[gate.operator](value, gate.bound)
        results.append(
            {"gate": gate.text, "method": method, "metric": gate.metric, "k": gate.k, "value": value,
             "low": float(row["low"]), "high": float(row["high"]), "bound": gate.bound, "failed": failed}
        )  # fmt: skip
        if failed:
            failures.append(
                f"gate '{gate.text}' failed: mean {METRICS[gate.metric].label} of {display_name(method)} at "
                f"K = {gate.k} is {value:.3f} (95 % interval {row['low']:.3f} to {row['high']:.3f}), "
                f"{abs(value - gate.bound):.3f} {'above' if value >= gate.bound else 'below'} {gate.bound:g}"
            )
    return results, failures


def check_gate_methods(gates: Sequence[Gate], methods: Sequence[str]) -> None:
    """Raise `InputError` if a gate names a method that is not in the audit."""
    for gate in gates:
        if gate.method is not None and gate.method not in methods:
            raise unknown("method", gate.method, methods, f"--fail-if '{gate.text}'")
