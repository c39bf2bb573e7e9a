"""A tiny project folder with everything that the commands read, and the command lines that work on it."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fault_zygote import COMMANDS
from PIL import Image
from support.world_parts import random_sae, save_yaml, word_sum

from bias_evaluation.datasets.folder import make_folds
from bias_evaluation.prompts.bias_corpora import load_corpus
from bias_evaluation.prompts.prism_texts import load_text_sets
from bias_evaluation.prompts.sentences import load_prompts
from bias_evaluation.training_runs.prism import training_setting
from bias_evaluation.weights.read import save_sae
from debiasing_methods import prism_training, zsdebias_training
from debiasing_methods.registry import METHODS, get_method
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.training.hyperparameters import PrismHyperparameters
from fair_search.bias_files import load_bias
from safe_io.errors import run_main

N, FOLDS, K, DIM, TINY_DIM = 60, 2, 8, 12, 8
PICTURES = 24
COLORS = ["red", "blue"]
SETTINGS = ("shape_color", "word_color")
OPTIONS: dict[str, dict[str, Any]] = {
    "bendvlm": {"num_neighbors": 5, "by_bias_attribute": {"color": {"num_neighbors": 3}}},
    "bendsem-bi": {"num_neighbors": 5},
    "orth-cali": {"lam": 20},
    "prism": {"seeds": [0]},
    "zsdebias": {"seeds": [0]},
}
CONFIG = {
    "dataset": "toy",
    "folder": "Toy",
    "retrieval_k": K,
    "prompts": "mini",
    "backbones": ["alpha", "tiny"],
    "settings": {
        "shape_color": {
            "task": "zs_classification",
            "target": {"column": "shape", "values": ["round", "square"]},
            "bias": {"attribute": "color", "values": COLORS},
            "zsdebias": "color",
        },
        "word_color": {
            "task": "retrieval",
            "query_type": "word",
            "bias": {"attribute": "color", "values": COLORS},
            "zsdebias": "color",
        },
    },
}
SENTENCES = {
    "bias": "color",
    "query": "A photo of {a_query}.",
    "spurious": ["A photo of a {bias} page."],
    "candidates": ["A photo of {a_query} on a {bias} page.", "{a_bias} drawing, as {query} as can be."],
    "augmentations": ["A photo of {a_query} on a {bias} page."],
    "harmful": [["A red page.", "A blue page."]],
    "helpful": [["A round thing.", "A square thing."]],
    "paraphrases": ["A picture of {a_query}.", "This is {a_query}."],
}
PROMPTS = {
    "bias": {"color": {"classes": COLORS, "templates": ["A {bias} page.", "Something {bias} here."]}},
    "diverse": {
        "words": {"thing": ["cat", "tree", "wall", "spoon"]},
        "frames": ["A {thing}.", "The {thing}."],
    },
    "settings": {
        "shape_color": {
            "queries": {"round": "round ball", "square": "square box"},
            "together": True,
            **SENTENCES,
        },
        "word_color": {"queries": ["lucky", "odd"], **SENTENCES},
    },
}
SCENES = ["A {target} on a {bias} page.", "This {bias} page shows a {target}."]
PRISM = {
    "bias": {"color": {"red": ["red", "rosy"], "blue": ["blue", "azure"]}},
    "families": {
        "shapes": {
            "task": "zs_classification",
            "setting": "{target}",
            "bias": ["color"],
            "scenes": SCENES,
            "classes": ["round", "square"],
            "targets": {"shape_color": [["ball", "coin"], ["box", "die"]]},
        },
        "words": {
            "task": "retrieval",
            "setting": "word_{target}_{bias}",
            "bias": ["color"],
            "scenes": SCENES,
            "classes": ["{target}", "not {target}"],
            "targets": {"lucky": [["lucky charm"], ["nail"]], "odd": [["odd sock"], ["shoe"]]},
        },
    },
}
CORPUS = {"color": {"words": {"w": [f"word{i}" for i in range(24)]}, "frames": ["a {w}"]}}
MODEL = {
    "embed_dim": TINY_DIM,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


BIAS = {
    "bias": "race",  # for which the project's bendsem-bi takes few neighbours
    "noun": "page",
    "classes": COLORS,
    "templates": ["A {bias} page.", "Something {bias} here."],
    "diverse": PROMPTS["diverse"],
    "paraphrases": {"all": SENTENCES["paraphrases"], "a ball": ["Balls."]},
}
ASKED = ["A photo of a ball.", "a ball"]


def encode(sentence: str, dim: int = DIM) -> np.ndarray:
    return word_sum(sentence, dim)


@dataclass(frozen=True)
class World:
    """Names of the project's files."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config" / "toy.yml"

    @property
    def data(self) -> Path:
        return self.root / "data" / "Toy"

    @property
    def pictures(self) -> Path:
        return self.root / "data" / "Pictures"

    @property
    def text(self) -> Path:
        return self.root / "text.npz"

    @property
    def embeddings(self) -> Path:
        return self.data / "CLIP_alpha_embeddings.npy"

    @property
    def results(self) -> Path:
        return self.root / "main_eval_output"

    @property
    def table(self) -> Path:
        return self.root / "all_results.feather"

    @property
    def sae(self) -> Path:
        return self.root / "debiasing_methods" / "sae_weights" / "MSAE_alpha.pth"

    def weights(self, kind: str) -> Path:
        """One weight file of a kind: 'sae', 'prism' or 'zsdebias'."""
        return min((self.root / "debiasing_methods" / f"{kind}_weights").rglob("*.pth"))

    def copy(self, root: Path) -> World:
        shutil.copytree(self.root, root)
        return World(root)

    def arguments(self, command: str) -> list[str]:
        """Command line of a command, for the harness and by hand."""
        backbones = self.root / "config" / "backbones.yml"
        given = ["--backbones-file", backbones, "--text-embeddings", self.text]
        asked = ["--queries", self.root / "queries.csv", "--bias", self.root / "bias.yml"]
        asked += ["--text-embeddings", self.text]
        trained = {"sem-b": "sae", "prism": "prism", "zsdebias": "zsdebias"}
        lines: dict[str, list[object]] = {
            "embed": [
                "--backbone", "tiny", "--dataset-name", "portraits", "--dataset-path", self.pictures,
                "--batch-size", 4, "--workers", 0, "--backbones-file", backbones, "--skip-unreadable",
            ],
            "splits": ["--dataset-path", self.pictures, "--k-folds", 3],
            "sae": [
                "--embeddings", self.text, "--output", self.root / "made" / "sae.pth", "--n-latents", 32,
                "--levels", 8, 16, "--epochs", 5, "--batch-size", 32, "--checkpoint-seconds", 0,
            ],
            "prism": [
                "--backbone", "alpha", "--task", "zs_classification", "--setting", "shape_color",
                "--prompts", "mini", "--seeds", 0, 1, 2, 3, "--output-dir", self.root / "made", *given,
            ],
            "zsdebias": [
                "--dataset-paths", self.data, "--bias-attribute", "color", "--backbone", "alpha",
                "--epochs", 4, "--bs", 16, "--lr", 1e-2, "--seeds", 0, "--prompts", "mini", "--output-dir",
                self.root / "made", "--checkpoint-seconds", 0, *given,
            ],
            "evaluate": ["--config", self.config, "--backbone", "alpha", "--text-embeddings", self.text],
            "encode": [
                "--config", self.config, "--backbone", "tiny", "--methods", "vanilla", "orth-proj",
                "--output-dir", self.results,
            ],
            "gather": ["--input-dir", self.results, "--output-dir", self.root / "made"],
            "table": ["2", "--results", self.table, "--output-dir", self.root / "made"],
            "figures": ["--results", self.table, "--output-dir", self.root / "made"],
            "prompts": ["--config", self.config],
            "import": ["--from", self.root / "release", "--to", self.root],
            "unpack": ["--to", self.root, "--only", "sae"],
            "download": ["--to", self.root, "--only", "sae"],
            "audit": [
                "--embeddings", self.embeddings, "--metadata", self.data / "metadata.feather", "--attribute",
                "color", "--values", *COLORS, "--id-column", "file_name", "--ids", self.root / "ids.txt",
                *asked, "--query-column", "query", "--methods", "vanilla", "orth-proj", *trained, "--weights",
                *(f"{name}={self.weights(kind)}" for name, kind in trained.items()), "--k", 3, "--draws", 5,
                "--output-dir", self.root / "made",
            ],
            "debias": [
                *asked, "--column", "query", "--method", "bendsem-bi", "--weights", self.sae,
                "--reference-embeddings", self.embeddings, "--reference-metadata",
                self.data / "metadata.feather", "--reference-column", "color", "--output",
                self.root / "made" / "queries.npy",
            ],
        }  # fmt: skip
        return [str(argument) for argument in lines[command]]


def make_world(root: Path) -> World:
    """Make the project; PRISM and ZSDebias are trained by their own commands."""
    world = World(root)
    _write_configs(world)
    _write_model(root)
    _write_data(world)
    _write_text(world)
    sae = random_sae(DIM, 40, torch.Generator().manual_seed(0), [1 / 3] * 4)
    save_sae(world.sae, sae)
    with zipfile.ZipFile(root / "sae.zip", "w") as archive:
        archive.write(world.sae, "sae_weights/MSAE_small.pth")
        archive.writestr("README.md", np.random.default_rng(0).bytes(60_000))
    _write_release(root / "release", sae)
    given = ["--backbones-file", str(root / "config" / "backbones.yml"), "--text-embeddings", str(world.text)]
    weights = root / "debiasing_methods"
    _train(prism_training, "--config", world.config, "--backbone", "alpha", "--prompts", "mini",
           "--output-dir", weights / "prism_weights" / "mini", *given[2:])  # fmt: skip
    _train(zsdebias_training, "--dataset-paths", world.data, "--bias-attribute", "color",
           "--backbone", "alpha", "--epochs", 2, "--bs", 16, "--lr", 1e-2, "--prompts", "mini",
           "--output-dir", weights / "zsdebias_weights" / "mini", *given)  # fmt: skip
    return world


def _write_release(folder: Path, sae: SparseAutoencoder) -> None:
    """Write some files as the paper's release has them."""
    save_sae(folder / "debiasing_methods" / "sae_weights" / "MSAE_small.pth", sae)
    data = folder / "data" / "UTKFace"
    data.mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"{i}_0_0_1.jpg" for i in range(N)]
    table = pd.DataFrame({"file_name": names, "file_path": names, "gender": "Male", "race": "White"})
    table.to_feather(data / "metadata.feather")
    np.save(data / "CLIP_ViT-B-16_embeddings.npy", random.normal(size=(N, 512)).astype(np.float16))
    for name, folds in zip(("train", "val"), make_folds(N, FOLDS), strict=True):
        np.save(data / f"{name}_indices.npy", folds)


def _train(module: Any, *arguments: object) -> None:
    if code := module.main([str(argument) for argument in arguments]):
        raise RuntimeError(f"{module.__name__} ended with {code}")


def _write_configs(world: World) -> None:
    folder = world.root / "config"
    tiny = {"open_clip": "tiny_fault_clip.json", "checkpoint": "tiny.pt", "dim": TINY_DIM, "quick_gelu": True}
    alpha = {"open_clip": "RN50", "checkpoint": "nowhere.pt", "dim": DIM, "quick_gelu": True}
    save_yaml(world.config, CONFIG)
    save_yaml(folder / "backbones.yml", {"alpha": alpha, "tiny": tiny})
    save_yaml(folder / "methods.yml", {name: OPTIONS.get(name, {}) for name in METHODS})
    save_yaml(folder / "prompts" / "mini" / "toy.yml", PROMPTS)
    save_yaml(folder / "prism" / "mini" / "toy.yml", PRISM)
    save_yaml(folder / "prism_training.yml", {"*": {"num_samples": 20, "lr": 0.01}})
    save_yaml(folder / "zsdebias" / "default.yml", CORPUS)
    save_yaml(world.root / "bias.yml", BIAS)
    pd.DataFrame({"query": ASKED}).to_csv(world.root / "queries.csv", index=False)
    (world.root / "ids.txt").write_text("".join(f"{i}.png\n" for i in range(N)))


def _write_model(root: Path) -> None:
    import open_clip

    config = root / "tiny_fault_clip.json"
    config.write_text(json.dumps(MODEL))
    open_clip.add_model_config(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(config.stem).state_dict(), root / "tiny.pt")


def _write_data(world: World) -> None:
    random = np.random.default_rng(0)
    colors = np.tile(COLORS, N // 2)
    shapes = np.repeat(["round", "square"], N // 2)
    names = [f"{i}.png" for i in range(N)]
    world.data.mkdir(parents=True)
    table = pd.DataFrame({"file_name": names, "file_path": names, "color": colors, "shape": shapes})
    table.to_feather(world.data / "metadata.feather")
    for name, dim in (("alpha", DIM), ("tiny", TINY_DIM)):
        rows = [encode(f"{color} {shape}", dim) for color, shape in zip(colors, shapes, strict=True)]
        rows = (np.stack(rows) + random.normal(size=(N, dim))).astype(np.float32)
        np.save(world.data / f"CLIP_{name}_embeddings.npy", rows)
    for name, folds in zip(("train", "val"), make_folds(N, FOLDS), strict=True):
        np.save(world.data / f"{name}_indices.npy", folds)
    (world.pictures / "images").mkdir(parents=True)
    names = [f"{i:02d}.png" for i in range(PICTURES)]
    for name in names:
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(world.pictures / "images" / name)
    for name in (names[5], names[17]):  # which the command leaves out
        (world.pictures / "images" / name).write_bytes(b"no picture")
    columns = ("role", "trait", "hobby", "gender", "skin", "hair", "blond")
    table = pd.DataFrame(
        {"file_name": names, **{c: [f"{c}{i % 2}" for i in range(PICTURES)] for c in columns}}
    )
    table.to_csv(world.pictures / "labels.csv", index=False)


def _write_text(world: World) -> None:
    """Write the embeddings of every sentence that any command asks for."""
    folder = world.root / "config"
    needs = frozenset().union(*(get_method(name).needs for name in METHODS))
    sentences = load_bias(world.root / "bias.yml").prompts(ASKED).sentences("any", needs)
    for setting in SETTINGS:
        sentences += load_prompts(folder / "prompts" / "mini", "toy", setting).sentences("any", needs)
    for (task, name), text_set in load_text_sets(folder / "prism" / "mini").items():
        training = PrismHyperparameters(num_samples=1, lr=1)
        sentences += training_setting(task, name, text_set, training).sentences
    sentences += load_corpus(folder / "zsdebias" / "default.yml", "color")
    prompts = list(dict.fromkeys(sentences))
    np.savez(world.text, prompts=np.array(prompts), embeddings=np.stack([encode(p) for p in prompts]))


def call(world: World, command: str, *more: str) -> tuple[int, str]:
    """Run a command in this process: its exit code and what it writes to stderr; exceptions come through."""
    main = importlib.import_module(COMMANDS[command]).main
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = run_main(lambda: main([*world.arguments(command), *more]))
    return code, err.getvalue()
