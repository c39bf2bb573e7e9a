"""A small project of random embeddings with some structure, in which main_eval runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import main_eval
from bias_evaluation.datasets.folder import TRAIN_INDICES, VAL_INDICES, embeddings_name, make_folds
from bias_evaluation.datasets.metadata import METADATA
from bias_evaluation.prompts.sentences import load_prompts
from bias_evaluation.weights.read import save_sae as write_sae
from debiasing_methods.registry import get_method
from safe_io.errors import run_main
from support.world_parts import random_sae, save_yaml, word_sum, word_vector

N, FOLDS, K, DIM, TINY_DIM = 120, 3, 15, 12, 8
# Of a task's records, in their order; without labels there is no precision.
METRICS = {"retrieval": ("kl", "max_skew", "precision"), "zs_classification": ("Acc.", "WG Acc.")}

CONFIG = {
    "dataset": "portraits",
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
    "shape_color": "portraits_zs-classification_shape-color",
    "object_color": "portraits_retrieval_object_color",
    "word_color": "portraits_retrieval_word_color",
}


def encode(sentence: str, dim: int = DIM) -> np.ndarray:
    """Stand in for a text tower: the sum of the words, and half of a direction of the sentence's own.

    A mere sum of words would make BendVLM's subspace hold the difference of the two classes: what is left of
    both is then the same vector, and rounding decides the predictions.
    """
    return word_sum(sentence, dim) + word_vector(sentence, dim) / 2


class World:
    """A project folder; `run` and `cli` call main_eval on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config" / "portraits.yml"
        self.prompts = root / "config" / "prompts" / "mini" / "portraits.yml"
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
            "--backbone",
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
def suite_template(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Path:
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
    write_sae(path, random_sae(dim, latents, torch.Generator().manual_seed(dim), (0.5, 1, 0.25, 1)))


@pytest.fixture
def suite_world(suite_template: Path, tmp_path: Path) -> World:
    """Copy the world, so that a test may change it."""
    root = tmp_path / "project"
    shutil.copytree(suite_template, root)
    return World(root)
