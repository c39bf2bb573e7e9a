"""The paper's release: where its archives lie, how its files are named, and checks that execute nothing."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_evaluation.grid.configs import Backbone
from safe_io.documents import as_strings
from safe_io.errors import InputError
from safe_io.files import load_weights, read_json

if TYPE_CHECKING:
    from bias_evaluation.weights.kinds import WeightKind

BASE_URL = "https://github.com/mardgui/SEM/releases/download/v1.0"
"""Folder of the three archives: the release tag v1.0 of the paper's repository."""

MAX_TEXT_BYTES = (
    64 << 20
)  # prompts and results take kilobytes; more is no such file, and costs memory to parse
_GET_ANEW = "take it from the release again"


def check_weight_file(kind: WeightKind, path: Path, backbone: Backbone | None) -> None:
    """Open a weight file without executing anything in it, and check that it is usable.

    Parameters
    ----------
    kind : WeightKind
        What it should hold.
    path : pathlib.Path
    backbone : Backbone or None
        Whose width it must have; None allows any.

    Raises
    ------
    InputError
        It is damaged, holds more than tensors and plain values, would take much more memory than disk, is
        of another architecture or of another width.
    """
    weights = load_weights(path, make=_GET_ANEW)
    dim = kind.width(weights, path)
    if backbone is not None and dim != backbone.dim:
        raise InputError(
            f"{path} has width {dim}, but {backbone.name}, which its name states, has width {backbone.dim}"
        )


def read_diverse_prompts(path: Path) -> list[str]:
    """Read the diverse prompts from a Python module with one assignment, or from a JSON list.

    Parameters
    ----------
    path : pathlib.Path
        ``diverse_prompts.py`` (``diverse_prompts = [ … ]``) or ``diverse_prompts.json``.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        The file is not of that form. Nothing in it is executed.
    """
    check_text_size(path)
    if path.suffix == ".json":
        return list(as_strings(read_json(path, "diverse prompts"), str(path)))
    try:
        body = ast.parse(path.read_text(encoding="utf-8"), filename=path.name).body
        value = _assigned(body)
    except (SyntaxError, ValueError, RecursionError, MemoryError, UnicodeDecodeError):
        raise InputError(
            f"{path} must hold one assignment, diverse_prompts = [ … ], of a list of texts and nothing else; "
            f"it was read, not executed"
        ) from None
    return list(as_strings(value, f"{path}: diverse_prompts"))


def _assigned(body: list[ast.stmt]) -> Any:
    """Return the value of the one assignment of a module; a docstring may stand before it."""
    if len(body) == 2 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    if len(body) != 1 or not isinstance(body[0], ast.Assign):
        raise ValueError("not one assignment")
    [target] = body[0].targets
    if not isinstance(target, ast.Name) or target.id != "diverse_prompts":
        raise ValueError("another name")
    return ast.literal_eval(body[0].value)


def check_text_size(path: Path) -> None:
    """Raise `InputError` where a JSON or Python file is too large to be one of the release's."""
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise InputError(f"{path} has {size} bytes; the release's text files have at most {MAX_TEXT_BYTES}")
