"""Which PRISM maps a task setting uses, and how they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_type_hints

from bias_evaluation.grid.configs import Setting
from debiasing_methods.training.hyperparameters import PrismHyperparameters
from safe_io.documents import Section, choices, read_yaml
from safe_io.errors import InputError

TRAINING = "prism_training.yml"  # in the config folder
# The release names the text sets of the hair colours after their dataset.
_FAMILIES = {"hair": "celeba"}
_REQUIRED = ("num_samples", "lr")


def text_set_name(setting: Setting, group: str) -> str:
    """Name the text set, and so the map, of a query group.

    Parameters
    ----------
    setting : Setting
    group : str
        Query class (retrieval): each has a map of its own. The one map of a classification serves its group.

    Returns
    -------
    str
        As in file names, e.g. ``stereotype_dangerous-person_utkrace``, ``waterbirds``.
    """
    if setting.task != "retrieval":
        return setting.prompts
    bias = setting.prompts.removeprefix(f"{setting.query_type}_")  # utkrace, where the attribute is race
    return f"{_FAMILIES.get(setting.query_type, setting.query_type)}_{group.lower().replace(' ', '-')}_{bias}"


def load_prism_training(path: Path) -> dict[str, PrismHyperparameters]:
    """Read how maps are trained.

    Parameters
    ----------
    path : pathlib.Path
        ``config/prism_training.yml``.

    Returns
    -------
    dict
        Pattern of setting names → hyper-parameters, in file order.

    Raises
    ------
    InputError
        The file is missing or not YAML; a key is unknown or missing, or a value of the wrong type or range.
    """
    top = Section(read_yaml(path, "PRISM training file"), str(path))
    kinds = get_type_hints(PrismHyperparameters)
    found = {}
    for pattern in top:
        section = top.section(pattern)
        values = {n: section.take(n, k) for n, k in kinds.items() if n in section or n in _REQUIRED}
        try:
            found[pattern] = PrismHyperparameters(**values)
        except ValueError as error:
            raise InputError(f"{section.where}: {error}") from None
        section.finish()
    return found


def hyperparameters(
    training: Mapping[str, PrismHyperparameters], text_set: str, where: Path
) -> PrismHyperparameters:
    """Find how the maps of a text set are trained; `InputError` where no pattern fits its name."""
    for pattern, found in training.items():
        if fnmatchcase(text_set, pattern):
            return found
    raise InputError(
        f"{where}: no pattern fits the setting '{text_set}'; there are: {choices(list(training))}"
    )
