"""Which method to take: a stated rule that weighs fairness, utility and cost.

The rule starts from the Pareto front of fairness (mean MaxSkew) and utility (precision, or overlap with the
first method). It keeps the methods that are fairer than the first after Holm's correction and lose no more
utility than is allowed. Of these it takes the one that costs least to run, and of equal cost the fairest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from bias_evaluation.grid.methods import display_name
from debiasing_methods.base import DebiasingMethod
from fair_search.audit_settings import MAX_LOSS
from fair_search.judging import RANDOM_ORDER
from fair_search.significance import LEVEL

FAIRNESS_METRIC = "max_skew"


@dataclass(frozen=True, order=True)
class Cost:
    """What a method costs to run; one that compares as smaller costs less.

    Attributes
    ----------
    changes_images : bool
        The index must be rebuilt from changed images.
    needs_reference : bool
        Labeled images are needed whenever queries are debiased.
    needs_weights : bool
        Weights must be trained first.
    changes_text : bool
        Queries must be debiased; without any of these the search stays as it is.
    """

    changes_images: bool = False
    needs_reference: bool = False
    needs_weights: bool = False
    changes_text: bool = False

    @classmethod
    def of(cls, method: DebiasingMethod) -> Cost:
        """Read the cost of a method from its class."""
        return cls(
            method.changes_images,
            method.takes_labelled_images(),
            method.weights is not None,
            method.changes_text,
        )

    @property
    def words(self) -> str:
        """Say what must be done."""
        parts = [
            text
            for holds, text in (
                (self.changes_text, "debiases the queries"),
                (self.changes_images, "changes the images, so the index is rebuilt"),
                (self.needs_reference, "needs labeled images"),
                (self.needs_weights, "needs trained weights"),
            )
            if holds
        ]
        return "; ".join(parts) or "nothing to do"


@dataclass(frozen=True)
class Recommendation:
    """What the rule says.

    Attributes
    ----------
    method : str
        The recommended method; the first one where no other passes.
    why : str
        One or two sentences.
    utility : str
        Metric of utility: precision, or overlap.
    max_loss : float
        How much less of it is allowed than the first method has.
    front : tuple of str
        Methods that no other beats in both, the most useful first.
    passing : tuple of str
        Those of the front that are surely fairer and lose no more than allowed, the cheapest first.
    """

    method: str
    why: str
    utility: str
    max_loss: float
    front: tuple[str, ...]
    passing: tuple[str, ...]


def recommend(
    table: pd.DataFrame, k: int, costs: Mapping[str, Cost], max_loss: float | None = None
) -> Recommendation:
    """Apply the rule to the means of an audit.

    Parameters
    ----------
    table : pandas.DataFrame
        Of `judging.judge`.
    k : int
        Which K.
    costs : mapping
        Method → its cost, in the order of the methods; the first is what the others are compared with.
    max_loss : float, optional
        Loss of utility that is allowed; without it that of `audit_settings.MAX_LOSS`.

    Returns
    -------
    Recommendation
    """
    means = table[(table["scope"] == "mean") & (table["k"] == k)].set_index(["metric", "method"])
    utility = "precision" if "precision" in means.index.get_level_values("metric") else "overlap"
    allowed = MAX_LOSS[utility] if max_loss is None else max_loss
    skew, useful = means.loc[FAIRNESS_METRIC], means.loc[utility]["value"]
    first = next(iter(costs))
    front = pareto_front(skew["value"], useful, list(costs))
    passing = [
        name
        for name in front
        if name != first
        and holds(skew.loc[name], better="lower")
        and useful[first] - useful[name] <= allowed + 1e-12
    ]
    passing.sort(key=lambda name: (costs[name], skew.loc[name, "value"]))
    explained = skew.loc[first, "low"] <= skew.loc[RANDOM_ORDER, "high"]
    chosen = first if explained or not passing else passing[0]
    why = _why(first, chosen, skew, useful, utility, allowed, explained, costs[chosen])
    return Recommendation(chosen, why, utility, allowed, tuple(front), tuple(passing))


def pareto_front(skew: pd.Series, useful: pd.Series, methods: Sequence[str]) -> list[str]:
    """Methods that no other beats: none is as fair and as useful, and better in one; useful first."""
    front = [
        name
        for name in methods
        if not any(
            skew[other] <= skew[name]
            and useful[other] >= useful[name]
            and (skew[other] < skew[name] or useful[other] > useful[name])
            for other in methods
        )
    ]
    return sorted(front, key=lambda name: (-useful[name], skew[name]))


def holds(row: pd.Series, better: str) -> bool:
    """Whether a method is better than the first one after Holm's correction; `better`: lower or higher."""
    right_way = row["difference"] < 0 if better == "lower" else row["difference"] > 0
    return bool(right_way and row["p_holm"] < LEVEL)


def _why(
    first: str,
    chosen: str,
    skew: pd.DataFrame,
    useful: pd.Series,
    utility: str,
    allowed: float,
    explained: bool,
    cost: Cost,
) -> str:
    base = display_name(first)
    if explained:
        return f"Keep {base}: chance alone could explain its skew, so there is nothing to remove."
    if chosen == first:
        return (
            f"Keep {base}: no method on the Pareto front is surely fairer and loses at most {allowed:g} of "
            f"{utility}."
        )
    return (
        f"Take {display_name(chosen)}: its mean MaxSkew is {skew.loc[chosen, 'value']:.2f}, that of {base} "
        f"{skew.loc[first, 'value']:.2f}; its {utility} is {useful[chosen]:.2f}, that of {base} "
        f"{useful[first]:.2f}. Cost: {cost.words}."
    )
