"""Everything that the paper's suite reads, at its size and with random values, for `benchmarks/suite.py`.

The folder that is made has the project's own configs and prompts; images, labels, folds, text embeddings and
trained weights are drawn here. The work of an evaluation depends on their sizes, not on their values.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from benchmarks.paper_sizes import SIZES
from bias_evaluation.datasets.folder import (
    TRAIN_INDICES,
    VAL_INDICES,
    embeddings_name,
    make_folds,
)
from bias_evaluation.datasets.metadata import METADATA
from bias_evaluation.grid.configs import DatasetConfig, load_dataset_config
from bias_evaluation.grid.plan import ResultKey, RunOptions, Selection, plan
from bias_evaluation.suite.inputs import SharedCache
from bias_evaluation.suite.workspace import Workspace
from bias_evaluation.weights.read import PRISM_MAP
from debiasing_methods.registry import get_method
from debiasing_methods.sae import SparseAutoencoder
from safe_io.arrays import save_array
from safe_io.checkout import ROOT
from safe_io.errors import InputError
from safe_io.files import atomic_path, save_weights

PROJECT_CONFIG = ROOT / "config"
LATENTS = 16_384
_ROWS = 16_384  # drawn at a time


def config_paths(root: Path) -> list[Path]:
    """Paths of a world's dataset configs."""
    return [root / "config" / f"{name}.yml" for name in SIZES]


def run_options(root: Path, config: DatasetConfig) -> RunOptions:
    """Options with which `main_eval.py` runs in a world."""
    folders = root / "data", root / "main_eval_output"
    return RunOptions(*folders, prompts=config.prompts, retrieval_k=config.retrieval_k)


def make_world(root: Path, selection: Selection, datasets: Sequence[str], sizes: dict[str, int]) -> None:
    """Write the inputs of a part of the suite; what is there is left as it is, but for the configs.

    Parameters
    ----------
    root : pathlib.Path
        Folder to fill.
    selection : Selection
        Backbones and methods to prepare for.
    datasets : sequence of str
        Which of `SIZES`.
    sizes : dict
        Images of each dataset.
    """
    shutil.copytree(PROJECT_CONFIG, root / "config", dirs_exist_ok=True)
    shared = SharedCache()
    for path in config_paths(root):
        if path.stem not in datasets:
            continue
        config = load_dataset_config(path)
        keys = plan(config, selection)
        options = run_options(root, config)
        _write_labels(config, options.data_root / config.folder, sizes[path.stem])
        for key in tqdm(keys, desc=f"preparing {path.stem}", unit="result"):
            workspace = shared.get(
                (path, key.backbone), lambda c=config, k=key, o=options: Workspace(c, k.backbone, o)
            )
            _write_images(workspace, sizes[path.stem])
            _write_weights(workspace, key)
    _write_text(root, selection)


def _generator(name: str) -> np.random.Generator:
    """Draws that depend on a file's name alone, so that a part of a world equals that part of the whole."""
    return np.random.default_rng(crc32(name.encode()))


def _columns(config: DatasetConfig) -> dict[str, list[Any]]:
    """Label columns of a dataset's settings, and the values that each takes."""
    columns: dict[str, list[Any]] = {}
    for setting in config.settings.values():
        for labels in filter(None, (setting.bias, setting.target)):
            columns.setdefault(labels.column, list(labels.values))
        for column, value in setting.query_labels.values():
            columns.setdefault(column, [-1, value])
    return columns


def _write_labels(config: DatasetConfig, folder: Path, n: int) -> None:
    if (folder / METADATA).is_file():
        if (there := len(pd.read_feather(folder / METADATA))) != n:
            raise InputError(f"{folder} has {there} images, not {n}: --world was made at another --scale")
        return
    random = _generator(config.dataset)
    table = {"file_path": [f"{i:06d}.jpg" for i in range(n)]}
    for column, values in _columns(config).items():
        table[column] = [values[code] for code in random.integers(len(values), size=n)]
    for name, indices in zip((TRAIN_INDICES, VAL_INDICES), make_folds(n), strict=True):
        save_array(folder / name, indices)
    with atomic_path(folder / METADATA) as temporary:
        pd.DataFrame(table).to_feather(temporary)


def _write_images(workspace: Workspace, n: int) -> None:
    """Raw embeddings with a common mean, as CLIP's have, written a part at a time."""
    path = workspace.inputs.folder / embeddings_name(workspace.backbone.name)
    if path.is_file():
        return
    random, dim = _generator(str(path.name)), workspace.backbone.dim
    mean = random.standard_normal(dim, dtype=np.float32)
    with atomic_path(path) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, (n, dim))
        for start in range(0, n, _ROWS):
            rows = array[start : start + _ROWS]
            rows[:] = mean + random.standard_normal(rows.shape, dtype=np.float32)
        array.flush()


def _write_weights(workspace: Workspace, key: ResultKey) -> None:
    kind, dim = get_method(key.method.name).weights, workspace.backbone.dim
    for file in workspace.methods.files(key):
        if not file.path.is_file():
            file.path.parent.mkdir(parents=True, exist_ok=True)
            generator = torch.Generator().manual_seed(crc32(file.path.name.encode()))
            save_weights(file.path, _MAKERS[kind](dim, generator))


def _draw(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5


def _sae(dim: int, generator: torch.Generator) -> dict[str, Any]:
    encoder, decoder = _draw(generator, LATENTS, dim), _draw(generator, dim, LATENTS)
    return SparseAutoencoder(encoder, torch.zeros(LATENTS), decoder, torch.zeros(dim)).state_dict()


def _prism_map(dim: int, generator: torch.Generator) -> dict[str, Any]:
    return {PRISM_MAP: torch.eye(dim) + 0.1 * _draw(generator, dim, dim)}


def _zsdebias(dim: int, generator: torch.Generator) -> dict[str, Any]:
    def network(part: str, outputs: int) -> dict[str, torch.Tensor]:
        first = {"0.weight": _draw(generator, dim, dim), "0.bias": torch.zeros(dim)}
        norm = {"1.weight": torch.ones(dim), "1.bias": torch.zeros(dim)}
        last = {"4.weight": _draw(generator, outputs, dim), "4.bias": torch.zeros(outputs)}
        return {f"{part}.{name}": tensor for name, tensor in {**first, **norm, **last}.items()}

    return network("encoder", 2 * dim) | network("decoder", dim)


_MAKERS = {"sae": _sae, "prism": _prism_map, "zsdebias": _zsdebias}


def _write_text(root: Path, selection: Selection) -> None:
    """Text embeddings of every sentence of the suite, where the evaluation keeps those that it encodes."""
    sentences: dict[Workspace, dict[str, None]] = {}
    backbones: dict[str, Workspace] = {}
    for workspace, key in _all_keys(root, selection):
        first = backbones.setdefault(key.backbone.name, workspace)
        method = get_method(key.method.name)
        needed = workspace.inputs.prompts(key.setting).sentences(method.name, method.needs)
        sentences.setdefault(first, {}).update(dict.fromkeys(needed))
    for workspace, needed in sentences.items():
        _write_sentences(workspace, needed)


def _write_sentences(workspace: Workspace, sentences: Iterable[str]) -> None:
    store, generator = workspace.inputs.text, torch.Generator()
    if missing := store.missing(sentences):
        generator.manual_seed(crc32(store.path.name.encode()) + len(missing))
        store.keep(missing, torch.randn(len(missing), store.backbone.dim, generator=generator))


def _all_keys(root: Path, selection: Selection) -> Iterator[tuple[Workspace, ResultKey]]:
    shared = SharedCache()
    for path in config_paths(root):
        config = load_dataset_config(path)
        options = run_options(root, config)
        for backbone in config.backbones.values():
            if selection.backbones is None or backbone.name in selection.backbones:
                workspace = Workspace(config, backbone, options, shared)
                only = Selection(backbones=[backbone.name], methods=selection.methods)
                yield from ((workspace, key) for key in plan(config, only))
