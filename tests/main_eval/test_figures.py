"""The figures of main_eval against naive loops."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from support.suite_world import (
    DIM,
    FOLDS,
    METHODS,
    STEMS,
    K,
    World,
)

from bias_evaluation.datasets.folder import TRAIN_INDICES, VAL_INDICES
from bias_evaluation.datasets.metadata import METADATA
from bias_evaluation.prompts.sentences import GroupEmbedder, load_prompts
from bias_evaluation.weights.read import load_sae
from debiasing_methods.base import ReferenceImages, Vanilla
from debiasing_methods.bend import BendVLM
from debiasing_methods.projections import OrthCali, OrthProj
from debiasing_methods.sem import SemB
from safe_io.errors import InputError


def _debiased(world: World, setting: str, method: str, lam: float) -> tuple[list[str], np.ndarray]:
    """Names of the groups, and their debiased queries ``(F, Q, d)``, from the method itself."""
    with np.load(world.text) as arrays:
        known = dict(zip(arrays["prompts"].tolist(), arrays["embeddings"].astype(np.float32), strict=True))
    prompts = load_prompts(world.prompts.parent, world.config.stem, setting)
    embedder = GroupEmbedder(lambda sentences: torch.from_numpy(np.stack([known[s] for s in sentences])))
    made = {
        "vanilla": Vanilla,
        "orth-proj": OrthProj,
        "orth-cali": lambda: OrthCali(lam=lam),
        "bendvlm": lambda: BendVLM(num_neighbors=5),
        "sem-b": lambda: SemB(sae=load_sae(world.sae, dim=DIM), diverse=embedder.matrix(prompts.diverse)),
    }[method]()
    groups = [embedder.group(group, method, made.needs) for group in prompts.groups]
    names = [group.name for group in prompts.groups]
    if not made.needs_reference:
        return names, torch.cat(made.debias_text(groups)).expand(FOLDS, -1, -1).numpy()
    metadata = pd.read_feather(world.data / METADATA)
    codes = torch.from_numpy((metadata["color"] == "blue").to_numpy().astype(np.int64))
    images = torch.nn.functional.normalize(torch.from_numpy(np.load(world.embeddings)))
    train = torch.from_numpy(np.load(world.data / TRAIN_INDICES).astype(np.int64))
    reference = ReferenceImages(images, codes, ("red", "blue"), train)
    return names, torch.cat(made.debias_text(groups, reference), dim=1).numpy()


def _interval(records: Sequence[float]) -> tuple[float, float]:
    mean = float(np.mean(records))
    low, high = stats.t.interval(0.95, len(records) - 1, loc=mean, scale=stats.sem(records))
    return mean, (high - low) / 2


def _expected(
    world: World, setting: str, method: str, k: int = K, lam: float = 20.0
) -> dict[str, tuple[float, float]]:
    """Mean and interval of each metric, by loops over folds, queries, classes and rows."""
    metadata = pd.read_feather(world.data / METADATA)
    shapes, colors = metadata["shape"].tolist(), metadata["color"].tolist()
    images = np.load(world.embeddings).astype(np.float64)
    names, text = _debiased(world, setting, method, lam)
    records: dict[str, list[float]] = {"kl": [], "max_skew": [], "precision": []}
    right: dict[tuple[str, str], list[float]] = {}
    for fold, rows in enumerate(np.load(world.data / VAL_INDICES)):
        scores = text[fold].astype(np.float64) @ images[rows].T / np.linalg.norm(images[rows], axis=1)
        scores /= np.linalg.norm(text[fold], axis=1, keepdims=True)
        if setting == "shape_color":
            for position, row in enumerate(rows):
                hit = ["round", "square"][int(scores[:, position].argmax())] == shapes[row]
                right.setdefault((shapes[row], colors[row]), []).append(float(hit))
            continue
        for name, query in zip(names, scores, strict=True):
            best = [rows[i] for i in np.argsort(-query)[:k]]
            logs = {}
            for color in ("red", "blue"):
                p = sum(colors[r] == color for r in best) / k
                prior = sum(colors[r] == color for r in rows) / len(rows)
                logs[color] = (p, math.log(max(p / prior, 1e-10)))
            records["kl"].append(sum(p * log for p, log in logs.values()))
            records["max_skew"].append(max(0.0, *(log for _, log in logs.values())))
            if setting == "object_color":
                label = {"ball": "round", "box": "square"}[name]
                records["precision"].append(sum(shapes[r] == label for r in best) / k)
    if right:
        worst = min(right.values(), key=np.mean)
        return {
            "Acc.": _interval([hit for hits in right.values() for hit in hits]),
            "WG Acc.": _interval(worst),
        }
    return {metric: _interval(values) for metric, values in records.items() if values}


@pytest.mark.parametrize("setting", STEMS)
@pytest.mark.parametrize("method", METHODS)
def test_figures_are_those_of_naive_loops(
    world: World, setting: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("--settings", setting, "--methods", method)
    assert f"1 of 1 results computed, in {world.output}" in capsys.readouterr().out
    [(name, content)] = world.results().items()
    assert name == f"{STEMS[setting]}_clip-alpha_{method}.json"
    figures = {record["metric"]: (record["mean"], record["ci"]) for record in json.loads(content)}
    expected = _expected(world, setting, method)
    assert list(figures) == list(expected)
    for metric, values in expected.items():
        assert figures[metric] == pytest.approx(values, rel=1e-6, abs=1e-9), metric


def test_the_world_tells_methods_apart(world: World) -> None:
    """A guard of the test above: if all methods gave the same figures, it would show little."""
    for setting in STEMS:
        figures = {str(_expected(world, setting, method)) for method in METHODS}
        assert len(figures) == len(METHODS), setting
        assert str(_expected(world, setting, "orth-cali", lam=1.0)) not in figures


def test_detail_beside_the_means(world: World) -> None:
    world.run("--methods", "vanilla")
    records = {
        setting: {
            r["metric"]: r for r in json.loads((world.output / f"{stem}_clip-alpha_vanilla.json").read_text())
        }
        for setting, stem in STEMS.items()
    }
    for setting, n in (("object_color", 2), ("word_color", 3)):
        for record in records[setting].values():
            assert len(record["by_query"]) == n
            assert np.mean(list(record["by_query"].values())) == pytest.approx(record["mean"], rel=1e-9)
    groups = records["shape_color"]["WG Acc."]["by_group"]
    assert set(groups) == {"round|red", "round|blue", "square|red", "square|blue"}
    assert min(groups.values()) == records["shape_color"]["WG Acc."]["mean"]


def test_another_k_is_another_retrieval(world: World) -> None:
    world.run("--methods", "vanilla")
    with pytest.raises(InputError, match=r"2 result\(s\) are there but made from another config"):
        world.run("--methods", "vanilla", "--retrieval-k", "7")
    world.run("--methods", "vanilla", "--retrieval-k", "7", "--output-dir", str(world.root / "k7"))
    for setting in ("object_color", "word_color"):
        records = json.loads((world.root / "k7" / f"{STEMS[setting]}_clip-alpha_vanilla.json").read_text())
        assert {r["setting"].split("|")[-1] for r in records} == {"K=7"}
        expected = _expected(world, setting, "vanilla", k=7)
        for record in records:
            assert (record["mean"], record["ci"]) == pytest.approx(expected[record["metric"]], rel=1e-6)
