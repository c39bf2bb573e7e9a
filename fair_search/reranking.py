"""Fair re-ranking of an audit's lists: the shares that were asked for, beside what methods reach without it.

Symbols: N images, d embedding dimension, M methods, Q queries, C groups, K depth.

A re-ranked list needs the best K images of each group, which a second pass over the embeddings finds. Its
metrics have no bootstrap intervals: every draw would have to be re-ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.grid.methods import split_reranked
from bias_evaluation.scoring.top_k import TopK
from debiasing_methods.linalg import unit
from debiasing_methods.reranking import ALGORITHMS, Reranked, exact_shares, rerank, uniform_shares
from fair_search.bias_files import BiasFile
from fair_search.groups import Groups, QueryLabels
from fair_search.judging import AuditSettings, RankedLists, evaluate, values_table
from fair_search.ranking import IMAGE_ROWS, Scorer, read_chunks
from safe_io.documents import choices, unknown
from safe_io.errors import InputError

COUNTS = ("short", "fallbacks", "below_floor", "above_ceiling")


@dataclass(frozen=True, eq=False)
class RerankOptions:
    """What is re-ranked, and by which labels.

    Attributes
    ----------
    names : tuple of str
        ``<method>+<algorithm>``, of methods that are audited.
    class_prompts : Tensor of shape (C, d) or None
        Raw embeddings of a prompt for each group, to predict labels with; None: the groups of the metadata.
    """

    names: tuple[str, ...]
    class_prompts: Tensor | None = None

    @property
    def labels(self) -> str:
        """Whose labels re-ranking sees: 'given' or 'predicted'."""
        return "given" if self.class_prompts is None else "predicted"


@dataclass(frozen=True, eq=False)
class RerankedAudit:
    """What re-ranking reaches.

    Attributes
    ----------
    table : pandas.DataFrame
        As `judging.judge`'s, without intervals, by the groups of the metadata.
    lists : RankedLists
        The re-ranked lists, as long as the largest K.
    counts : mapping
        Name → `COUNTS`, summed over the queries.
    labels : str
        'given' or 'predicted'.
    label_error : float or None
        Share of the images whose predicted label is another than the given one.
    shares : tuple of Fraction
        Desired shares of the groups.
    """

    table: pd.DataFrame
    lists: RankedLists
    counts: Mapping[str, Mapping[str, int]]
    labels: str
    label_error: float | None
    shares: tuple[Fraction, ...]

    def record(self) -> dict[str, Any]:
        """Return how lists were re-ranked and what was not kept, as plain values."""
        return {
            "labels": self.labels,
            "label_error": self.label_error,
            "shares": [float(share) for share in self.shares],
            "counts": {name: dict(counts) for name, counts in self.counts.items()},
        }


def rerank_names(given: Sequence[str], methods: Sequence[str]) -> tuple[str, ...]:
    """Read the names of ``--rerank``: an algorithm, after the first method, or ``<method>+<algorithm>``.

    Raises
    ------
    InputError
        There is no such algorithm, or the method is not audited.
    """
    names = []
    for name in given:
        method, algorithm = split_reranked(name if "+" in name else f"{methods[0]}+{name}")
        if algorithm not in ALGORITHMS:
            raise unknown("re-ranking", str(algorithm), list(ALGORITHMS), "--rerank")
        if method not in methods:
            raise unknown("method", method, list(methods), f"--rerank {name}")
        names.append(f"{method}+{algorithm}")
    return tuple(dict.fromkeys(names))


def class_prompts(bias: BiasFile, text: TextStore, groups: Groups, device: str = "cpu") -> Tensor:
    """Embed the prompt of each group that labels are predicted with: BendVLM's spurious prompts.

    Raises
    ------
    InputError
        The groups are not the bias file's classes, or it has several prompts for a class.
    """
    if set(groups.classes) != set(bias.classes):
        raise InputError(
            f"labels cannot be predicted: '{groups.attribute}' has the groups {choices(groups.classes)}, and "
            f"the bias '{bias.attribute}' the classes {choices(bias.classes)}"
        )
    [group] = bias.prompts(["a query"]).groups
    prompts = group.for_method("bendvlm", frozenset({"spurious"})).spurious
    if len(prompts) != len(bias.classes):
        raise InputError(
            f"{bias.source}: predicted labels need one spurious prompt for each of {len(bias.classes)} "
            f"classes, found {len(prompts)}"
        )
    by_class = dict(zip(bias.classes, prompts, strict=True))
    return text.embed([by_class[name] for name in groups.classes]).to(device)


def rerank_audit(
    embeddings: np.ndarray,
    scorers: Mapping[str, Scorer],
    lists: RankedLists,
    groups: Groups,
    keep: np.ndarray,
    settings: AuditSettings,
    options: RerankOptions,
    labels: QueryLabels | None = None,
    *,
    chunk_rows: int = IMAGE_ROWS,
    source: str = "embeddings",
    device: str = "cpu",
) -> RerankedAudit:
    """Re-rank lists and judge them by the groups of the metadata.

    Parameters
    ----------
    embeddings : ndarray of shape (N, d)
    scorers : mapping
        Name of each audited method → what scores for it.
    lists : RankedLists
        Of the audit: overlap is with the first method's.
    groups : Groups
    keep : ndarray of shape (N,), bool
        Images that can be retrieved.
    settings : AuditSettings
        K and the desired shares: those of the labels that re-ranking sees, or uniform. `pbm` has equal
        shares.
    options : RerankOptions
    labels : QueryLabels, optional
        Where they are given, precision is judged too.
    chunk_rows, source, device
        As for `ranking.rank_images`.

    Returns
    -------
    RerankedAudit

    Raises
    ------
    InputError
        All images are predicted to be of one group.
    """
    k, n_groups = max(settings.ks), len(groups.classes)
    wanted = {name: scorers[name] for name in dict.fromkeys(split_reranked(n)[0] for n in options.names)}
    orders, codes = best_of_groups(
        embeddings, wanted, _coder(groups, keep, options), n_groups, k, chunk_rows, source, device
    )
    counts = np.bincount(codes[keep], minlength=n_groups)
    if (counts > 0).sum() < 2:
        raise InputError(
            f"all {int(keep.sum())} images are predicted to be '{groups.classes[int(counts.argmax())]}', so "
            f"predicted labels cannot re-rank them; use the labels that are given"
        )
    shares = uniform_shares(n_groups) if settings.desired == "uniform" else exact_shares(counts.tolist())
    found: dict[str, Reranked] = {}
    for name in options.names:
        method, algorithm = split_reranked(name)
        own = uniform_shares(n_groups) if algorithm == "pbm" else shares
        found[name] = rerank(orders[method], codes, own, k, algorithm)
    judged, table = _judge(found, lists, groups, keep, settings, labels)
    predicted = options.class_prompts is not None
    error = float((codes[keep] != groups.codes[keep]).mean()) if predicted else None
    sums = {name: {c: int(getattr(each, c).sum()) for c in COUNTS} for name, each in found.items()}
    return RerankedAudit(table, judged, sums, options.labels, error, shares)


def _judge(
    found: Mapping[str, Reranked],
    lists: RankedLists,
    groups: Groups,
    keep: np.ndarray,
    settings: AuditSettings,
    labels: QueryLabels | None,
) -> tuple[RankedLists, pd.DataFrame]:
    """Judge re-ranked lists beside those of the first method, to which they are compared."""
    k = max(settings.ks)
    rows = np.stack([lists.rows[0, :, :k], *(each.positions for each in found.values())])
    relevant = None if labels is None else labels.relevant(rows)
    names = (lists.methods[0], *found)
    together = RankedLists(names, lists.queries, rows, groups.codes[rows], relevant)
    counts = np.bincount(groups.codes[keep], minlength=len(groups.classes))
    values = evaluate(together, None, counts / counts.sum(), settings)
    table = values_table(together, values, settings)
    own = RankedLists(
        names[1:], lists.queries, rows[1:], together.codes[1:], None if relevant is None else relevant[1:]
    )
    return own, table[table["method"] != names[0]].reset_index(drop=True)


Coder = Callable[[int, Tensor], np.ndarray]


def _coder(groups: Groups, keep: np.ndarray, options: RerankOptions) -> Coder:
    """Return what labels a chunk of unit images: first row, rows → groups ``(n,)``, −1 if not kept."""
    text = None if options.class_prompts is None else unit(options.class_prompts.float()).T

    def codes(start: int, unit_rows: Tensor) -> np.ndarray:
        rows = slice(start, start + len(unit_rows))
        found = groups.codes[rows] if text is None else (unit_rows @ text).argmax(1).cpu().numpy()
        return np.where(keep[rows], found, -1)

    return codes


@torch.inference_mode()
def best_of_groups(
    embeddings: np.ndarray,
    scorers: Mapping[str, Scorer],
    label: Coder,
    n_groups: int,
    k: int,
    chunk_rows: int = IMAGE_ROWS,
    source: str = "embeddings",
    device: str = "cpu",
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Find the best K images of each group, in one pass over the embeddings.

    Returns
    -------
    orders : dict
        Name → rows ``(Q, m)`` of the best min(K, size) images of all groups together, best first; of equal
        scores the lower row.
    codes : ndarray of shape (N,), int64
        The groups that `label` gave.
    """
    best = {name: [TopK(k) for _ in range(n_groups)] for name in scorers}
    codes = np.full(len(embeddings), -1)
    for start, chunk in read_chunks(embeddings, chunk_rows, source):
        rows = chunk.to(device)
        unit_rows = unit(rows)
        own = codes[start : start + len(rows)] = label(start, unit_rows)
        members = {
            group: torch.from_numpy(np.flatnonzero(own == group)) for group in np.unique(own[own >= 0])
        }
        for name, scorer in scorers.items():
            scores = scorer.scores(rows, unit_rows, start).to("cpu", torch.float32)
            for group, mine in members.items():
                best[name][group].add(scores[mine].T.contiguous(), start + mine)
    return {name: _merged(found) for name, found in best.items()}, codes


def _merged(best: Sequence[TopK]) -> np.ndarray:
    """Rank the best images of all groups together, ``(Q, m)``."""
    there = [each for each in best if each.rows is not None]
    rows, scores = (torch.cat([getattr(each, name) for each in there], 1) for name in ("rows", "scores"))
    rows, by_row = rows.sort(dim=1)
    order = scores.gather(1, by_row).sort(dim=1, descending=True, stable=True).indices
    return rows.gather(1, order).numpy()
