"""An audit with what its page needs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from bias_evaluation.datasets.rgb import Reading
from fair_search.audit import Audit
from fair_search.audit_provenance import Provenance
from fair_search.audit_settings import SHOWN_IMAGES
from fair_search.verdict import Verdict, verdict


@dataclass(frozen=True, eq=False)
class Pictures:
    """What the contact sheets show.

    Attributes
    ----------
    paths : sequence of path or None
        Its file; without them the sheets show names.
    queries : tuple of str
        Which queries; empty: those with the largest MaxSkew under the first method.
    methods : tuple of str
        Which methods; empty: the first, and the recommended one (or else the fairest).
    count : int
        How many images.
    reading : Reading
        How the images were read when they were embedded.
    """

    paths: Sequence[Path] | None = None
    queries: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    count: int = SHOWN_IMAGES
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, eq=False)
class AuditReport:
    """An audit with what its page needs beside it.

    Attributes
    ----------
    audit : Audit
    names : sequence of str
        Name of the image in each row of the embeddings.
    title : str
        Heading, in place of the usual one.
    pictures : Pictures
        What the contact sheets show.
    notes : tuple of str
        Further sentences about the data.
    max_loss : float, optional
        As for `recommendation.recommend`.
    provenance : Provenance, optional
        What a command made the audit from.
    changes : pandas.DataFrame, optional
        Of `comparison.compare`: what changed since an earlier audit.
    unreadable : list of str
        Filled by `audit_page`: images that could not be shown.
    """

    audit: Audit
    names: Sequence[str]
    title: str = ""
    pictures: Pictures = field(default_factory=lambda: Pictures())
    notes: tuple[str, ...] = ()
    max_loss: float | None = None
    provenance: Provenance | None = None
    changes: pd.DataFrame | None = None
    unreadable: list[str] = field(default_factory=list)

    @property
    def k(self) -> int:
        """The depth that the summary speaks of: the largest."""
        return max(self.audit.settings.ks)

    @property
    def utility(self) -> str:
        """The metric of utility that there is."""
        return "precision" if self.audit.lists.relevant is not None else "overlap"

    @cached_property
    def verdict(self) -> Verdict:
        """What is said first."""
        return verdict(self.audit, self.k, self.max_loss)

    @property
    def compared_with(self) -> str:
        """The method that is shown beside the first: the recommended one, or else the fairest."""
        chosen = self.verdict.recommendation.method
        return chosen if chosen != self.methods[0] else self.fairest

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods."""
        return self.audit.lists.methods

    def means(self, k: int) -> pd.DataFrame:
        """Rows of the table that are means over the queries, by method and metric."""
        table = self.audit.table
        return table[(table["scope"] == "mean") & (table["k"] == k)].set_index(["method", "metric"])

    def by_query(self, metric: str, k: int) -> pd.DataFrame:
        """Values of a metric, queries × methods."""
        table = self.audit.table
        rows = table[(table["scope"] == "query") & (table["k"] == k) & (table["metric"] == metric)]
        return rows.pivot(index="query", columns="method", values="value").loc[
            list(self.audit.lists.queries), list(self.methods)
        ]

    @property
    def fairest(self) -> str:
        """The method with the lowest mean MaxSkew at the largest K."""
        means = self.means(self.k)["value"]
        return min(self.methods, key=lambda method: means[method, "max_skew"])

    def most_frequent(self, method: str, query: str) -> tuple[str, float]:
        """Group that is most over-represented in a list, and its share over the desired one."""
        lists, groups = self.audit.lists, self.audit.groups
        codes = lists.codes[lists.methods.index(method), lists.queries.index(query), : self.k]
        shares = np.bincount(codes, minlength=len(groups.classes)) / self.k
        ratios = shares / self.audit.settings.shares(self.audit.counts / self.audit.counts.sum())
        return groups.classes[int(ratios.argmax())], float(ratios.max())
