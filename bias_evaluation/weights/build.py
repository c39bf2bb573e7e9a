"""A method from its class, options and weights: the one place that calls the constructors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bias_evaluation.weights.kinds import KINDS
from debiasing_methods.base import DebiasingMethod
from safe_io.errors import as_input_error


def build_method(
    cls: type[DebiasingMethod],
    options: Mapping[str, Any],
    *,
    where: str,
    weights: Any = None,
    diverse: Tensor | None = None,
    seed: int | None = None,
) -> DebiasingMethod:
    """Call a method's constructor with what it asks for.

    Parameters
    ----------
    cls : type
        The method.
    options : mapping
        Keyword → value, for the options of the method.
    where : str
        What holds the options, for the error line: one may be out of its range.
    weights : object, optional
        What `WeightKind.load` of the method's kind gave; group name → it, where there is one per group.
    diverse : Tensor of shape (n, d), optional
        Raw embeddings of the diverse prompts, for methods that need them.
    seed : int, optional
        For methods whose constructor takes a seed.

    Raises
    ------
    InputError
        The constructor refuses an option or the weights.
    """
    arguments = dict(options)
    if cls.weights is not None:
        arguments[KINDS[cls.weights].keyword] = weights
    if "diverse" in cls.needs:
        arguments["diverse"] = diverse
    if seed is not None and "seed" in inspect.signature(cls.__init__).parameters:
        arguments["seed"] = seed
    with as_input_error(where):
        return cls(**arguments)
