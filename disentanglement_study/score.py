"""The disentanglement score.

Symbols: a_direct, a_leak accuracies of the bias attribute, read from the features and from the subject
probe's decision values; chance = 1 / number of bias values; σ standard deviation over folds (ddof 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev


@dataclass(frozen=True)
class Score:
    """A score with its spread, or the reason why there is none.

    Attributes
    ----------
    value, spread : float or None
        D and its spread; 1 is disentangled.
    undefined : str or None
        Why D is undefined.
    """

    value: float | None
    spread: float | None
    undefined: str | None


def score_folds(direct: Sequence[float], leak: Sequence[float], chance: float) -> Score:
    """Score the accuracies of all folds.

    Parameters
    ----------
    direct, leak : sequence of float
        Accuracies of each fold, between 0 and 1.
    chance : float
        Accuracy of guessing.

    Returns
    -------
    Score
    """
    return score_means(fmean(direct), pstdev(direct), fmean(leak), pstdev(leak), chance)


def score_means(direct: float, direct_sd: float, leak: float, leak_sd: float, chance: float) -> Score:
    """Score means and standard deviations over folds.

    ``D = 1 − E`` with ``E = (a_leak − chance) / (a_direct − chance)``, and its spread to first order,
    ``E·√((σ_leak/(a_leak − chance))² + (σ_direct/(a_direct − chance))²)`` (SEM, arXiv:2603.19028, section
    3.1).

    Returns
    -------
    Score
        Undefined where an accuracy is not above chance.
    """
    for name, accuracy in (("a_direct", direct), ("a_leak", leak)):
        if accuracy - chance <= 0:
            return Score(None, None, f"{name} {accuracy:.4f} is not above chance {chance:.4f}")
    entangled = (leak - chance) / (direct - chance)
    relative = math.hypot(leak_sd / (leak - chance), direct_sd / (direct - chance))
    return Score(1 - entangled, entangled * relative, None)
