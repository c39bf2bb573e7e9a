"""Result files: their names, their records with provenance, and whether one that is there still holds.

A result is a JSON list, one record a metric. Every record carries the digests of what it was made from, so
that results of other inputs are never taken for these.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bias_evaluation.grid.methods import published_name
from bias_evaluation.grid.plan import ResultKey
from safe_io.errors import InputError
from safe_io.files import read_json, sha256_json, write_json
from safe_io.provenance import versions

# Raised whenever a change of the code changes figures: earlier results then have another "revision".
REVISION = 1


def make_records(
    key: ResultKey,
    summary: Mapping[str, Mapping[str, Any]],
    *,
    retrieval_k: int,
    normalize: bool,
    folds: int,
    digests: Mapping[str, str],
    reranking: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Make the records of one result.

    Parameters
    ----------
    key : ResultKey
    summary : mapping
        Metric → its mean, ci and detail.
    retrieval_k : int
        K of retrieval.
    normalize : bool
        Whether the method was given unit images.
    folds : int
        Number of folds.
    digests : mapping
        Component → digest of what it was made from.
    reranking : mapping, optional
        How the lists were re-ranked and what that could not keep, if they were.

    Returns
    -------
    list of dict
        One record a metric.
    """
    common = {
        "dataset": key.dataset,
        "task": key.setting.task,
        "backbone": key.backbone.name,
        "method": key.result_name,
        "normalize": normalize,
        "setting": key.setting.record_name(retrieval_k),
    }
    provenance = {
        "variant": published_name(key.method.name).variant,
        "seed": key.seed,
        "folds": folds,
        "versions": versions(),
        "digests": dict(digests),
        "digest": sha256_json(dict(digests)),
    }
    return [
        {**common, "metric": metric, **values, **(reranking or {}), **provenance}
        for metric, values in summary.items()
    ]


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Write a result file atomically."""
    write_json(path, records)


def differences(path: Path, digests: Mapping[str, str]) -> list[str] | None:
    """Compare a result that is there with what it would be made from now.

    Parameters
    ----------
    path : pathlib.Path
        Result file.
    digests : mapping
        Component → digest, now.

    Returns
    -------
    list of str or None
        Components that differ (none: the result holds; all, in words, where the file is damaged or records
        no digests); None where there is no result.
    """
    if not path.is_file():
        return None
    try:
        records = read_json(path, "result file")
    except InputError as error:
        return [f"everything ({error})"]
    if not isinstance(records, list) or not records or not all(isinstance(r, dict) for r in records):
        return [f"everything ({path} is not a list of result records)"]
    then = records[0].get("digests")
    if not isinstance(then, dict):
        return ["everything (it records no digests)"]
    return sorted(name for name in {*then, *digests} if then.get(name) != digests.get(name))
