"""What an audit found, in plain words with counts, for those who decide.

Symbols: K depth, C groups, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bias_evaluation.grid.methods import display_name
from fair_search.audit import Audit
from fair_search.judging import RANDOM_ORDER
from fair_search.recommendation import Recommendation, recommend
from fair_search.small_groups import small_groups

FOUR_FIFTHS = 0.8  # rule of thumb of U.S. employment law (29 CFR 1607.4 D)
WORST = 5


@dataclass(frozen=True)
class WorstQuery:
    """A query whose list is skewed.

    Attributes
    ----------
    query : str
    skew : float
        MaxSkew of its list.
    counts : tuple of int
        Images of each group among the first K.
    """

    query: str
    skew: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Verdict:
    """What an audit found, for one attribute.

    Attributes
    ----------
    attribute : str
    k : int
        The depth that it is about.
    counts, chance, four_fifths : str
        A sentence or two each: the group that is found too often; whether chance explains it; the lowest
        parity ratio against 0.8.
    warnings : tuple of str
        Groups too small to say much.
    expected : tuple of float
        Images of each group among K that the desired shares ask for.
    by_chance : tuple of (int, int)
        For each group, where 95 % of the counts of lists in random order lie.
    worst : tuple of WorstQuery
        The most skewed queries of the first method, the worst first.
    recommendation : Recommendation
    """

    attribute: str
    k: int
    counts: str
    chance: str
    four_fifths: str
    warnings: tuple[str, ...]
    expected: tuple[float, ...]
    by_chance: tuple[tuple[int, int], ...]
    worst: tuple[WorstQuery, ...]
    recommendation: Recommendation

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of it in the order in which it is read."""
        return (self.counts, self.chance, self.four_fifths, *self.warnings, self.recommendation.why)


def verdict(audit: Audit, k: int | None = None, max_loss: float | None = None) -> Verdict:
    """Say what an audit found about the first method, and what to do.

    Parameters
    ----------
    audit : Audit
    k : int, optional
        Which K; the largest unless given.
    max_loss : float, optional
        As for `recommendation.recommend`.

    Returns
    -------
    Verdict
    """
    k = max(audit.settings.ks) if k is None else k
    table = audit.table
    means = table[(table["scope"] == "mean") & (table["k"] == k)].set_index(["method", "metric"])
    counts = group_counts(audit, audit.lists.methods[0], k)
    expected = k * audit.settings.shares(audit.counts / audit.counts.sum())
    named = dict(zip(audit.groups.classes, audit.counts.tolist(), strict=True))
    return Verdict(
        attribute=audit.groups.attribute,
        k=k,
        counts=_counts_sentence(audit, counts, expected, k),
        chance=_chance_sentence(audit, means, k),
        four_fifths=_four_fifths_sentence(audit, means, k),
        warnings=tuple(_as_sentence(line) for line in small_groups(audit.groups.attribute, named, k)),
        expected=tuple(expected.tolist()),
        by_chance=tuple(_by_chance(audit.counts, k)),
        worst=_worst(audit, counts, k),
        recommendation=recommend(table, k, audit.costs, max_loss),
    )


def group_counts(audit: Audit, method: str, k: int) -> np.ndarray:
    """Count the images of each group among the first K of every list of a method; ``(Q, C)`` int64."""
    codes = audit.lists.codes[audit.lists.methods.index(method), :, :k]
    return np.stack([(codes == c).sum(axis=1) for c in range(len(audit.groups.classes))], axis=1)


def _counts_sentence(audit: Audit, counts: np.ndarray, expected: np.ndarray, k: int) -> str:
    mean, classes = counts.mean(axis=0), audit.groups.classes
    asked = expected > 0
    ratios = np.divide(mean, expected, out=np.full(len(mean), -np.inf), where=asked)
    top = int(ratios.argmax())
    favored = np.where(asked, counts / np.where(asked, expected, 1.0), -np.inf).argmax(axis=1)
    times = int((favored == top).sum())
    over = f"on average over {len(counts)} queries" if len(counts) > 1 else "for the one query"
    return (
        f"Of the first {k} results of {display_name(audit.lists.methods[0])}, {_count(mean[top])} are "
        f"“{classes[top]}” {over}; {_count(expected[top])} would be expected. It is the most "
        f"over-represented group in {times} of {len(counts)} queries."
    )


def _count(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _chance_sentence(audit: Audit, means: pd.DataFrame, k: int) -> str:
    method = audit.lists.methods[0]
    first, random = means.loc[(method, "max_skew")], means.loc[(RANDOM_ORDER, "max_skew")]
    answer = (
        "Chance does not explain this" if first["low"] > random["high"] else "Chance alone could explain this"
    )
    return (
        f"{answer}: the mean MaxSkew is {first['value']:.2f} (95\xa0% interval {first['low']:.2f} to "
        f"{first['high']:.2f}), and 95\xa0% of random orders are between {random['low']:.2f} and "
        f"{random['high']:.2f}."
    )


def _four_fifths_sentence(audit: Audit, means: pd.DataFrame, k: int) -> str:
    method, table = audit.lists.methods[0], audit.table
    rows = table[(table["scope"] == "query") & (table["k"] == k) & (table["metric"] == "dp_ratio")]
    ratios = rows[rows["method"] == method].set_index("query")["value"]
    below = int((ratios < FOUR_FIFTHS).sum())
    lowest = ratios.idxmin()
    passed = "no query falls" if not below else f"{below} of {len(ratios)} queries fall"
    return (
        f"Four-fifths rule: {passed} below {FOUR_FIFTHS}; the lowest parity ratio is {ratios[lowest]:.2f} "
        f"(“{lowest}”). The mean is {ratios.mean():.2f}; random orders of {k} images have "
        f"{means.loc[(RANDOM_ORDER, 'dp_ratio'), 'value']:.2f} on average."
    )


def _as_sentence(line: str) -> str:
    return f"Small groups: {line}."


def _by_chance(counts: np.ndarray, k: int) -> list[tuple[int, int]]:
    """Central 95 % of the number of images of each group among K drawn at random (hypergeometric)."""
    from scipy.stats import hypergeom

    total = int(counts.sum())
    ends = [hypergeom(total, int(n), k).ppf([0.025, 0.975]) for n in counts]
    return [(int(low), int(high)) for low, high in ends]


def _worst(audit: Audit, counts: np.ndarray, k: int) -> tuple[WorstQuery, ...]:
    table = audit.table
    rows = table[
        (table["scope"] == "query")
        & (table["k"] == k)
        & (table["metric"] == "max_skew")
        & (table["method"] == audit.lists.methods[0])
    ]
    skews = rows.set_index("query")["value"].sort_values(ascending=False, kind="stable")
    place = {query: i for i, query in enumerate(audit.lists.queries)}
    return tuple(
        WorstQuery(query, float(skew), tuple(counts[place[query]].tolist()))
        for query, skew in skews.iloc[:WORST].items()
    )
