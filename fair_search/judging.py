"""From ranked lists to a tidy table: every metric of every method, query and K, with intervals.

Symbols: N images, C groups, M methods, Q queries, L length of the lists, K ≤ L images that are judged, B
bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from fair_search.audit_settings import AuditSettings
from fair_search.bootstrap import image_draws, interval, query_draws
from fair_search.fairness_metrics import METRICS, fairness_at, random_order
from fair_search.significance import bootstrap_p, holm

RANDOM_ORDER = "(random order)"
RANDOM_DRAWS = 200
_ABSENT = np.iinfo(np.int32).max  # the position, in the first method's list, of an image that is not in it

COLUMNS = (
    "method", "scope", "query", "k", "metric", "value", "low", "high",
    "difference", "difference_low", "difference_high", "p_value", "p_holm",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class RankedLists:
    """The lists of all methods, with what is known of the images in them.

    Attributes
    ----------
    methods, queries : tuple of str
    rows : ndarray of shape (M, Q, L), int64
        Rows of the images, best first.
    codes : ndarray of shape (M, Q, L), integer
        Their groups.
    relevant : ndarray of shape (M, Q, L), bool, or None
        Whether they have the query's label, where there are labels.
    """

    methods: tuple[str, ...]
    queries: tuple[str, ...]
    rows: np.ndarray
    codes: np.ndarray
    relevant: np.ndarray | None = None

    @cached_property
    def first_positions(self) -> np.ndarray:
        """Where each image stands in the first method's list of the query, ``(M, Q, L)`` int32."""
        positions = np.full(self.rows.shape, _ABSENT, np.int32)
        for q in range(self.rows.shape[1]):
            order = np.argsort(self.rows[0, q])
            base = self.rows[0, q, order]
            at = np.minimum(np.searchsorted(base, self.rows[:, q]), len(base) - 1)
            positions[:, q] = np.where(base[at] == self.rows[:, q], order[at], _ABSENT)
        return positions

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that can be judged."""
        return tuple(name for name in METRICS if name != "precision" or self.relevant is not None)


def evaluate(
    lists: RankedLists, positions: np.ndarray | None, population: np.ndarray, settings: AuditSettings
) -> np.ndarray:
    """Judge lists, or what a bootstrap draw makes of them.

    Parameters
    ----------
    lists : RankedLists
    positions : ndarray of shape (M, Q, K_max), integer, or None
        Which positions of the old lists stand at the top of the new ones; None: the lists themselves.
    population : ndarray of shape (C,)
        Share of each group among all images.
    settings : AuditSettings

    Returns
    -------
    ndarray of shape (metrics, M, Q, len(ks)), float64
        In the order of `RankedLists.metrics`.
    """
    top = max(settings.ks)

    def chosen(values: np.ndarray) -> np.ndarray:
        return values[..., :top] if positions is None else np.take_along_axis(values, positions, axis=-1)

    found = fairness_at(chosen(lists.codes), settings.shares(population), population, settings.ks)
    if lists.relevant is not None:
        relevant = chosen(lists.relevant)
        found["precision"] = np.stack([relevant[..., :k].mean(-1) for k in settings.ks], -1)
    in_first = chosen(lists.first_positions)
    last = in_first[0]  # the first method's own positions: its K-th is where its list ends
    shared = [(in_first[..., :k] <= last[:, k - 1, None]).mean(-1) for k in settings.ks]
    found["overlap"] = np.stack(shared, -1)
    return np.stack([found[name] for name in lists.metrics])


def judge(lists: RankedLists, codes: np.ndarray, n_groups: int, settings: AuditSettings) -> pd.DataFrame:
    """Judge the lists of all methods side by side.

    Parameters
    ----------
    lists : RankedLists
        The first method is what the others are compared with. RankedLists are longer than K (see
        `bootstrap.list_length`), or hold all images.
    codes : ndarray of shape (N,), integer
        Group of every image that can be retrieved.
    n_groups : int
        C; every group has an image.
    settings : AuditSettings

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`, one row a method × query × K × metric (``scope`` query) and one for the mean of all
        queries (``scope`` mean, ``query`` empty), which also has the difference to the first method, its
        bootstrap p-value, and that p-value after Holm's correction for the methods of one K and metric.
        `low`, `high`: 95 % intervals. Last the random order: its mean, and where 95 % of random orders lie.
    """
    counts = np.bincount(codes, minlength=n_groups)
    values = evaluate(lists, None, counts / counts.sum(), settings)
    draws = np.stack(list(_draws(lists, counts, settings)))  # (B, metrics, M, Q, ks)
    low, high = _intervals(lists, draws, values)
    means = values.mean(axis=2)
    mean_draws = draws.mean(axis=3)
    if settings.bootstrap == "queries":
        chosen = query_draws(values.shape[2], draws=settings.draws, seed=settings.seed)
        mean_draws = np.stack([values[:, :, drawn].mean(axis=2) for drawn in chosen])
    mean_low, mean_high = _intervals(lists, mean_draws, means)
    differences = means - means[:, :1]
    difference_draws = mean_draws - mean_draws[:, :, :1]
    difference_low, difference_high = interval(difference_draws, differences)
    p_values = bootstrap_p(difference_draws, differences)
    p_holm = p_values.copy()
    p_holm[:, 1:] = holm(p_values[:, 1:], axis=1)
    frames = [
        _frame(lists, settings.ks, "query", value=values, low=low, high=high),
        _frame(
            lists,
            settings.ks,
            "mean",
            value=means[:, :, None],
            low=mean_low[:, :, None],
            high=mean_high[:, :, None],
            difference=differences[:, :, None],
            difference_low=difference_low[:, :, None],
            difference_high=difference_high[:, :, None],
            p_value=p_values[:, :, None],
            p_holm=p_holm[:, :, None],
        ),
        _random_frame(lists, codes, counts / counts.sum(), settings),
    ]
    table = pd.concat(frames, ignore_index=True)
    first = (table["method"] == lists.methods[0]) | (table["method"] == RANDOM_ORDER)
    table.loc[first, list(COLUMNS[8:])] = np.nan
    return table[list(COLUMNS)]


def values_table(lists: RankedLists, values: np.ndarray, settings: AuditSettings) -> pd.DataFrame:
    """Make a table as `judge` does, of values ``(metrics, M, Q, len(ks))`` and without intervals."""
    means = values.mean(axis=2)[:, :, None]
    frames = [
        _frame(lists, settings.ks, "query", value=values),
        _frame(lists, settings.ks, "mean", value=means, difference=means - means[:, :1]),
    ]
    return pd.concat(frames, ignore_index=True).reindex(columns=list(COLUMNS))


def _draws(lists: RankedLists, counts: np.ndarray, settings: AuditSettings) -> Iterator[np.ndarray]:
    """Metrics of each bootstrap draw of images, float32."""
    shape = lists.rows.shape
    flat = (lists.rows.reshape(-1, shape[2]), lists.codes.reshape(-1, shape[2]))
    top = max(settings.ks)
    for positions, drawn in image_draws(*flat, counts, top, draws=settings.draws, seed=settings.seed):
        positions = positions.reshape(*shape[:2], top)
        yield evaluate(lists, positions, drawn / drawn.sum(), settings).astype(np.float32)


def _intervals(lists: RankedLists, draws: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of values ``(metrics, …)``, each within the bounds of its metric."""
    pairs = [interval(draws[:, i], values[i], METRICS[name].bounds) for i, name in enumerate(lists.metrics)]
    low, high = (np.stack(ends) for ends in zip(*pairs, strict=True))
    return low, high


def _frame(lists: RankedLists, ks: Sequence[int], scope: str, **columns: np.ndarray) -> pd.DataFrame:
    """Make a tidy table of arrays ``(metrics, M, Q or 1, len(ks))``."""
    queries = lists.queries if scope == "query" else ("",)
    names = ("metric", "method", "query", "k")
    index = pd.MultiIndex.from_product([lists.metrics, lists.methods, queries, ks], names=names)
    table = pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index).reset_index()
    order = {name: place for place, name in enumerate(lists.methods)}
    table = table.assign(scope=scope, place=table["method"].map(order))
    return table.sort_values("place", kind="stable").drop(columns="place")


def _random_frame(
    lists: RankedLists, codes: np.ndarray, population: np.ndarray, settings: AuditSettings
) -> pd.DataFrame:
    shares = settings.shares(population)
    found: Mapping[str, np.ndarray] = random_order(
        codes, len(lists.queries), shares, population, settings.ks, draws=RANDOM_DRAWS, seed=settings.seed
    )
    rows = [
        (RANDOM_ORDER, "mean", "", k, name, draws[:, i].mean(), *np.percentile(draws[:, i], [2.5, 97.5]))
        for name, draws in found.items()
        for i, k in enumerate(settings.ks)
    ]
    return pd.DataFrame(rows, columns=COLUMNS[:8])
