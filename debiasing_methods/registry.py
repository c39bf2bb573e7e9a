"""The list of all methods: one name, one class."""

from __future__ import annotations

from debiasing_methods.base import DebiasingMethod, Vanilla
from debiasing_methods.bend import BendSemBI, BendVLM
from debiasing_methods.prism import Prism
from debiasing_methods.projections import OrthCali, OrthProj, PrismMini
from debiasing_methods.roboshot import RoboShot
from debiasing_methods.sem import SemB, SemBI, SemI
from debiasing_methods.zsdebias import ZSDebias
from safe_io.errors import InputError

# In the order and the groups of the tables: by what a method needs beside the query.
_BASE = (Vanilla,)
_INPUT_PROMPTS = (RoboShot, SemI)
_BIAS_PROMPTS = (OrthProj, PrismMini, SemB, ZSDebias)
_BOTH_PROMPTS = (OrthCali, SemBI, Prism)
_LABELLED_IMAGES = (BendVLM, BendSemBI)

METHODS: dict[str, type[DebiasingMethod]] = {
    method.name: method
    for method in _BASE + _INPUT_PROMPTS + _BIAS_PROMPTS + _BOTH_PROMPTS + _LABELLED_IMAGES
}


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
    InputError
        No method has that name.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise InputError(f"unknown method '{name}'; choose from: {', '.join(METHODS)}") from None
