"""The evaluation from config to result files, in a small world of random embeddings with some structure."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor

import main_eval
from bias_evaluation.datasets.folder import TRAIN_INDICES, VAL_INDICES, embeddings_name, make_folds
from bias_evaluation.datasets.metadata import METADATA
from bias_evaluation.embedding import text_store
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.grid import plan as grid
from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.prompts import setting_prompts
from bias_evaluation.prompts.sentences import GroupEmbedder, load_prompts
from bias_evaluation.suite import inputs
from bias_evaluation.suite.aggregation import collect_results
from bias_evaluation.suite.results import METRICS
from bias_evaluation.weights import read
from bias_evaluation.weights.read import load_sae
from bias_evaluation.weights.read import save_sae as write_sae
from debiasing_methods.base import ReferenceImages, Vanilla
from debiasing_methods.bend import BendVLM
from debiasing_methods.projections import OrthCali, OrthProj
from debiasing_methods.registry import get_method
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.sem import SemB
from safe_io import digests
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main

N, FOLDS, K, DIM, TINY_DIM = 120, 3, 15, 12, 8

CONFIG = {
    "dataset": "colored_digits",
    "folder": "World",
    "retrieval_k": K,
    "prompts": "mini",
    "backbones": ["alpha", "beta", "gamma"],
    "settings": {
        "shape_color": {
            "task": "zs_classification",
            "target": {"column": "shape", "values": ["round", "square"]},
            "bias": {"attribute": "color", "values": ["red", "blue"]},
        },
        "object_color": {
            "task": "retrieval",
            "query_type": "object",
            "bias": {"attribute": "color", "values": ["red", "blue"]},
            "labels": {"ball": {"shape": "round"}, "box": {"shape": "square"}},
        },
        "word_color": {
            "task": "retrieval",
            "query_type": "word",
            "bias": {"attribute": "color", "values": ["red", "blue"]},
        },
    },
}
METHODS = {
    "vanilla": {},
    "orth-proj": {},
    "orth-cali": {"lam": 1, "by_bias_attribute": {"color": {"lam": 20}}},
    "bendvlm": {"num_neighbors": 5},
    "sem-b": {},
}
COMMON = {
    "bias": "color",
    "query": "A photo of {a_query}.",
    "spurious": ["A photo of a {bias} page."],
    "candidates": ["A photo of {a_query} on a {bias} page.", "{a_bias} drawing, as {query} as can be."],
    "augmentations": ["A photo of {a_query} on a {bias} page."],
}
PROMPTS = {
    "bias": {
        "color": {"classes": ["red", "blue"], "templates": ["A {bias} page.", "Something {bias} here."]}
    },
    "diverse": {
        "words": {"thing": ["cat", "tree", "wall", "spoon"]},
        "frames": ["A {thing}.", "The {thing}."],
    },
    "settings": {
        "shape_color": {
            "queries": {"round": "round ball", "square": "square box"},
            "together": True,
            **COMMON,
        },
        "object_color": {"queries": {"ball": "round ball", "box": "square box"}, **COMMON},
        "word_color": {"queries": ["lucky", "odd", "risky"], **COMMON},
    },
}
STEMS = {
    "shape_color": "colored_digits_zs-classification_shape-color",
    "object_color": "colored_digits_retrieval_object_color",
    "word_color": "colored_digits_retrieval_word_color",
}


def word_vector(word: str, dim: int) -> np.ndarray:
    """Give every word a random direction."""
    seed = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).normal(size=dim)


def encode(sentence: str, dim: int = DIM) -> np.ndarray:
    """Stand in for a text tower: the sum of the words, and half of a direction of the sentence's own.

    A mere sum of words would make BendVLM's subspace hold the difference of the two classes: what is left of
    both is then the same vector, and rounding decides the predictions.
    """
    words = np.sum([word_vector(w, dim) for w in re.findall(r"\w+", sentence.lower())], axis=0)
    return words + word_vector(sentence, dim) / 2


def save_yaml(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


class World:
    """A project folder; `run` and `cli` call main_eval on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config" / "colored_digits.yml"
        self.prompts = root / "config" / "prompts" / "mini" / "colored_digits.yml"
        self.methods = root / "config" / "methods.yml"
        self.data = root / "data" / "World"
        self.embeddings = self.data / embeddings_name("alpha")
        self.text = root / "text.npz"
        self.sae = root / "debiasing_methods" / "sae_weights" / "MSAE_alpha.pth"
        self.output = root / "main_eval_output"

    def arguments(self, *more: str) -> list[str]:
        """Arguments that evaluate the backbone alpha from given text."""
        return [
            "--config",
            str(self.config),
            "--backbones",
            "alpha",
            "--text-embeddings",
            str(self.text),
            *more,
        ]

    def run(self, *more: str) -> None:
        """Evaluate; errors come as they are raised."""
        assert main_eval.main(self.arguments(*more)) == 0

    def cli(self, *more: str) -> int:
        """Evaluate as the command does; gives the exit code."""
        return run_main(lambda: main_eval.main(self.arguments(*more)))

    def change(self, path: Path, *keys: str, value: Any) -> None:
        """Set one value of a YAML file."""
        document = yaml.safe_load(path.read_text())
        place = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        save_yaml(path, document)

    def save_text(self) -> None:
        """Write the text embeddings of every sentence of the prompts that are there."""
        needs = frozenset().union(*(get_method(name).needs for name in METHODS))
        sentences = [
            s
            for setting in PROMPTS["settings"]
            for s in load_prompts(self.prompts.parent, self.config.stem, setting).sentences("any", needs)
        ]
        prompts = list(dict.fromkeys(sentences))
        np.savez(self.text, prompts=np.array(prompts), embeddings=np.stack([encode(p) for p in prompts]))

    def results(self) -> dict[str, bytes]:
        """File name → content of every result."""
        return {p.name: p.read_bytes() for p in sorted(self.output.glob("*"))}

    def tree(self) -> dict[str, float]:
        """Every file with its time of change."""
        return {str(p): p.stat().st_mtime_ns for p in sorted(self.root.rglob("*"))}


def save_images(world: World, metadata: pd.DataFrame, random: np.random.Generator) -> None:
    """Write image embeddings that hold shape, colour and noise."""
    for backbone, dim in (("alpha", DIM), ("beta", TINY_DIM), ("gamma", TINY_DIM)):
        columns = [[word_vector(w, dim) for w in metadata[c]] for c in ("shape", "color")]
        rows = np.add(*columns) + 2 * random.normal(size=(N, dim))
        np.save(world.data / embeddings_name(backbone), rows.astype(np.float32))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
    """Make the world once."""
    world = World(tmp_path_factory.mktemp("world"))
    tiny = {
        "open_clip": str(tiny_clip / "tiny_test_clip.json"),
        "checkpoint": str(tiny_clip / "tiny.pt"),
        "dim": TINY_DIM,
    }
    backbones = {
        "alpha": {"open_clip": "RN50", "checkpoint": "nowhere.pt", "dim": DIM, "quick_gelu": True},
        "beta": {**tiny, "quick_gelu": True, "stem": "b"},
        "gamma": {**tiny, "quick_gelu": False},
    }
    save_yaml(world.config, CONFIG)
    save_yaml(world.config.with_name("backbones.yml"), backbones)
    save_yaml(world.methods, METHODS)
    save_yaml(world.prompts, PROMPTS)
    random = np.random.default_rng(0)
    color = random.choice(["red", "blue"], N, p=[0.7, 0.3])
    shape = np.where(random.random(N) < np.where(color == "red", 0.7, 0.4), "round", "square")
    world.data.mkdir(parents=True)
    metadata = pd.DataFrame({"file_name": [f"{i}.png" for i in range(N)], "color": color, "shape": shape})
    metadata.to_feather(world.data / METADATA)
    save_images(world, metadata, random)
    for name, folds in zip((TRAIN_INDICES, VAL_INDICES), make_folds(N, FOLDS), strict=True):
        np.save(world.data / name, folds)
    save_sae(world.sae, DIM)
    for name in ("MSAE_b.pth", "MSAE_gamma.pth"):  # where our own training puts them
        save_sae(world.sae.parent / "mini" / name, TINY_DIM)
    world.save_text()
    return world.root


def save_sae(path: Path, dim: int, latents: int = 40) -> None:
    generator = torch.Generator().manual_seed(dim)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    sae = SparseAutoencoder(draw(latents, dim) / 2, draw(latents), draw(dim, latents) / 4, draw(dim))
    write_sae(path, sae)


@pytest.fixture
def world(template: Path, tmp_path: Path) -> World:
    """Copy the world, so that a test may change it."""
    root = tmp_path / "project"
    shutil.copytree(template, root)
    return World(root)


# --- figures ----------------------------------------------------------------------------------------------


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


# --- files and records ------------------------------------------------------------------------------------


def test_a_full_run_writes_one_file_a_result(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    assert "15 of 15 results computed" in capsys.readouterr().out
    assert sorted(world.results()) == sorted(
        f"{stem}_clip-alpha_{method}.json" for stem in STEMS.values() for method in METHODS
    )
    for name, content in world.results().items():
        records = json.loads(content)
        retrieval = "retrieval" in name
        metrics = METRICS["retrieval" if retrieval else "zs_classification"]
        assert [r["metric"] for r in records] == list(metrics if "word" not in name else metrics[:2])
        for record in records:
            assert record["dataset"] == "colored_digits"
            assert record["task"] == ("retrieval" if retrieval else "zs_classification")
            assert record["backbone"] == "alpha"
            assert record["method"] == name.removesuffix(".json").split("alpha_")[1]
            assert record["normalize"] is True
            assert record["setting"] == (
                f"query={'word' if 'word' in name else 'object'}|bias=color|K={K}"
                if retrieval
                else "shape_color"
            )
            assert record["seed"] is None
            assert record["folds"] == FOLDS
            assert record["variant"] == ("SEM_b" if "sem-b" in name else None)
            versions = {"python", "torch", "numpy", "scipy", "open_clip_torch", "code"}
            assert set(record["versions"]) == versions
            components = {
                "revision",
                "config",
                "prompts",
                "weights",
                "text",
                "embeddings",
                "metadata",
                "folds",
            }
            assert set(record["digests"]) == components
            assert re.fullmatch("[0-9a-f]{64}", record["digest"])
            assert math.isfinite(record["mean"])
            assert record["ci"] > 0
    assert {p.name for p in world.root.iterdir()} == {
        "config",
        "data",
        "debiasing_methods",
        "main_eval_output",
        "text.npz",
    }


def test_results_make_one_table(world: World) -> None:
    world.run()
    table, warnings = collect_results(world.output)
    assert warnings == []
    assert len(table) == 5 * (2 + 3 + 2)
    assert set(table["method"]) == set(METHODS)


def test_the_same_inputs_give_the_same_bytes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    first = world.results()
    capsys.readouterr()
    world.run("--overwrite")
    assert "15 of 15 results computed" in capsys.readouterr().out  # also what was done
    assert world.results() == first
    for method in METHODS:  # whatever else is computed beside it
        world.run("--output-dir", str(world.root / "alone"), "--methods", method)
    assert {p.name: p.read_bytes() for p in (world.root / "alone").iterdir()} == first


def test_what_is_there_is_not_computed_again(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run()
    before = world.tree()
    monkeypatch.setattr(main_eval, "evaluate", None)
    capsys.readouterr()
    world.run()
    assert f"0 of 15 results computed, in {world.output}" in capsys.readouterr().out
    assert world.tree() == before


def test_an_interrupted_run_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute, calls = main_eval.evaluate, []

    def stops_at_the_eighth(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(main_eval, "evaluate", stops_at_the_eighth)
    assert world.cli() == 130
    assert len(world.results()) == 7
    assert world.cli() == 0
    assert len(calls) == 8 + 8
    assert "8 of 15 results computed" in capsys.readouterr().out
    assert len(world.results()) == 15


def test_shared_work_is_done_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}

    def count(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def counted(*args: Any, **options: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return original(*args, **options)

        monkeypatch.setattr(module, name, counted)

    count(read, "sae_from_state_dict")
    count(setting_prompts, "load_prompts")
    for name in ("load_rows", "open_embeddings", "StoredImages", "TextStore"):
        count(inputs, name)
    world.run()
    assert counts == {
        "sae_from_state_dict": 1,
        "load_rows": 1,
        "open_embeddings": 2,  # to check them, and after their digest to use them
        "StoredImages": 1,
        "load_prompts": 3,
        "TextStore": 1,
    }


def test_half_precision_embeddings_are_upcast_first(world: World) -> None:
    rows = np.load(world.embeddings).astype(np.float16)
    np.save(world.embeddings, rows)
    world.run("--methods", "vanilla", "sem-b")
    half = {name: [r["mean"] for r in json.loads(c)] for name, c in world.results().items()}
    np.save(world.embeddings, rows.astype(np.float32))
    world.run("--methods", "vanilla", "sem-b", "--overwrite")
    assert half == {name: [r["mean"] for r in json.loads(c)] for name, c in world.results().items()}


# --- results of other inputs ------------------------------------------------------------------------------


def change_spurious(world: World) -> None:
    world.change(world.prompts, "settings", "word_color", "spurious", value=["Something {bias} here."])


def change_query(world: World) -> None:
    world.change(world.prompts, "settings", "word_color", "query", value="A photo of a {query}.")
    world.save_text()


def change_diverse(world: World) -> None:
    world.change(world.prompts, "diverse", "frames", value=["A {thing}."])


def change_option(world: World) -> None:
    world.change(world.methods, "orth-cali", "by_bias_attribute", "color", "lam", value=21)


def change_labels(world: World) -> None:
    world.change(world.config, "settings", "object_color", "labels", "box", value={"shape": "round"})


def change_embeddings(world: World) -> None:
    np.save(world.embeddings, np.load(world.embeddings) * 2)


def change_metadata(world: World) -> None:
    table = pd.read_feather(world.data / METADATA)
    table.assign(more=1).to_feather(world.data / METADATA)


def change_folds(world: World) -> None:
    np.save(world.data / VAL_INDICES, np.load(world.data / VAL_INDICES)[:, ::-1])


def change_sae(world: World) -> None:
    save_sae(world.sae, DIM, latents=30)


def change_text(world: World) -> None:
    with np.load(world.text) as arrays:
        np.savez(world.text, prompts=arrays["prompts"], embeddings=arrays["embeddings"] * 2)


EVERYTHING = tuple(METHODS)
CHANGES: list[tuple[Callable[[World], None], str, tuple[str, ...], tuple[str, ...]]] = [
    (change_spurious, "prompts", ("word_color",), ("orth-proj", "orth-cali", "bendvlm")),
    (change_query, "prompts, text", ("word_color",), EVERYTHING),
    (change_diverse, "prompts", tuple(STEMS), ("sem-b",)),
    (change_option, "config", tuple(STEMS), ("orth-cali",)),
    (change_labels, "config", ("object_color",), EVERYTHING),
    (change_embeddings, "embeddings", tuple(STEMS), EVERYTHING),
    (change_metadata, "metadata", tuple(STEMS), EVERYTHING),
    (change_folds, "folds", tuple(STEMS), EVERYTHING),
    (change_sae, "weights", tuple(STEMS), ("sem-b",)),
    (change_text, "text", tuple(STEMS), EVERYTHING),
]


@pytest.mark.parametrize(
    ("change", "component", "settings", "methods"), CHANGES, ids=[c[0].__name__ for c in CHANGES]
)
def test_results_of_other_inputs_are_not_taken_for_these(
    world: World,
    change: Callable[[World], None],
    component: str,
    settings: tuple[str, ...],
    methods: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    world.run()
    before = world.results()
    change(world)
    capsys.readouterr()
    world.run("--dry-run")
    lines = capsys.readouterr().out.splitlines()
    stale = {f"{STEMS[s]}_clip-alpha_{m}" for s in settings for m in methods}
    differing = {line.split()[0]: line.split("made from another ")[1] for line in lines if "stale: " in line}
    if component != "prompts, text":  # there, the other settings differ in the text file alone
        assert set(differing) == stale
        assert set(differing.values()) == {component}
    assert all(differing[stem] == component for stem in stale)
    with pytest.raises(InputError) as error:
        world.run()
    first = next(iter(differing))
    assert f"{len(differing)} result(s) are there but made from another {differing[first]}" in str(
        error.value
    )
    assert f"the first: {first}.json; pass --overwrite" in str(error.value)
    assert world.results() == before
    world.run("--overwrite")
    after = world.results()
    assert set(after) == set(before)
    assert {name.removesuffix(".json") for name in after if after[name] != before[name]} == set(differing)
    world.run()


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


def test_what_does_not_decide_a_figure_leaves_results_alone(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run()
    world.change(world.methods, "orth-cali", "lam", value=2)  # for no bias attribute of this world
    world.change(world.config, "retrieval_k", value=K)
    moved = world.root.with_name("moved")
    world.root.rename(moved)
    capsys.readouterr()
    World(moved).run()
    assert "0 of 15 results computed" in capsys.readouterr().out


def test_published_results_are_not_taken_for_ours(world: World) -> None:
    world.run("--methods", "vanilla", "--settings", "shape_color")
    [path] = world.output.iterdir()
    records = json.loads(path.read_text())
    for record in records:
        del record["digests"]
    path.write_text(json.dumps(records))
    with pytest.raises(InputError, match=r"made from another everything \(it records no digests\)"):
        world.run("--methods", "vanilla")
    assert len(world.results()) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "result file is not valid JSON: "),
        ("{}", "is not a list of result records"),
        ("[]", "is not a list of result records"),
        ("[1]", "is not a list of result records"),
    ],
)
def test_a_result_file_that_is_none(world: World, content: str, expected: str) -> None:
    world.output.mkdir()
    path = world.output / f"{STEMS['shape_color']}_clip-alpha_vanilla.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        world.run("--methods", "vanilla")
    assert expected in str(error.value)
    assert str(path) in str(error.value)
    assert path.read_text() == content
    world.run("--methods", "vanilla", "--overwrite")
    assert len(json.loads(path.read_text())) == len(METRICS["zs_classification"])


# --- the grid ---------------------------------------------------------------------------------------------


def test_dry_run_gives_every_state_and_writes_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("--settings", "shape_color", "--methods", "vanilla", "orth-cali")
    change_option(world)
    world.sae.unlink()
    before = world.tree()
    capsys.readouterr()
    world.run("--dry-run")
    captured = capsys.readouterr()
    *lines, last = captured.out.splitlines()
    states = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
    shape, word = STEMS["shape_color"], STEMS["word_color"]
    assert len(states) == 15
    assert states[f"{shape}_clip-alpha_vanilla"] == "done"
    assert states[f"{shape}_clip-alpha_orth-cali"] == "stale: made from another config"
    assert states[f"{word}_clip-alpha_bendvlm"] == "to do"
    assert states[f"{word}_clip-alpha_sem-b"] == "lacks weights"
    assert last == "15 results: 1 done, 10 to do, 1 stale, 3 lacks"
    assert captured.err == ""
    assert world.tree() == before


def test_dry_run_without_any_data(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(world.data)
    before = world.tree()
    world.run("--dry-run")
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 15
    assert all(line.endswith("  lacks embeddings, metadata, folds") for line in lines)
    assert last == "15 results: 15 lacks"
    assert world.cli() == 2
    listed = capsys.readouterr().err.splitlines()[:-1]
    made = {
        "precompute_embeddings.py": (embeddings_name("alpha"), METADATA),
        "generate_splits.py": (TRAIN_INDICES, VAL_INDICES),
    }
    assert listed == [
        f"missing: {world.data / name} ({maker} makes it)" for maker, names in made.items() for name in names
    ]
    assert world.tree() == before


@pytest.mark.parametrize(
    ("selectors", "n"),
    [
        (["--settings", "word_color"], 5),
        (["--settings", "word_color", "shape_color"], 10),
        (["--methods", "sem-b", "vanilla", "vanilla"], 6),
        (["--settings", "shape_color", "--methods", "bendvlm"], 1),
        (["--seeds", "0", "7"], 15),  # no seeded method: nothing to restrict
    ],
)
def test_selectors(world: World, selectors: list[str], n: int, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("--dry-run", *selectors)
    assert capsys.readouterr().out.splitlines()[-1] == f"{n} results: {n} to do"


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        (
            ["--settings", "word_colour"],
            "colored_digits.yml: unknown setting 'word_colour'; choose from: shape_color, object_color",
        ),
        (
            ["--methods", "sem_b"],
            "methods.yml: unknown method 'sem_b'; choose from: vanilla, orth-proj, orth-c",
        ),
        (["--methods", "prism"], "methods.yml: unknown method 'prism'"),  # not in this file
        (["--backbones", "delta"], "unknown backbone 'delta'; choose from: alpha, beta, gamma"),
        (
            ["--prompts", "minni"],
            "prompts: unknown prompt set 'minni'; choose from: mini; did you mean 'mini'?",
        ),
        (["--retrieval-k", "0"], "--retrieval-k must be at least 1, got 0"),
        (["--text-embeddings", "/nowhere.npz"], "text embeddings not found: /nowhere.npz"),
    ],
)
def test_wrong_arguments(
    world: World, selectors: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.cli(*selectors) == 2
    assert expected in capsys.readouterr().err
    assert not world.output.exists()


def test_seeds_of_seeded_methods(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.change(world.methods, "prism", value={"seeds": [0, 1, 2]})
    config = load_dataset_config(world.config)
    for wanted, seeds in ((None, [0, 1, 2]), ((2, 0, 9), [0, 2])):
        keys = grid.plan(config, grid.Selection(["shape_color"], ["alpha"], ["prism", "vanilla"], wanted))
        assert [key.seed for key in keys] == [None, *seeds]
        assert keys[-1].stem == f"{STEMS['shape_color']}_clip-alpha_prism-seed2"
    assert world.cli("--methods", "prism", "--seeds", "7") == 2
    assert "--seeds 7: prism has the seeds 0 1 2" in capsys.readouterr().err


def test_several_configs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Each gives what it has of the selected names; a name that none has is an error."""
    other = world.config.with_name("celeba.yml")
    settings = {
        "word_color": CONFIG["settings"]["word_color"],
        "more_color": CONFIG["settings"]["shape_color"],
    }
    save_yaml(other, CONFIG | {"dataset": "celeba", "settings": settings, "backbones": ["alpha", "gamma"]})
    save_yaml(
        world.prompts.with_name("celeba.yml"),
        PROMPTS | {"settings": PROMPTS["settings"] | {"more_color": PROMPTS["settings"]["shape_color"]}},
    )

    def dry_run(*more: str) -> list[str]:
        assert main_eval.main(["--config", str(world.config), str(other), "--dry-run", *more]) == 0
        return [line.split()[0] for line in capsys.readouterr().out.splitlines()]

    assert len(dry_run()) - 1 == 5 * (3 * 3 + 2 * 2)
    assert dry_run("--settings", "word_color", "--methods", "vanilla", "--backbones", "alpha", "beta")[
        :-1
    ] == [
        "colored_digits_retrieval_word_color_clip-alpha_vanilla",
        "colored_digits_retrieval_word_color_clip-b_vanilla",
        "celeba_retrieval_word_color_clip-alpha_vanilla",
    ]
    assert dry_run("--settings", "more_color", "--methods", "vanilla")[:-1] == [
        "celeba_zs-classification_more-color_clip-alpha_vanilla",
        "celeba_zs-classification_more-color_clip-gamma_vanilla",
    ]
    for more, expected in (
        (["--settings", "less_color"], "colored_digits.yml and 1 more: unknown setting 'less_color'; choose"),
        (["--settings", "more_color", "--backbones", "beta"], "the selectors leave no result"),
        (["--config", str(world.config), str(world.config), "--settings", "less"], "digits.yml: unknown set"),
    ):
        with pytest.raises(InputError) as error:
            main_eval.main(["--config", str(world.config), str(other), "--dry-run", *more])
        assert expected in str(error.value)


def test_one_result_in_two_configs(world: World) -> None:
    other = world.config.with_name("again.yml")
    shutil.copy(world.config, other)
    with pytest.raises(InputError) as error:
        main_eval.main(["--config", str(world.config), str(other), "--dry-run"])
    stem = f"{STEMS['shape_color']}_clip-alpha_vanilla"
    assert str(error.value) == f"{world.config} and {other} both have the result '{stem}'; name one of them"


def test_no_file_is_hashed_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    compute = inputs.remembered_sha256
    monkeypatch.setattr(inputs, "remembered_sha256", lambda path: hashed.append(path) or compute(path))
    world.run("--dry-run")
    assert hashed == []  # what is not there yet needs no digest before it is made
    world.run()
    folds = [world.data / TRAIN_INDICES, world.data / VAL_INDICES]
    assert sorted(hashed) == sorted([world.embeddings, world.data / METADATA, *folds, world.sae])


def test_a_remembered_digest_lets_no_changed_file_pass(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_LEAST_BYTES", 1)
    monkeypatch.setattr(digests, "_SETTLED_SECONDS", -1)  # as if all files were old
    world.run()
    assert world.embeddings.with_name(f".{world.embeddings.name}.sha256").is_file()
    world.run()
    time.sleep(0.02)  # a tick of the file system's clock
    before = world.embeddings.stat()
    array = np.load(world.embeddings, mmap_mode="r+")
    array[0] = -array[0]
    array.flush()
    os.utime(world.embeddings, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert world.embeddings.stat().st_size == before.st_size
    with pytest.raises(InputError, match="made from another embeddings"):
        world.run()


def test_work_goes_backbone_by_backbone(world: World) -> None:
    keys = grid.plan(load_dataset_config(world.config), grid.Selection())
    assert len(keys) == 3 * 3 * 5
    assert [key.backbone.name for key in keys] == ["alpha"] * 15 + ["beta"] * 15 + ["gamma"] * 15


def test_no_gpu(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert world.cli("--device", "cuda") == 2
    assert "--device cuda: this machine has no GPU" in capsys.readouterr().err


# --- what is missing --------------------------------------------------------------------------------------


def test_everything_missing_is_listed_before_any_computing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.sae.unlink()
    (world.data / VAL_INDICES).unlink()
    assert world.cli() == 2
    captured = capsys.readouterr()
    *listed, last = captured.err.splitlines()
    assert all(line.startswith("missing: ") for line in listed)
    assert len(listed) == 2  # what all lack once, and what sem-b lacks beside it
    assert listed[0] == f"missing: {world.data / VAL_INDICES} (generate_splits.py makes it)"
    [about_sae] = [line for line in listed if "MSAE_alpha.pth" in line]
    assert "python debiasing_methods/sae_training.py --backbone alpha --output" in about_sae
    assert "python debiasing_methods/sae_training.py" in about_sae
    assert "download_release" not in about_sae  # the release has files of OpenAI's models alone
    assert last.startswith("error: 15 of 15 results lack something (listed above)")
    assert "--skip-missing" in last
    assert captured.out == ""
    assert not world.output.exists()


def test_skip_missing_computes_the_rest_and_says_what_it_left_out(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.sae.unlink()
    world.run("--skip-missing")
    captured = capsys.readouterr()
    assert "12 of 15 results computed (3 left out: they lack something)" in captured.out
    assert "missing: " in captured.err
    assert "MSAE_alpha.pth" in captured.err
    assert len(world.results()) == 12
    assert not [name for name in world.results() if "sem-b" in name]


def test_only_the_selected_methods_weights_and_prompts_are_needed(world: World) -> None:
    world.sae.unlink()
    for setting in PROMPTS["settings"]:
        place = yaml.safe_load(world.prompts.read_text())["settings"][setting]
        world.change(
            world.prompts, "settings", setting, value={k: place[k] for k in place if k != "candidates"}
        )
    world.run("--methods", "vanilla", "orth-proj")
    assert len(world.results()) == 6
    with pytest.raises(InputError, match="3 of 3 results lack something"):
        world.run("--methods", "orth-cali")


def test_missing_kinds_of_prompts_are_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    place = copy.deepcopy(PROMPTS["settings"]["word_color"])
    del place["spurious"]
    world.change(world.prompts, "settings", "word_color", value=place)
    assert world.cli("--methods", "orth-proj") == 2
    captured = capsys.readouterr().err
    assert f"missing: orth-proj needs spurious for 'lucky', but {world.prompts} has none" in captured
    assert "error: 1 of 3 results lack something" in captured


def test_missing_text_embeddings_are_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.change(world.prompts, "settings", "word_color", "query", value="Where is {a_query}?")
    assert world.cli("--methods", "vanilla", "orth-proj") == 2
    captured = capsys.readouterr().err
    assert (
        f"missing: 3 prompt(s) have no embedding in {world.text}, the first: 'Where is a lucky?'; '"
        in captured
    )
    assert "error: 2 of 6 results lack something" in captured
    assert not world.output.exists()


def test_a_reference_part_without_a_class_is_found_before_anything_is_written(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = pd.read_feather(world.data / METADATA)
    train = np.load(world.data / TRAIN_INDICES)
    column, value = "color", metadata["color"].iloc[0]
    others = np.flatnonzero((metadata[column] != value).to_numpy())
    train[1] = np.resize(others, train.shape[1]) if len(others) < train.shape[1] else others[: train.shape[1]]
    train = train[:, : len(np.unique(train[1]))]
    train[1] = np.unique(train[1])[: train.shape[1]]
    val = np.stack([np.setdiff1d(np.arange(N), rows)[: N - train.shape[1]] for rows in train])
    np.save(world.data / TRAIN_INDICES, train)
    np.save(world.data / VAL_INDICES, val)
    assert world.cli("--methods", "vanilla", "bendvlm", "--settings", "word_color") == 2
    assert f"bendvlm needs reference images of every bias class, but fold 1 has none of '{value}'" in (
        capsys.readouterr().err
    )
    assert not world.output.exists()


def test_an_sae_may_be_safetensors(world: World) -> None:
    world.run("--methods", "sem-b")
    before = world.results()
    write_sae(world.sae.with_suffix(".safetensors"), load_sae(world.sae, dim=DIM))
    world.sae.unlink()
    world.run("--methods", "sem-b", "--overwrite")
    for name, content in world.results().items():
        for new, old in zip(json.loads(content), json.loads(before[name]), strict=True):
            assert (new["mean"], new["ci"]) == (old["mean"], old["ci"])


def test_weights_of_the_prompt_set_come_before_the_releases(world: World) -> None:
    world.run("--methods", "sem-b", "--settings", "word_color")
    before = world.results()
    save_sae(world.sae.parent / "mini" / "MSAE_alpha.pth", DIM, latents=30)
    with pytest.raises(InputError, match="made from another weights"):
        world.run("--methods", "sem-b", "--settings", "word_color")
    save_sae(world.sae.parent / "other" / "MSAE_alpha.pth", DIM, latents=20)  # of no interest here
    (world.sae.parent / "mini" / "MSAE_alpha.pth").unlink()
    world.run("--methods", "sem-b", "--settings", "word_color")
    assert world.results() == before


# --- bad input: nothing is written or overwritten ---------------------------------------------------------


def spoil_row(value: float) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        rows = np.load(world.embeddings)
        rows[17] = value
        np.save(world.embeddings, rows)

    return spoil


def too_few_rows(world: World) -> None:
    np.save(world.embeddings, np.load(world.embeddings)[:-1])


def another_width(world: World) -> None:
    np.save(world.embeddings, np.load(world.embeddings)[:, :-1])


def fold_out_of_range(world: World) -> None:
    np.save(world.data / VAL_INDICES, np.load(world.data / VAL_INDICES) + np.uint32(200))


def sae_of_another_width(world: World) -> None:
    save_sae(world.sae, DIM + 1)


def damaged_sae(world: World) -> None:
    world.sae.write_bytes(world.sae.read_bytes()[:500])


def k_too_large(world: World) -> None:
    world.change(world.config, "retrieval_k", value=61)


def option_out_of_range(world: World) -> None:
    world.change(world.methods, "orth-cali", "by_bias_attribute", "color", "lam", value=-1)


def no_neighbors(world: World) -> None:
    world.change(world.methods, "bendvlm", "num_neighbors", value=0)


def column_missing(world: World) -> None:
    pd.read_feather(world.data / METADATA).drop(columns="shape").to_feather(world.data / METADATA)


def strange_value(world: World) -> None:
    table = pd.read_feather(world.data / METADATA)
    table.loc[5, "color"] = "green"
    table.to_feather(world.data / METADATA)


def class_absent(world: World) -> None:
    colors = pd.read_feather(world.data / METADATA)["color"]
    train, val = (np.load(world.data / name) for name in (TRAIN_INDICES, VAL_INDICES))
    val[1] = np.flatnonzero(colors == "red")[: val.shape[1]]
    train[1] = np.setdiff1d(np.arange(N), val[1])
    np.save(world.data / TRAIN_INDICES, train)
    np.save(world.data / VAL_INDICES, val)


def group_absent(world: World) -> None:
    table = pd.read_feather(world.data / METADATA)
    table.loc[table["color"] == "red", "shape"] = "round"
    table.to_feather(world.data / METADATA)


def label_of_no_image(world: World) -> None:
    world.change(world.config, "settings", "object_color", "labels", "box", value={"shape": "flat"})


def query_without_label(world: World) -> None:
    world.change(world.config, "settings", "object_color", "labels", value={"ball": {"shape": "round"}})


def classes_apart(world: World) -> None:
    world.change(world.prompts, "settings", "shape_color", "together", value=False)


def one_class_too_many(world: World) -> None:
    queries = {"round": "round ball", "square": "square box", "flat": "page"}
    world.change(world.prompts, "settings", "shape_color", "queries", value=queries)


def queries_together(world: World) -> None:
    world.change(world.prompts, "settings", "word_color", "together", value=True)


def broken_braces(world: World) -> None:
    world.change(world.prompts, "settings", "word_color", "query", value="A {query")


BAD_INPUT: list[tuple[Callable[[World], None], list[str]]] = [
    (
        spoil_row(np.nan),
        ["CLIP_alpha_embeddings.npy: 1 of ", " rows is NaN, infinite or all zero, the first: row 17"],
    ),
    (
        spoil_row(0.0),
        ["CLIP_alpha_embeddings.npy: 1 of ", " rows is NaN, infinite or all zero, the first: row 17"],
    ),
    (too_few_rows, ["CLIP_alpha_embeddings.npy has 119 rows, but metadata.feather beside it has 120"]),
    (another_width, ["CLIP_alpha_embeddings.npy has width 11, but the backbone has width 12"]),
    (fold_out_of_range, ["val_indices.npy names rows 2"]),
    (
        sae_of_another_width,
        ["MSAE_alpha.pth is an SAE for embeddings of width 13, but the backbone has width 12"],
    ),
    (damaged_sae, ["MSAE_alpha.pth", "to get it anew: train it with"]),
    (k_too_large, ["K = 61 images cannot be retrieved from 60 evaluation images of a fold", "--retrieval-k"]),
    (option_out_of_range, ["methods.yml: orth-cali: lam must be a finite number of at least 0, got -1.0"]),
    (no_neighbors, ["methods.yml: bendvlm: num_neighbors must be at least 1, got 0"]),
    (column_missing, ["metadata.feather lacks the column 'shape'; it has: file_name, color"]),
    (strange_value, ["1 row(s) have a 'color' that is no class, first row 5: 'green'; classes: red, blue"]),
    (class_absent, ["bias class 'blue' has no evaluation image in fold 1"]),
    (group_absent, ["no evaluation image has target class 'square' and bias class 'red'"]),
    (label_of_no_image, ["metadata.feather: no row has shape = 'flat'"]),
    (query_without_label, ["setting 'object_color': unknown query label 'box'; choose from: ball"]),
    (classes_apart, ["missing: ", "its 2 target classes must be asked together ('together: true')"]),
    (
        one_class_too_many,
        ["missing: ", "1 group(s) of 3 queries", "its 2 target classes must be asked toget"],
    ),
    (queries_together, ["missing: ", "each query needs a group of its own (no 'together')"]),
    (broken_braces, ["missing: ", "'A {query' has braces that are no placeholder"]),
]


@pytest.mark.parametrize(
    ("spoil", "expected"), BAD_INPUT, ids=[f"{i}-{c[0].__name__}" for i, c in enumerate(BAD_INPUT)]
)
def test_bad_input_is_told_and_nothing_is_written(
    world: World,
    spoil: Callable[[World], None],
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(world)
    assert world.cli() == 2
    captured = capsys.readouterr()
    for part in expected:
        assert part in captured.err
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in captured.err
    assert not world.output.exists()


@pytest.mark.parametrize("spoil", [sae_of_another_width, k_too_large, spoil_row(np.nan), option_out_of_range])
def test_bad_input_overwrites_nothing(world: World, spoil: Callable[[World], None]) -> None:
    world.run()
    before = world.results()
    spoil(world)
    assert world.cli("--overwrite") == 2
    assert world.results() == before


# --- real text towers -------------------------------------------------------------------------------------


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the backbone of every encoder that is made."""
    made: list[str] = []

    class Recorded(Encoder):
        def __init__(self, backbone: Any, **options: Any) -> None:
            made.append(backbone.name)
            super().__init__(backbone, **options)

    monkeypatch.setattr(text_store, "Encoder", Recorded)
    return made


def test_two_datasets_share_the_text_of_a_backbone(world: World, encoders: list[str]) -> None:
    """Each keeps its sentences beside the other's in the one file on disk."""
    other = world.config.with_name("celeba.yml")
    save_yaml(other, CONFIG | {"dataset": "celeba"})
    save_yaml(world.prompts.with_name("celeba.yml"), PROMPTS)
    world.change(world.prompts.with_name("celeba.yml"), "settings", "word_color", "query", value="{a_query}?")
    arguments = ["--config", str(world.config), str(other), "--settings", "word_color", "--backbones", "beta"]
    assert main_eval.main([*arguments, "--methods", "vanilla"]) == 0
    assert encoders == ["beta", "beta"]  # the second dataset asks in other words
    assert len(world.results()) == 2
    assert main_eval.main([*arguments, "--methods", "vanilla", "--overwrite"]) == 0
    assert len(encoders) == 2
    [kept] = (world.root / "data" / "text_embeddings").iterdir()
    with np.load(kept) as arrays:
        found = arrays["prompts"].tolist()
    assert set(found) == {s for w in ("lucky", "odd", "risky") for s in (f"A photo of {_a(w)}.", f"{_a(w)}?")}


def _a(word: str) -> str:
    return f"an {word}" if word == "odd" else f"a {word}"


def test_two_backbones_encode_their_text_once(
    world: World, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(world.config), "--backbones", "beta", "gamma"]
    assert main_eval.main([*arguments, "--methods", "vanilla", "sem-b"]) == 0
    assert encoders == ["beta", "gamma"]
    names = set(world.results())
    assert names == {
        f"{stem}_clip-{b}_{m}.json"
        for stem in STEMS.values()
        for b in ("b", "gamma")
        for m in ("vanilla", "sem-b")
    }
    kept = sorted(p.name.rsplit("_", 1)[0] for p in (world.root / "data" / "text_embeddings").iterdir())
    assert kept == ["CLIP_beta", "CLIP_gamma"]
    assert main_eval.main([*arguments, "--methods", "vanilla", "sem-b", "--overwrite"]) == 0
    assert encoders == ["beta", "gamma"]  # all is on disk
    assert main_eval.main([*arguments, "--methods", "orth-proj"]) == 0
    assert encoders == ["beta", "gamma"] * 2  # spurious prompts are new
    assert "6 of 6 results computed" in capsys.readouterr().out


def test_a_missing_checkpoint_is_told_and_skipped(
    world: World, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(world.config), "--settings", "word_color", "--methods", "vanilla"]
    assert run_main(lambda: main_eval.main(arguments)) == 2
    captured = capsys.readouterr().err
    assert f"missing: checkpoint of backbone 'alpha' not found: {world.root / 'nowhere.pt'}" in captured
    assert "error: 1 of 3 results lack something" in captured
    assert encoders == []
    assert main_eval.main([*arguments, "--skip-missing"]) == 0
    assert "2 of 3 results computed (1 left out: they lack something)" in capsys.readouterr().out
    assert len(world.results()) == 2


def test_all_backbones_are_checked_before_the_first_is_computed(
    world: World, encoders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = world.data / embeddings_name("gamma")
    np.save(path, np.load(path)[1:])
    arguments = ["--config", str(world.config), "--backbones", "beta", "gamma", "--methods", "vanilla"]
    assert run_main(lambda: main_eval.main(arguments)) == 2
    assert "CLIP_gamma_embeddings.npy has 119 rows, but metadata.feather" in capsys.readouterr().err
    assert encoders == []
    assert not world.output.exists()


def test_given_text_is_of_one_backbone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(world.config), "--text-embeddings", str(world.text)]
    assert run_main(lambda: main_eval.main(arguments)) == 2
    assert (
        "--text-embeddings holds the text of one backbone; choose it with --backbones from: alpha, beta"
        in (capsys.readouterr().err)
    )
    assert run_main(lambda: main_eval.main([*arguments, "--backbones", "beta"])) == 2  # of another width
    assert "float64 of shape (39, 12); a float matrix (rows, " in capsys.readouterr().err
    assert not world.output.exists()


# --- as a command -----------------------------------------------------------------------------------------


def run_command(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "main_eval.py", *arguments],
        capture_output=True,
        text=True,
        cwd=world.root.parent,
        check=False,
    )


def test_command_from_another_folder(world: World) -> None:
    more = ["--data-root", str(world.data.parent), "--output-dir", "here", "--settings", "shape_color"]
    done = run_command(world, *world.arguments(*more))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5 of 5 results computed, in here\n"
    assert "evaluating: 100%" in done.stderr
    world.run("--settings", "shape_color")
    made = {p.name: p.read_bytes() for p in (world.root.parent / "here").iterdir()}
    assert made == world.results()  # the same as in this process


def test_command_refuses_in_one_line(world: World) -> None:
    done = run_command(world, *world.arguments("--retrieval-k", "61"))
    assert done.returncode == 2
    assert done.stdout == ""
    *_, line = done.stderr.splitlines()
    assert line.startswith("error: K = 61 images cannot be retrieved from 60 evaluation images of a fold")
    assert not world.output.exists()
