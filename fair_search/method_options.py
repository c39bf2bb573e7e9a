"""Options of methods on the command line: ``KEY=VALUE``, checked against the method's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import yaml

from bias_evaluation.grid.configs import option_types
from bias_evaluation.grid.methods import find_method
from safe_io.documents import Section, unknown
from safe_io.errors import InputError


def parse_options(pairs: Sequence[str], method: str) -> dict[str, Any]:
    """Read options of one method.

    Parameters
    ----------
    pairs : sequence of str
        ``KEY=VALUE`` each; values are read as YAML does (``5``, ``0.1``, ``true``).
    method : str

    Returns
    -------
    dict
        Key → value of the option's type.

    Raises
    ------
    InputError
        A pair has another form, an option is unknown or given twice, or its value has another type.
    """
    find_method(method, "--option")
    types, found = option_types(method), {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InputError(f"--option takes KEY=VALUE, such as lam=1000, got '{pair}'")
        if key not in types:
            raise unknown("option", key, list(types), f"--option of {method}")
        if key in found:
            raise InputError(f"--option gives '{key}' of {method} twice; keep one")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        found[key] = _typed(key, value, types[key], f"--option of {method}")
    return found


def _typed(key: str, value: Any, kind: Any, where: str) -> Any:
    """Check the type of a value; `kind` may be optional (``float | None``)."""
    allowed = get_args(kind)
    if type(None) in allowed:
        if value is None:
            return None
        [kind] = set(allowed) - {type(None)}
    if kind is float and isinstance(value, str):  # YAML takes 1e3 for a text
        value = _number(value)
    return Section({key: value}, where).take(key, kind)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def parse_options_of_methods(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read options of several methods, ``METHOD.KEY=VALUE`` each.

    Returns
    -------
    dict
        Method → its options, as `parse_options` gives them.

    Raises
    ------
    InputError
        As for `parse_options`, or a method is unknown.
    """
    by_method: dict[str, list[str]] = {}
    for pair in pairs:
        method, dot, rest = pair.partition(".")
        if not dot or "=" in method:
            raise InputError(f"--option takes METHOD.KEY=VALUE, such as orth-cali.lam=1000, got '{pair}'")
        by_method.setdefault(method, []).append(rest)
    return {method: parse_options(rest, method) for method, rest in by_method.items()}
