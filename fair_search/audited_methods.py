"""The methods of an audit, loaded by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.grid.configs import load_methods
from bias_evaluation.grid.methods import find_method, in_table_order
from fair_search.audit import AuditedMethod
from fair_search.bias_files import BiasFile, BiasLike, load_bias
from fair_search.config_files import config_folder
from fair_search.groups import Groups
from fair_search.loading import load_debiaser
from safe_io.documents import choices, unknown
from safe_io.errors import InputError

BASE = "vanilla"


def load_audited_methods(
    queries: Sequence[str] | np.ndarray,
    methods: Sequence[str] | None = None,
    *,
    text: TextStore | None = None,
    bias: BiasLike | None = None,
    weights: Mapping[str, Path] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    device: str = "cpu",
    groups: Groups | None = None,
) -> tuple[dict[str, AuditedMethod], dict[str, str]]:
    """Load methods and make their groups of queries.

    Parameters
    ----------
    queries : sequence of str, or ndarray of shape (Q, d)
        Texts or raw text embeddings.
    methods : sequence of str, optional
        Names of the registry, the one to compare with first. Without it every method that can be loaded.
    text : TextStore, optional
        Where embeddings of sentences come from.
    bias : BiasLike, optional
        As for `load_debiaser`.
    weights : mapping, optional
        Name of a method → its file of trained weights.
    options : mapping, optional
        Name of a method → its options, instead of those of ``config/methods.yml``.
    seed : int
        Seed of ZSDebias's noise.
    device : str
        'cpu' or 'cuda'.
    groups : Groups, optional
        The groups that are compared: methods that need labelled images take those of these groups.

    Returns
    -------
    audited : dict
        Name → `AuditedMethod`.
    left_out : dict
        Name → why it could not be loaded; empty where `methods` is given.

    Raises
    ------
    InputError
        A method that was named cannot be loaded, weights are of no method, or the queries cannot be used.
    """
    weights, options = dict(weights or {}), dict(options or {})
    known = load_methods(config_folder() / "methods.yml")  # registers classes of the user's own, too
    chosen = list(dict.fromkeys(methods)) if methods else in_table_order(known)
    for name in (*chosen, *weights):
        find_method(name)
    for name in options:
        if name not in chosen:
            raise unknown("method", name, chosen, "--option")
    described = None if bias is None else load_bias(bias)
    audited, left_out = {}, {}
    for name in chosen:
        try:
            debiaser = load_debiaser(
                name,
                text,
                described,
                weights=weights.get(name),
                options=options.get(name),
                seed=seed,
                device=device,
            )
            method = debiaser.method
            if groups is not None and method.takes_labelled_images() and method.needs:
                _check_reference_groups(groups, described)
            audited[name] = AuditedMethod(method, debiaser.groups(queries))
        except ValueError as error:  # an InputError, or queries that the method cannot take
            if methods or name == BASE:
                raise InputError(f"{name}: {error}" if name not in str(error) else str(error)) from None
            left_out[name] = str(error)
    return audited, left_out


def _check_reference_groups(groups: Groups, bias: BiasFile) -> None:
    """Raise if the groups are not the bias file's classes: the method would be given other labels."""
    if set(groups.classes) != set(bias.classes):
        raise InputError(
            f"it is given the images' groups as labels, but '{groups.attribute}' has the groups "
            f"{choices(groups.classes)}, and the bias '{bias.attribute}' the classes {choices(bias.classes)}"
            f"; give the bias file of '{groups.attribute}'"
        )
