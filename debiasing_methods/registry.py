"""The list of all methods: one name, one class, in the order of the tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module

from debiasing_methods.base import PROMPT_KINDS, WEIGHT_KINDS, DebiasingMethod

GROUPS: Mapping[str, str] = {
    "base": "Base",
    "input-prompts": "Bias-agnostic + input-specific prompts",
    "bias-prompts": "Bias prompts only",
    "both-prompts": "Bias prompts + input-specific prompts",
    "labelled-images": "Bias prompts + input-specific prompts + labelled images",
    "image-labels": "Labelled images only",
    "inside-encoder": "Inside the encoder",
    "after-ranking": "After ranking",
}
"""Groups of the tables' rows, by what a method needs beside the query: key → title, in the tables' order."""

_PAPER_CLASSES = (
    "debiasing_methods.base:Vanilla",
    "debiasing_methods.roboshot:RoboShot",
    "debiasing_methods.sem:SemI",
    "debiasing_methods.projections:OrthProj",
    "debiasing_methods.projections:PrismMini",
    "debiasing_methods.sem:SemB",
    "debiasing_methods.zsdebias:ZSDebias",
    "debiasing_methods.projections:OrthCali",
    "debiasing_methods.sem:SemBI",
    "debiasing_methods.prism:Prism",
    "debiasing_methods.bend:BendVLM",
    "debiasing_methods.bend:BendSemBI",
)

# To add a method: its file, a line here, an entry in config/methods.yml.
_FURTHER_CLASSES = (
    "debiasing_methods.cfd:Cfd",
    "debiasing_methods.spd:Spd",
    "debiasing_methods.leace:Leace",
    "debiasing_methods.sfid:Sfid",
    "debiasing_methods.clip_clip:ClipClip",
    "debiasing_methods.debiaslens:DeBiasLensEmbedding",
    "debiasing_methods.debiaslens:DeBiasLensControl",
)

METHODS: dict[str, type[DebiasingMethod]] = {}
"""Result name → class, in the order of `GROUPS` and, within a group, of registration."""


def register(method: type[DebiasingMethod]) -> type[DebiasingMethod]:
    """Add a method to `METHODS`; it can be used as a class decorator.

    Parameters
    ----------
    method : type
        Subclass of `DebiasingMethod`. Registering the same class twice changes nothing.

    Returns
    -------
    type
        The class itself.

    Raises
    ------
    ValueError
        A class attribute is missing or has a value that is not allowed, or another class has the name.
    """
    _check(method)
    METHODS[method.name] = method
    order = list(GROUPS)
    ordered = sorted(METHODS.values(), key=lambda each: order.index(each.group))
    METHODS.clear()
    METHODS.update({each.name: each for each in ordered})
    return method


def _check(method: type[DebiasingMethod]) -> None:
    """Raise `ValueError` if a class does not say what the contract asks of it."""
    if not (isinstance(method, type) and issubclass(method, DebiasingMethod)):
        raise ValueError(f"{method!r} is not a subclass of debiasing_methods.base.DebiasingMethod")
    where = f"{method.__module__}.{method.__qualname__}"
    for attribute in ("name", "display_name", "group"):
        if not isinstance(getattr(method, attribute, None), str):
            raise ValueError(f"{where}: the class attribute '{attribute}' must be a text")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", method.name):
        raise ValueError(
            f"{where}: 'name' must be of lower-case letters, digits and single '-', found '{method.name}'"
        )
    if method.group not in GROUPS:
        raise ValueError(
            f"{where}: unknown group '{method.group}'; choose from: {', '.join(GROUPS)} "
            f"(debiasing_methods.registry.GROUPS)"
        )
    if unknown := sorted(method.needs - set(PROMPT_KINDS)):
        raise ValueError(f"{where}: unknown needs {unknown}; choose from: {', '.join(PROMPT_KINDS)}")
    if method.weights not in (None, *WEIGHT_KINDS):
        raise ValueError(
            f"{where}: unknown kind of weights '{method.weights}'; choose from: {', '.join(WEIGHT_KINDS)}, "
            f"or None"
        )
    if method.__abstractmethods__:
        raise ValueError(f"{where} does not define {', '.join(sorted(method.__abstractmethods__))}")
    other = METHODS.get(method.name)
    if other is not None and other is not method:
        raise ValueError(
            f"{where}: the name '{method.name}' is taken by {other.__module__}.{other.__qualname__}"
        )


def get_method(name: str) -> type[DebiasingMethod]:
    """Return the class of a method.

    Parameters
    ----------
    name : str
        Result name, as in configs and tables.

    Returns
    -------
    type
        Subclass of `DebiasingMethod`; its constructor's keywords are the method's options and weights.

    Raises
    ------
    ValueError
        No method has that name.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise ValueError(f"unknown method '{name}'; choose from: {', '.join(METHODS)}") from None


def import_method(entry: str) -> type[DebiasingMethod]:
    """Import a method's class and register it.

    Parameters
    ----------
    entry : str
        ``package.module:Class``.

    Returns
    -------
    type
        The class, now in `METHODS`.

    Raises
    ------
    ValueError
        There is no such module or class, or `register` refuses the class.
    """
    module_name, _, class_name = entry.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", entry):
        raise ValueError(f"'{entry}' must have the form package.module:Class")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        raise ValueError(
            f"there is no module '{module_name}' on Python's path (PYTHONPATH=<folder> adds a folder to it)"
        ) from None
    if not hasattr(module, class_name):
        raise ValueError(f"the module '{module_name}' ({module.__file__}) has no class '{class_name}'")
    return register(getattr(module, class_name))


for _entry in (*_PAPER_CLASSES, *_FURTHER_CLASSES):
    import_method(_entry)

PAPER: tuple[str, ...] = tuple(
    name for name, cls in METHODS.items() if f"{cls.__module__}:{cls.__qualname__}" in _PAPER_CLASSES
)
"""Result names of the methods of the SEM paper, in the order of its tables."""
