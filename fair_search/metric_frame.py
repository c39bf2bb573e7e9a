"""Metrics by group, in the shape of fairlearn's ``MetricFrame``: ``by_group``, ``difference``, ``ratio``.

Symbols: K depth, C groups, Q queries; n_c number of images of group c among all that can be retrieved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fair_search.audit import Audit
from fair_search.fairness_metrics import exposure_shares
from fair_search.verdict import group_counts


@dataclass(frozen=True, eq=False)
class GroupMetrics:
    """Metrics of one method at one K, by group.

    The names are those of ``fairlearn.metrics.MetricFrame`` (https://fairlearn.org), so that code which reads
    one reads the other.

    Attributes
    ----------
    by_group : pandas.DataFrame of shape (C, metrics)
        Index: the groups, named after the attribute. Columns: `selection_rate`, the share of the group's
        images that is retrieved, mean over the queries; `representation`, the group's share among the K
        images over its share among all; `exposure`, the same for exposure (`fairness_metrics.exposure`).
    overall : pandas.Series
        The same of all images: the selection rate is K / N, the others are 1.
    """

    by_group: pd.DataFrame
    overall: pd.Series

    def group_min(self) -> pd.Series:
        """Lowest value of each metric over the groups."""
        return self.by_group.min()

    def group_max(self) -> pd.Series:
        """Highest value of each metric over the groups."""
        return self.by_group.max()

    def difference(self) -> pd.Series:
        """Highest minus lowest value of each metric over the groups (0 is fair)."""
        return self.group_max() - self.group_min()

    def ratio(self) -> pd.Series:
        """Lowest over highest value of each metric over the groups (1 is fair)."""
        return self.group_min() / self.group_max()


def group_metrics(audit: Audit, method: str, k: int) -> GroupMetrics:
    """Judge one method by group.

    Parameters
    ----------
    audit : Audit
    method : str
    k : int
        K; at most the largest of the audit.

    Returns
    -------
    GroupMetrics

    Raises
    ------
    ValueError
        The method is not in the audit, or K is out of range.
    """
    if method not in audit.lists.methods:
        raise ValueError(f"'{method}' is not in the audit; choose from: {', '.join(audit.lists.methods)}")
    if not 1 <= k <= audit.lists.codes.shape[2]:
        raise ValueError(f"K = {k} for lists of {audit.lists.codes.shape[2]} images")
    codes = audit.lists.codes[audit.lists.methods.index(method)]
    counts = group_counts(audit, method, k).mean(axis=0)
    exposed = exposure_shares(codes, len(audit.counts), [k])[..., 0, :].mean(axis=0)
    population = audit.counts / audit.counts.sum()
    by_group = pd.DataFrame(
        {
            "selection_rate": counts / audit.counts,
            "representation": counts / k / population,
            "exposure": exposed / population,
        },
        index=pd.Index(audit.groups.classes, name=audit.groups.attribute),
    )
    overall = pd.Series({"selection_rate": k / audit.counts.sum(), "representation": 1.0, "exposure": 1.0})
    return GroupMetrics(by_group, overall)


def by_group_table(audit: Audit) -> pd.DataFrame:
    """List `GroupMetrics.by_group` of every method and K: columns method, k, group, and the metrics."""
    parts = [
        group_metrics(audit, method, k)
        .by_group.rename_axis("group")
        .reset_index()
        .assign(method=method, k=k, images=np.asarray(audit.counts))
        for method in audit.lists.methods
        for k in audit.settings.ks
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[["method", "k", "group", "images", "selection_rate", "representation", "exposure"]]
