"""The table of all results, as `process_json_outputs.py` writes it: read, and averaged for display."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bias_evaluation.grid.configs import SEEDS
from safe_io.errors import InputError

NEEDED = ("dataset", "task", "backbone", "method", "setting", "metric", "mean", "seed")
"""Columns that a table of results must have."""


def read_results(path: Path) -> pd.DataFrame:
    """Read the table of all results.

    Parameters
    ----------
    path : pathlib.Path
        ``all_results.feather`` or ``all_results.csv`` as ``process_json_outputs.py`` writes them.

    Returns
    -------
    pandas.DataFrame
        One row a record.

    Raises
    ------
    InputError
        The file is missing, is not such a table, or lacks columns.
    """
    if not path.is_file():
        raise InputError(f"table of results not found: {path}; make it with process_json_outputs.py")
    try:
        results = (
            pd.read_csv(path, dtype={"seed": "Int64"}) if path.suffix == ".csv" else pd.read_feather(path)
        )
    except Exception as error:  # pandas and pyarrow raise many kinds on damaged files
        raise InputError(
            f"{path} is not a table of results ({error}); make it with process_json_outputs.py"
        ) from None
    missing = [column for column in NEEDED if column not in results.columns]
    if missing:
        raise InputError(
            f"{path} lacks the columns {', '.join(missing)}; make it with process_json_outputs.py"
        )
    means = results["mean"]
    if not pd.api.types.is_numeric_dtype(means) or not np.isfinite(means.astype(float)).all():
        raise InputError(f"{path}: 'mean' must be finite numbers; make it with process_json_outputs.py")
    return results


def of_seeds(results: pd.DataFrame, seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """Choose the results that are displayed: those without a seed, and those of these seeds.

    Parameters
    ----------
    results : pandas.DataFrame
        All results, as `process_json_outputs.py` writes them.
    seeds : sequence of int
        Those of the paper by default. Tables, figures and reports all choose here.

    Returns
    -------
    pandas.DataFrame
        Rows of `results`.
    """
    return results[results["seed"].isna() | results["seed"].isin(list(seeds))]


def seed_notes(results: pd.DataFrame, seeds: Sequence[int] = SEEDS) -> list[str]:
    """Name the seeds that `of_seeds` leaves out, in one line; empty if there are none."""
    others = results[results["seed"].notna() & ~results["seed"].isin(list(seeds))]
    if others.empty:
        return []
    found = ", ".join(map(str, sorted(set(others["seed"].astype(int)))))
    methods = ", ".join(dict.fromkeys(others["method"]))
    return [
        f"results of further seeds ({found} of {methods}) are left out: what is shown is the mean over "
        f"seeds {', '.join(map(str, seeds))}"
    ]


def seed_means(results: pd.DataFrame, seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """Average the seeds of each result.

    Parameters
    ----------
    results : pandas.DataFrame
        All results, as `process_json_outputs.py` writes them.
    seeds : sequence of int
        As for `of_seeds`.

    Returns
    -------
    pandas.DataFrame
        One row a (dataset, backbone, setting, method), columns the metrics; and ``<metric> ci``, the mean
        half-width of the seeds' 95 % intervals.
    """
    keys = ["dataset", "backbone", "setting", "method"]
    values = of_seeds(results, seeds).pivot_table(
        index=keys, columns="metric", values=["mean", "ci"], aggfunc="mean"
    )
    values.columns = [metric if kind == "mean" else f"{metric} ci" for kind, metric in values.columns]
    return values.reset_index()


def query_skews(results: pd.DataFrame, seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """Read each query's MaxSkew.

    Parameters
    ----------
    results : pandas.DataFrame
        All results, as `process_json_outputs.py` writes them.
    seeds : sequence of int
        As for `of_seeds`.

    Returns
    -------
    pandas.DataFrame
        Columns dataset, backbone, setting, method, query and skew (mean of the seeds); empty where no result
        records its queries.
    """
    columns = ["dataset", "backbone", "setting", "method"]
    if "by_query" not in results:
        return pd.DataFrame(columns=[*columns, "query", "skew"])
    results = of_seeds(results, seeds)
    rows = results[(results["metric"] == "max_skew") & results["by_query"].notna()]
    listed = [
        (*key, query, skew)
        for *key, text in rows[[*columns, "by_query"]].itertuples(index=False)
        for query, skew in json.loads(text).items()
    ]
    table = pd.DataFrame(listed, columns=[*columns, "query", "skew"])
    return table.groupby([*columns, "query"], sort=False, as_index=False)["skew"].mean()
