"""The published flat configs: one YAML a result, read into the same objects as a dataset's config.

A flat config names its dataset, and the dataset's own config (`<dataset>.yml` beside it, in the folder above,
or the project's) says the rest: columns, bias classes and prompts. What comes out is a `DatasetConfig` with
one setting, one backbone, one method and at most one seed. The name of the file is the name of the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from bias_evaluation.grid.configs import (
    DATASETS,
    TASKS,
    Backbone,
    DatasetConfig,
    MethodConfig,
    Setting,
    load_dataset_config,
    option_types,
)
from bias_evaluation.grid.plan import ResultKey
from debiasing_methods.training.hyperparameters import PrismHyperparameters
from safe_io.checkout import CONFIG
from safe_io.documents import Section, choices, read_yaml
from safe_io.errors import InputError

_MARK = "dataset_name"  # every flat config has this key, no dataset config has it
# Keys that not all flat configs have. `prompts` may stand in all; the published ones do not have it.
_TASK_KEYS = {
    "retrieval": ("retrieval_K", "query_type", "bias_attribute"),
    "zs_classification": ("class_setting",),
}
_METHOD_KEYS = {
    "orth_cali": ("lam",),
    "bendvlm": ("num_neighbors",),
    "sem": ("sem_version", "sae_weights_path"),
    "bendsem": ("sem_version", "sae_weights_path", "num_neighbors"),
    "roboshot": ("reject_harmful", "accept_helpful"),
    "prism": ("epochs", "num_bases", "num_samples", "seed", "lr", "batch_size", "wd", "init_weight"),
    "zsdebias": ("hidden_num", "seed"),
}


def load_configs(paths: Iterable[Path | str]) -> list[DatasetConfig]:
    """Read configs of either form; their content says which they are.

    Parameters
    ----------
    paths : iterable of path-like
        Dataset configs and flat configs; one that is named twice is read once.

    Returns
    -------
    list of DatasetConfig

    Raises
    ------
    InputError
        A file is missing or not YAML; a key is unknown, missing, of the wrong type, or does not apply; a
        value is one that the method does not have; a flat config describes another result than its name.
    """
    datasets: dict[Path, DatasetConfig] = {}  # 512 flat configs are of four datasets

    def dataset_config(path: Path) -> DatasetConfig:
        if path not in datasets:
            datasets[path] = load_dataset_config(path)
        return datasets[path]

    configs = []
    for path in dict.fromkeys(Path(path).resolve() for path in paths):
        document = read_yaml(path, "config")
        if isinstance(document, Mapping) and _MARK in document:
            flat = Section(document, str(path))
            dataset = flat.choice(_MARK, DATASETS)
            base = dataset_config(_dataset_file(path, dataset))
            if base.dataset != dataset:
                raise InputError(f"{path}: {base.path} is the config of '{base.dataset}', not of '{dataset}'")
            configs.append(_read_flat(flat, path, base))
        else:
            configs.append(dataset_config(path))
    return configs


def _dataset_file(path: Path, dataset: str) -> Path:
    """Find the config of a flat config's dataset."""
    folders = (path.parent, path.parent.parent, CONFIG)
    for folder in folders:
        found = folder / f"{dataset}.yml"
        if found != path and found.is_file():
            return found
    raise InputError(
        f"{path}: the dataset '{dataset}' has no config: there is no {dataset}.yml in {choices(folders)}"
    )


def _read_flat(flat: Section, path: Path, base: DatasetConfig) -> DatasetConfig:
    """Restrict a dataset's config to the result that a flat config describes."""
    from bias_evaluation.grid.methods import published_name
    from debiasing_methods.registry import METHODS

    setting = _setting(flat, base)
    backbone = _backbone(flat, base)
    published = flat.choice("method", list(dict.fromkeys(published_name(name).method for name in METHODS)))
    method = _method(flat, published, base.root)
    config = replace(
        base,
        flat=path,
        folder=str(base.root / flat.take("dataset_path", str)),
        prompts=flat.take("prompts", str, base.prompts),
        retrieval_k=flat.positive("retrieval_K") if setting.task == "retrieval" else base.retrieval_k,
        settings={setting.name: setting},
        backbones={backbone.name: backbone},
        methods={method.name: method},
    )
    _finish(flat, setting.task, published)
    stem = ResultKey(config.dataset, setting, backbone, method, *(method.seeds or (None,))).stem
    if path.stem != stem:
        raise InputError(
            f"{path}: its content is the result '{stem}', but its name says '{path.stem}'; rename the file, "
            f"or mend what it says"
        )
    return config


def _setting(flat: Section, base: DatasetConfig) -> Setting:
    task = flat.choice("task", TASKS)
    settings = [setting for setting in base.settings.values() if setting.task == task]
    if not settings:
        raise InputError(f"{flat.where}: {base.dataset} has no setting of the task '{task}' in {base.path}")
    if task == "zs_classification":
        name = flat.choice("class_setting", [setting.name for setting in settings])
        return base.settings[name]
    asked = (flat.take("query_type", str), flat.take("bias_attribute", str))
    known = {(setting.query_type, setting.bias_attribute): setting for setting in settings}
    if asked not in known:
        raise InputError(
            f"{flat.where}: {base.dataset} has no retrieval with the query_type '{asked[0]}' and the "
            f"bias_attribute '{asked[1]}'; it has: {choices([' and '.join(pair) for pair in known])}"
        )
    return known[asked]


def _backbone(flat: Section, base: DatasetConfig) -> Backbone:
    known = {backbone.openai_name: backbone for backbone in base.backbones.values()}
    return known[flat.choice("model_ID", list(known))]


def _method(flat: Section, published: str, root: Path) -> MethodConfig:
    """Read a method's options, seed and weights; all that the published form has must be there."""
    from bias_evaluation.grid.methods import published_name
    from debiasing_methods.registry import METHODS, get_method

    names = {name: published_name(name) for name in METHODS}
    variants = {spelled.variant: name for name, spelled in names.items() if spelled.method == published}
    name = variants[flat.choice("sem_version", list(variants)) if None not in variants else None]
    cls = get_method(name)
    _must_be(flat, "normalize", cls.normalize, f"{published} is defined so")
    if name == "zsdebias":
        _must_be(flat, "hidden_num", 2, "ZSDebias has two parts of latents, one kept and one replaced")
    # every whole number among the options is a count
    types = option_types(name)
    options = {
        key: flat.positive(key) if kind is int else flat.take(key, kind) for key, kind in types.items()
    }
    if cls.weights is None:
        try:
            cls(**options)
        except ValueError as error:
            raise InputError(f"{flat.where}: {error}") from None
    return MethodConfig(
        name=name,
        options=options,
        by_bias_attribute={},
        seeds=(_seed(flat),) if cls.seeded else (),
        sae=root / flat.take("sae_weights_path", str) if cls.weights == "sae" else None,
        prism=_prism(flat) if name == "prism" else None,
    )


def _seed(flat: Section) -> int:
    seed = flat.take("seed", int)
    if seed < 0:
        raise InputError(f"{flat.where}: 'seed' must be at least 0, found {seed}")
    return seed


def _prism(flat: Section) -> PrismHyperparameters:
    """Read how the maps were trained: their files are found by it."""
    _must_be(flat, "num_bases", 0, "PRISM's maps are trained whole, not in a subspace")
    _must_be(flat, "init_weight", "random", "PRISM's maps start at random")
    values = {key: flat.take(key, kind) for key, kind in get_type_hints(PrismHyperparameters).items()}
    try:
        return PrismHyperparameters(**values)
    except ValueError as error:
        raise InputError(f"{flat.where}: {error}") from None


def _must_be(flat: Section, key: str, value: Any, why: str) -> None:
    """Take a value that is always the same."""
    found = flat.take(key, type(value))
    if found != value:
        raise InputError(
            f"{flat.where}: '{key}' must be {json.dumps(value)}, found {json.dumps(found)}: {why}"
        )


def _finish(flat: Section, task: str, method: str) -> None:
    """Raise `InputError` where a key is left; of one that others have, say whose it is."""
    for key in flat:
        for what, chosen, keys in (("task", task, _TASK_KEYS), ("method", method, _METHOD_KEYS)):
            owners = [name for name, own in keys.items() if key in own]
            if owners:
                raise InputError(
                    f"{flat.where}: '{key}' does not apply to the {what} {chosen}, only to {choices(owners)}"
                )
    flat.finish()
