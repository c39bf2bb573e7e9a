"""How far the uncertainty of the model moves the figures of an audit.

Symbols: N images, Q queries, C groups, K depth, d embedding dimension.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bias_evaluation.datasets.folder import head_path
from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.embedding.identity import check_made_by
from bias_evaluation.embedding.residuals import read_head
from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.scoring.fold_scores import SharedScores
from bias_evaluation.scoring.top_k import top_k
from bias_evaluation.uncertainty.draws import DRAWS, Uncertain, drawn_fold_scores
from bias_evaluation.uncertainty.factors import read_factors
from bias_evaluation.uncertainty.images import check_residuals, image_spread, mean_variances
from debiasing_methods.base import DebiasingMethod, QueryGroup, ReferenceImages
from debiasing_methods.uncertainty import Spread
from fair_search.audit_settings import AuditSettings
from fair_search.groups import Groups
from fair_search.judging import RankedLists, evaluate
from safe_io.errors import InputError
from safe_io.matrix_files import read_matrix

_EMBEDDINGS, _RESIDUALS = "_embeddings.npy", "_residuals.npy"


@dataclass(frozen=True, eq=False)
class AuditUncertainty:
    """How far the model's uncertainty moves an audit.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per method × K × metric: `mean`, `sd`, and `low` and `high` (2.5 and 97.5 percentiles) of the
        mean over the queries, over the draws.
    variance_by_group : mapping
        Group → mean variance of the cosine of its images with the queries, before debiasing.
    draws : int
    """

    table: pd.DataFrame
    variance_by_group: Mapping[str, float]
    draws: int

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        by_group = dict(self.variance_by_group)
        return {"draws": self.draws, "means": self.table.to_dict("records"), "variance_by_group": by_group}


def residuals_path(embeddings: Path, given: Path | None) -> Path:
    """Return the file of the residuals: the given one, or that beside embeddings of a dataset folder."""
    if given is None and not embeddings.name.endswith(_EMBEDDINGS):
        raise InputError(
            f"--uncertainty needs the residuals of the images of {embeddings} (--residuals); "
            f"precompute_embeddings.py --residuals makes them"
        )
    return given or embeddings.with_name(embeddings.name.removesuffix(_EMBEDDINGS) + _RESIDUALS)


def load_uncertain(
    factors: Path,
    residuals: Path,
    embeddings: np.ndarray,
    queries: Sequence[str] | np.ndarray,
    text: TextStore | None,
    *,
    seed: int,
    source: Path,
    device: str = "cpu",
) -> Uncertain:
    """Load what is uncertain in an audit.

    Parameters
    ----------
    factors : pathlib.Path
        File of `hessian_estimation.py`.
    residuals : pathlib.Path
        Of the images, `precompute_embeddings.py --residuals`.
    embeddings : ndarray of shape (N, d)
    queries : sequence of str
        Q texts.
    text : TextStore
        Of a backbone.
    seed : int
        Of the draws.
    source : pathlib.Path
        File of the embeddings, for error lines.
    device : str
        'cpu' or 'cuda'.

    Raises
    ------
    InputError
        Queries are no texts, there is no model, or files are missing, damaged or of another model.
    """
    if text is None or text.backbone is None or text.given is not None or isinstance(queries, np.ndarray):
        raise InputError(
            "--uncertainty needs the model and the texts of the queries: give --backbone and --queries as "
            "text, and leave out --text-embeddings"
        )
    found = read_factors(factors)
    found.check_made_for(text.backbone, factors)
    rows = read_matrix(residuals, "residuals")
    check_made_by(residuals, text.backbone)
    check_residuals(rows, read_head(head_path(residuals)), StoredImages(embeddings, source), residuals)
    of_text = TextStore(text.backbone, device=device, residuals=True).embed(list(queries))
    spread = found.posterior("text").spread(found.text.head.features(of_text)).to(device)
    each = [spread[slice(i, i + 1)] for i in range(len(queries))]
    return Uncertain(image_spread(rows, found).to(device), each, DRAWS, seed)


def draw_audit(
    embeddings: np.ndarray,
    audited: Mapping[str, tuple[DebiasingMethod, Sequence[QueryGroup]]],
    labelled: ReferenceImages | None,
    groups: Groups,
    keep: np.ndarray,
    lists: RankedLists,
    settings: AuditSettings,
    relevant: Any,
    uncertain: Uncertain,
    source: str,
    device: str = "cpu",
) -> AuditUncertainty:
    """Draw the figures of an audit.

    Parameters
    ----------
    embeddings : ndarray of shape (N, d)
    audited : mapping
        Name → method and its groups, one per query; in the order of the audit.
    labelled : ReferenceImages or None
        For the methods that take them.
    groups : Groups
    keep : ndarray of shape (N,), bool
        Images that can be retrieved.
    lists : RankedLists
        Of the audit: overlap is with the first method's.
    settings : AuditSettings
    relevant : callable or None
        Rows of lists ``(…, Q, K)`` → whether they have their query's label.
    uncertain : Uncertain
    source, device
        As for `audit`.
    """
    images, rows = StoredImages(embeddings, Path(source), device), np.flatnonzero(keep)[None]
    population = np.bincount(groups.codes[keep], minlength=len(groups.classes)) / keep.sum()
    k, frames = max(settings.ks), []
    for name, (method, own) in audited.items():
        values = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the audit itself has warned
            for scores in drawn_fold_scores(method, own, images, rows, lambda: labelled, uncertain):
                drawn = np.stack([lists.rows[0, :, :k], _best(scores, rows[0], k)])
                judged = RankedLists(
                    (lists.methods[0], name),
                    lists.queries,
                    drawn,
                    groups.codes[drawn],
                    None if relevant is None else relevant(drawn),
                )
                values.append(evaluate(judged, None, population, settings)[:, 1].mean(axis=1))
        frames.append(_frame(name, lists.metrics, settings.ks, np.stack(values)))
    first = next(iter(audited.values()))[1]
    texts = torch.cat([group.queries for group in first])
    of_texts = torch.cat([spread.variances for spread in uncertain.queries])
    variances = mean_variances(images, uncertain.images, texts, of_texts).numpy()
    by_group = {
        name: float(variances[keep & (groups.codes == code)].mean())
        for code, name in enumerate(groups.classes)
    }
    return AuditUncertainty(pd.concat(frames, ignore_index=True), by_group, uncertain.draws)


def _best(scores: Any, rows: np.ndarray, k: int) -> np.ndarray:
    """Rows ``(Q, k)`` of the best images of the only fold."""
    if isinstance(scores, SharedScores):
        [(best, _)] = scores.top_rows(k)
        return best
    [only] = scores
    return rows[top_k(only, k)[1].cpu().numpy()]


def _frame(name: str, metrics: Sequence[str], ks: Sequence[int], values: np.ndarray) -> pd.DataFrame:
    """Describe values ``(draws, metrics, len(ks))``."""
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    mean, sd = values.mean(0), values.std(0, ddof=1)

    def lines() -> Iterator[tuple[Any, ...]]:
        for i, metric in enumerate(metrics):
            for j, k in enumerate(ks):
                yield name, k, metric, mean[i, j], sd[i, j], low[i, j], high[i, j]

    return pd.DataFrame(list(lines()), columns=["method", "k", "metric", "mean", "sd", "low", "high"])


def without_queries(uncertain: Uncertain | None, kept: Sequence[int]) -> Uncertain | None:
    """Leave out the queries that an audit leaves out."""
    if uncertain is None:
        return None
    queries: list[Spread] = [uncertain.queries[i] for i in kept]
    return Uncertain(uncertain.images, queries, uncertain.draws, uncertain.seed)
