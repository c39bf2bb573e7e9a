"""Leakage in an audit: how well probes read the group of an image from what a method makes of it.

Symbols: N images, n of them probed, M methods, Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bias_evaluation.suite.leakage import ProbeSettings, probe
from debiasing_methods.linalg import unit
from fair_search.groups import Groups
from fair_search.ranking import Scorer
from safe_io.arrays import float_rows
from safe_io.errors import InputError

COLUMNS = ("method", "probed", "linear", "mlp", "majority", "images")


def audit_leakage(
    embeddings: np.ndarray,
    scorers: Mapping[str, Scorer],
    groups: Groups,
    keep: np.ndarray,
    n_images: int,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    """Cross-validate probes of the group on images and on scores.

    Parameters
    ----------
    embeddings : ndarray of shape (N, d)
    scorers : mapping
        Method → what scores for it; the first is what the others are compared with.
    groups : Groups
    keep : ndarray of shape (N,), bool
        Images that may be probed: no method has seen them as labeled images.
    n_images : int
        How many are drawn at random, if there are more.
    seed, device
        As for `audit.audit`.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`. `probed` is ``images``, the unit images of the first method and of each that
        changes images (those of the first query, if they differ by query), or ``scores``, the n × Q scores
        of each method. `majority` is the accuracy of always naming the largest group.

    Raises
    ------
    InputError
        A group has too few images for a cross-validation.
    """
    rows = np.flatnonzero(keep)
    if len(rows) > n_images:
        rows = np.sort(np.random.default_rng(seed).choice(rows, n_images, replace=False))
    settings, codes = ProbeSettings(most_images=n_images, seed=seed), groups.codes[rows].astype(np.int64)
    counts = np.bincount(codes, minlength=len(groups.classes))
    if counts.min() < settings.folds:
        raise InputError(
            f"--leakage {n_images}: group '{groups.classes[int(counts.argmin())]}' has {counts.min()} of the "
            f"{len(rows)} images that are probed, and {settings.folds} are needed; probe more images"
        )
    raw = float_rows(embeddings[rows]).to(device)
    normalized = unit(raw)
    found = []
    for place, (name, scorer) in enumerate(scorers.items()):
        method = scorer.method
        values = {"scores": scorer.scores(raw, normalized, 0)}
        if place == 0 or method.changes_images:
            prepared = method.prepare_images(normalized if method.normalize else raw)
            values["images"] = unit(scorer.transform.apply(prepared, 0, first_row=0))
        for probed in sorted(values):
            result = probe(values[probed].float().cpu().numpy(), codes, settings)
            found.append((name, probed, result.linear, result.mlp, result.majority, result.n_images))
    return pd.DataFrame(found, columns=list(COLUMNS))
