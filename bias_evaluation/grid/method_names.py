"""The twelve methods as results and tables know them: names, row order and groups, in one place.

Nothing is computed here. To show a method of your own in the tables, add a line to `METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass

_BASE = "Base"
_AGNOSTIC = "Bias-agnostic + input-specific prompts"
_BIAS = "Bias prompts only"
_BOTH = "Bias prompts + input-specific prompts"
_LABELLED = "Bias prompts + input-specific prompts + labelled images"


@dataclass(frozen=True, kw_only=True)
class MethodName:
    """One method's names.

    Parameters
    ----------
    result : str
        Result name: in result files' names, configs, the command line and the table of all results.
    display : str
        Name in the paper's tables.
    group : str
        Title of the group of rows it stands in: what the method needs to know.
    published : str
        Value of ``method`` in the published result files and configs; several results may share it.
    variant : str or None
        Which of the results that share `published` (the ``sem_version`` of the published configs).
    seeded : bool
        Whether the method is trained with several seeds, one result file each.
    """

    result: str
    display: str
    group: str
    published: str
    variant: str | None = None
    seeded: bool = False


METHODS: tuple[MethodName, ...] = (
    MethodName(result="vanilla", display="Base CLIP", group=_BASE, published="vanilla"),
    MethodName(result="roboshot", display="RoboShot", group=_AGNOSTIC, published="roboshot"),
    MethodName(result="sem-i", display="SEM_i", group=_AGNOSTIC, published="sem", variant="SEM_i"),
    MethodName(result="orth-proj", display="Orth-Proj", group=_BIAS, published="orth_proj"),
    MethodName(result="prism-mini", display="PRISM-mini", group=_BIAS, published="prism_mini"),
    MethodName(result="sem-b", display="SEM_b", group=_BIAS, published="sem", variant="SEM_b"),
    MethodName(result="zsdebias", display="ZSDebias", group=_BIAS, published="zsdebias", seeded=True),
    MethodName(result="orth-cali", display="Orth-Cali", group=_BOTH, published="orth_cali"),
    MethodName(result="sem-bi", display="SEM_bi", group=_BOTH, published="sem", variant="SEM_bi"),
    MethodName(result="prism", display="PRISM", group=_BOTH, published="prism", seeded=True),
    MethodName(result="bendvlm", display="BendVLM", group=_LABELLED, published="bendvlm"),
    MethodName(
        result="bendsem-bi", display="BendSEM_bi", group=_LABELLED, published="bendsem", variant="SEM_bi"
    ),
)

SEEDS: tuple[int, ...] = (0, 1, 2)
"""Seeds of the seeded methods in the paper's suite."""


def find_method(result: str) -> MethodName | None:
    """Return the method of a result name, or None where `METHODS` does not list it."""
    return next((method for method in METHODS if method.result == result), None)
