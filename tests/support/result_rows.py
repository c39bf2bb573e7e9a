"""A small table of all results, as tables and figures read it."""

from __future__ import annotations

import json

import pandas as pd
import pytest

RETRIEVAL = {"dataset": "celeba", "task": "retrieval", "backbone": "ViT-L-14@336px"}
SETTING = "query=hair|bias=gender|K=500"


def record(method: str, metric: str, mean: float, **more: object) -> dict[str, object]:
    base = {**RETRIEVAL, "method": method, "setting": SETTING, "metric": metric, "mean": mean, "ci": 0.01}
    return {**base, "seed": None, **more}


@pytest.fixture
def small_results() -> pd.DataFrame:
    rows = []
    for method, seeds, skew in (("vanilla", [None], 0.4), ("prism", [0, 1], 0.2), ("zsdebias", [0], 0.3)):
        for seed in seeds:
            value = skew + 0.1 * (seed or 0)
            by_query = json.dumps({"Blond_Hair": value, "Black_Hair": 2 * value})
            rows.append(record(method, "max_skew", value, seed=seed, by_query=by_query))
            rows.append(record(method, "precision", 0.6, seed=seed, by_query=None))
    return pd.DataFrame(rows)
