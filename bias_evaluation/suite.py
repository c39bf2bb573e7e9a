"""The grid of results: planned as data, checked for what is missing, then computed with shared work.

Order of work: dataset → backbone (embeddings held once) → setting → method. `plan` lists, `Workspace` holds
what results share, `evaluate` computes one result.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bias_evaluation import weights
from bias_evaluation.classification import check_groups, evaluate_classification, summarize_classification
from bias_evaluation.configs import Backbone, DatasetConfig, Setting, is_seeded, option_defaults
from bias_evaluation.datasets import (
    TRAIN_INDICES,
    VAL_INDICES,
    EvaluationData,
    embeddings_name,
    load_evaluation_data,
)
from bias_evaluation.encoder import TextStore, finite_rows
from bias_evaluation.metadata import METADATA
from bias_evaluation.metrics import class_priors
from bias_evaluation.official_prompts import is_official, load_official
from bias_evaluation.prism_settings import TRAINING, text_set_name
from bias_evaluation.prompts import GroupEmbedder, SettingPrompts, load_prompts
from bias_evaluation.results import ResultKey, differences, make_records
from bias_evaluation.retrieval import check_k, evaluate_retrieval, summarize_retrieval
from bias_evaluation.scoring import fold_scores
from bias_evaluation.sections import choices, unknown
from debiasing_methods.base import DebiasingMethod, ReferenceImages
from debiasing_methods.errors import InputError
from debiasing_methods.files import sha256_file, sha256_json
from debiasing_methods.linalg import unit
from debiasing_methods.prism import Prism, load_prism_map
from debiasing_methods.registry import get_method
from debiasing_methods.sae import load_sae
from debiasing_methods.zsdebias import load_zsdebias

T = TypeVar("T")
_MAKERS = {
    "embeddings": "precompute_embeddings.py",
    "metadata": "precompute_embeddings.py",
    "folds": "generate_splits.py",
}


@dataclass(frozen=True)
class RunOptions:
    """What the command line adds to a config.

    Attributes
    ----------
    data_root, output_dir : pathlib.Path
        Folder of the dataset folders; folder of the result files.
    prompts : str
        Name of the prompt set.
    retrieval_k : int
        K of retrieval.
    text_embeddings : pathlib.Path or None
        File that supplies all text embeddings.
    device : str
        'cpu' or 'cuda'.
    """

    data_root: Path
    output_dir: Path
    prompts: str
    retrieval_k: int
    text_embeddings: Path | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Selection:
    """Names that restrict the grid; None takes everything in the config."""

    settings: Sequence[str] | None = None
    backbones: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    seeds: Sequence[int] | None = None


def plan(config: DatasetConfig, selection: Selection) -> list[ResultKey]:
    """List the results of a config that a selection allows, in the order of work.

    A name that the config does not have selects nothing; `check_selection` finds names that no config has.
    """
    return [
        ResultKey(config.dataset, setting, backbone, method, seed)
        for backbone in _chosen(config.backbones, selection.backbones)
        for setting in _chosen(config.settings, selection.settings)
        for method in _chosen(config.methods, selection.methods)
        for seed in _seeds(method.name, method.seeds, selection.seeds)
    ]


def _chosen(available: Mapping[str, T], names: Sequence[str] | None) -> list[T]:
    return [value for name, value in available.items() if names is None or name in names]


def _seeds(method: str, seeds: Sequence[int], wanted: Sequence[int] | None) -> list[int | None]:
    if not is_seeded(method):
        return [None]
    return [seed for seed in seeds if wanted is None or seed in wanted]


def check_selection(configs: Sequence[DatasetConfig], selection: Selection) -> None:
    """Raise `InputError` where a selected name is in none of some configs, or no seed of a method is left."""
    methods_files = [config.flat or config.path.parent / "methods.yml" for config in configs]
    sources = [config.source for config in configs]
    for kind, names, available, files in (
        ("setting", selection.settings, [config.settings for config in configs], sources),
        ("backbone", selection.backbones, [config.backbones for config in configs], sources),
        ("method", selection.methods, [config.methods for config in configs], methods_files),
    ):
        known = list(dict.fromkeys(chain.from_iterable(available)))
        for name in names or ():
            if name not in known:
                raise unknown(kind, name, known, _some(files))
    if selection.seeds is not None:
        _check_seeds(configs, selection, selection.seeds)


def _some(paths: Iterable[Path]) -> str:
    """Name the first of some files, and say how many more there are."""
    first, *more = dict.fromkeys(map(str, paths))
    return f"{first} and {len(more)} more" if more else first


def _check_seeds(configs: Sequence[DatasetConfig], selection: Selection, wanted: Sequence[int]) -> None:
    seeds: dict[str, set[int]] = {}
    for method in chain.from_iterable(_chosen(config.methods, selection.methods) for config in configs):
        seeds.setdefault(method.name, set()).update(method.seeds)
    for name, known in seeds.items():
        if is_seeded(name) and known.isdisjoint(wanted):
            raise InputError(
                f"--seeds {' '.join(map(str, wanted))}: {name} has the seeds "
                f"{' '.join(map(str, sorted(known)))}"
            )


@dataclass(frozen=True)
class State:
    """Where one result stands.

    Attributes
    ----------
    kind : str
        'done', 'to do', 'stale' (made from other inputs) or 'lacks'.
    detail : str
        What differs or is missing, in a few words.
    digests : dict
        Component → digest of what the result is made from, where nothing is missing.
    missing : tuple of str
        What exactly is missing and how to get it, one line each.
    """

    kind: str
    detail: str
    digests: dict[str, str]
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Describe the state in a few words."""
        joint = " " if self.kind == "lacks" else ": "
        return f"{self.kind}{joint}{self.detail}" if self.detail else self.kind


class Memo:
    """Values that are made once and shared by the workspaces of a command."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, made when it is first asked for."""
        if key not in self._values:
            self._values[key] = make()
        return self._values[key]

    def sha256(self, path: Path) -> str:
        """Digest of a file."""
        return self.get(("sha256", path), lambda: sha256_file(path))


def load_setting_prompts(config: DatasetConfig, setting: Setting, prompts: str) -> SettingPrompts:
    """Load and expand the prompts of a setting, of a prompt set in either form.

    Parameters
    ----------
    config : DatasetConfig
    setting : Setting
    prompts : str
        Name of the prompt set.

    Raises
    ------
    InputError
        The prompt set, its file or the setting in it does not exist, or does not ask as the task does.
    """
    folder = config.path.parent / "prompts" / prompts
    found = (
        load_official(folder, setting.prompts)
        if is_official(folder)
        else load_prompts(folder, config.dataset, setting.prompts)
    )
    _check_queries(found, setting)
    return found


class Workspace:
    """What the results of one dataset and backbone share: arrays, text, prompts, weights and digests.

    Everything is loaded when it is first asked for, once.

    Parameters
    ----------
    config : DatasetConfig
    backbone : Backbone
    options : RunOptions
    memo : Memo, optional
        Shared with other workspaces: prompts and digests of files, and the text of one backbone.
    """

    def __init__(
        self, config: DatasetConfig, backbone: Backbone, options: RunOptions, memo: Memo | None = None
    ) -> None:
        self.config, self.backbone, self.options = config, backbone, options
        self.folder = options.data_root / config.folder
        self._memo = Memo() if memo is None else memo
        self._methods: dict[str, DebiasingMethod] = {}

    # inputs

    @cached_property
    def data(self) -> EvaluationData:
        """Metadata, embeddings and folds."""
        return load_evaluation_data(self.folder, self.backbone.name, self.backbone.dim)

    @property
    def text(self) -> TextStore:
        """Text embeddings; one store a backbone, since each writes all that it holds."""
        cache_dir = self.options.data_root / "text_embeddings"
        device, given = self.options.device, self.options.text_embeddings
        return self._memo.get(
            ("text", self.backbone, cache_dir, given),
            lambda: TextStore(self.backbone, cache_dir, device=device, given=given),
        )

    @cached_property
    def embedder(self) -> GroupEmbedder:
        """Groups of sentences → groups of embeddings on the device."""
        return GroupEmbedder(lambda sentences: self.text.embed(sentences).to(self.options.device))

    @cached_property
    def raw_images(self) -> Tensor:
        """All images as stored, float32, checked, on the device."""
        path = self.folder / embeddings_name(self.backbone.name)
        return finite_rows(self.data.embeddings, path, "image").to(self.options.device)

    @cached_property
    def unit_images(self) -> Tensor:
        """All images, normalised (fp16 is upcast first)."""
        return unit(self.raw_images)

    def prompts(self, setting: Setting) -> SettingPrompts:
        """Expand the prompts of a setting."""
        name = self.options.prompts
        return self._memo.get(
            ("prompts", self.config.path, setting.name, name),
            lambda: load_setting_prompts(self.config, setting, name),
        )

    def weight_files(self, key: ResultKey) -> list[weights.WeightFile]:
        """Find the trained weights that a result needs; `InputError` where the config does not say which."""
        kind, where = get_method(key.method.name).weights, (self.config.root, self.options.prompts)
        if kind == "sae":
            return [weights.sae_file(*where, self.backbone, key.method.sae)]
        if kind == "zsdebias":
            if key.setting.zsdebias is None:
                raise InputError(
                    f"{self.config.path}: setting '{key.setting.name}' does not say which ZSDebias model it "
                    f"takes; give it the key 'zsdebias' (human, animal, or the name of your own bias corpus)"
                )
            return [weights.zsdebias_file(*where, self.backbone, key.setting.zsdebias, key.seed)]
        if kind == "prism":  # one map a query group, in the order of the groups
            training = key.method.prism or self.config.path.parent / TRAINING
            names = [text_set_name(key.setting, group.name) for group in self.prompts(key.setting).groups]
            return weights.prism_files(*where, self.backbone, key.setting.task, names, key.seed, training)
        return []

    # state

    @property
    def _files(self) -> dict[str, list[Path]]:
        names = {
            "embeddings": [embeddings_name(self.backbone.name)],
            "metadata": [METADATA],
            "folds": [TRAIN_INDICES, VAL_INDICES],
        }
        return {component: [self.folder / name for name in files] for component, files in names.items()}

    def digests(self, key: ResultKey) -> dict[str, str]:
        """Component → digest of everything that a result is made from."""
        method = get_method(key.method.name)
        setting = {k: v for k, v in asdict(key.setting).items() if k != "name"}
        options = option_defaults(method.name) | key.method.options_for(key.setting.bias_attribute)
        k = self.options.retrieval_k if key.setting.task == "retrieval" else None
        files = self.weight_files(key)
        return {
            "config": sha256_json([setting, key.method.name, options, key.seed, k, self.backbone.dim]),
            "prompts": sha256_json(self.prompts(key.setting).used_by(key.method.name, method.needs)),
            "weights": self._digest(file.path for file in files) if files else "",
            "text": self.text.digest,
            **{component: self._digest(paths) for component, paths in self._files.items()},
        }

    def _digest(self, paths: Iterable[Path]) -> str:
        return sha256_json([self._memo.sha256(path) for path in paths])

    def lacks(self, key: ResultKey) -> dict[str, list[str]]:
        """Component → what is missing of it for a result and how to get it; empty where nothing is."""
        found = {
            component: [f"{path} ({_MAKERS[component]} makes it)" for path in paths if not path.is_file()]
            for component, paths in self._files.items()
        }
        for component, look in (
            ("prompts", self._missing_prompts),
            ("weights", self._missing_weights),
            ("text", self._missing_text),
        ):
            try:
                lines = look(key)
            except InputError as error:
                lines = [str(error)]
            known = set(chain.from_iterable(found.values()))  # without prompts, nothing can say which weights
            found[component] = [line for line in lines if line not in known]
        return {component: lines for component, lines in found.items() if lines}

    def _missing_prompts(self, key: ResultKey) -> list[str]:
        self.prompts(key.setting).check_for(key.method.name, get_method(key.method.name).needs)
        return []

    def _missing_weights(self, key: ResultKey) -> list[str]:
        lost = [file for file in self.weight_files(key) if not file.path.is_file()]
        more = f", and {len(lost) - 1} more of its kind" if lost[1:] else ""
        return [f"{file.path}{more} ({file.make})" for file in lost[:1]]

    def _missing_text(self, key: ResultKey) -> list[str]:
        text = self.text  # opening it checks the checkpoint or the given file
        if not text.given:
            return []  # what is missing will be encoded
        needs = get_method(key.method.name).needs
        absent = text.missing(self.prompts(key.setting).sentences(key.method.name, needs))
        return [f"{len(absent)} prompt(s) in {text.given}, the first: '{absent[0]}'"] if absent else []

    def state(self, key: ResultKey) -> State:
        """Find out where a result stands; nothing is computed or written."""
        if missing := self.lacks(key):
            return State("lacks", ", ".join(missing), {}, tuple(chain.from_iterable(missing.values())))
        digests = self.digests(key)
        changed = differences(key.path(self.options.output_dir), digests)
        if changed is None:
            return State("to do", "", digests)
        return (
            State("stale", f"made from another {', '.join(changed)}", digests)
            if changed
            else State("done", "", digests)
        )

    # work

    def method(self, key: ResultKey) -> DebiasingMethod:
        """Build the method with its options and weights; once for results that share them."""
        options = key.method.options_for(key.setting.bias_attribute)
        diverse = self.prompts(key.setting).diverse
        files = self.weight_files(key)
        if get_method(key.method.name).weights == "prism":  # not kept: up to 100 MB that serve one result
            return Prism(maps=self._prism_maps(key, files))
        paths = [str(file.path) for file in files]
        identity = sha256_json([key.method.name, options, key.seed, diverse, paths])
        if identity not in self._methods:
            cls = get_method(key.method.name)
            if cls.weights == "sae":
                sae = load_sae(files[0].path, dim=self.backbone.dim, make=files[0].make)
                sae = sae.to(self.options.device)
                options |= {"sae": sae, "diverse": self.embedder.matrix(diverse)}
            elif cls.weights == "zsdebias":
                vae = load_zsdebias(files[0].path, dim=self.backbone.dim, make=files[0].make)
                options |= {"vae": vae.to(self.options.device), "seed": key.seed}
            try:
                self._methods[identity] = cls(**options)
            except ValueError as error:  # an option out of its range
                raise InputError(
                    f"{self.config.path.parent / 'methods.yml'}: {key.method.name}: {error}"
                ) from None
        return self._methods[identity]

    def _prism_maps(self, key: ResultKey, files: Sequence[weights.WeightFile]) -> dict[str, Tensor]:
        """Load the map of each query group."""
        groups, dim, device = self.prompts(key.setting).groups, self.backbone.dim, self.options.device
        return {
            group.name: load_prism_map(file.path, dim=dim, make=file.make).to(device)
            for group, file in zip(groups, files, strict=True)
        }

    def check(self, keys: Sequence[ResultKey]) -> None:
        """Raise `InputError` where files, labels, folds and K do not go together; nothing large is loaded."""
        for setting in {key.setting.name: key.setting for key in keys}.values():
            data, bias = self.data, self.data.codes(setting.bias)
            if setting.target is None:
                check_k(self.options.retrieval_k, data.val.shape[1])
                for fold, rows in enumerate(data.val):
                    class_priors(bias[rows], setting.bias.values, fold)
                _relevant(data, setting, [group.name for group in self.prompts(setting).groups])
            else:
                names = (setting.target.values, setting.bias.values)
                groups = (data.codes(setting.target) * len(names[1]) + bias)[data.val.ravel()]
                sizes = np.bincount(groups, minlength=len(names[0]) * len(names[1]))
                check_groups(sizes.reshape(len(names[0]), len(names[1])), names)

    def load(self, keys: Sequence[ResultKey]) -> None:
        """Encode text, open images and weights, so that what is wrong with them shows before any result."""
        self.ensure_text(keys)
        _ = self.raw_images
        for key in keys:
            self.method(key)

    def release(self) -> None:
        """Let go of arrays and methods: a command with many workspaces holds those of one at a time."""
        for name in ("data", "embedder", "raw_images", "unit_images"):
            self.__dict__.pop(name, None)
        self._methods.clear()

    def ensure_text(self, keys: Sequence[ResultKey]) -> None:
        """Encode all sentences of some results together."""
        sentences: list[str] = []
        for key in keys:
            needs = get_method(key.method.name).needs
            sentences += self.prompts(key.setting).sentences(key.method.name, needs)
        self.text.ensure(sentences)


def evaluate(workspace: Workspace, key: ResultKey, digests: dict[str, str]) -> list[dict[str, Any]]:
    """Compute one result.

    Parameters
    ----------
    workspace : Workspace
        Of the result's dataset and backbone.
    key : ResultKey
    digests : dict
        Component → digest of its inputs, for the records.

    Returns
    -------
    list of dict
        Result records.

    Raises
    ------
    InputError
        Inputs do not fit: labels, K, prompts or weights.
    """
    data, setting = workspace.data, key.setting
    method = workspace.method(key)
    bias = data.codes(setting.bias)
    groups = [
        workspace.embedder.group(group, key.method.name, method.needs)
        for group in workspace.prompts(setting).groups
    ]
    images = workspace.unit_images if method.normalize else workspace.raw_images

    def reference() -> ReferenceImages:
        codes, train = (torch.from_numpy(a).to(images.device) for a in (bias, data.train))
        return ReferenceImages(images, codes, tuple(map(str, setting.bias.values)), train)

    try:
        scores = fold_scores(method, groups, images, data.val, reference)
        summary = _summarize(workspace, setting, scores, bias)
    except InputError:
        raise
    except ValueError as error:  # a method's complaint about its arrays: say which result it was
        raise InputError(f"{key.stem}: {error}") from None
    return make_records(
        key,
        summary,
        retrieval_k=workspace.options.retrieval_k,
        normalize=method.normalize,
        folds=len(data.val),
        digests=digests,
    )


def _check_queries(prompts: SettingPrompts, setting: Setting) -> None:
    """Raise where prompts do not ask as a task does: queries one by one, classes together."""
    found = [len(group.queries) for group in prompts.groups]
    if setting.target is None and set(found) != {1}:
        what = "each query needs a group of its own (no 'together')"
    elif setting.target is not None and found != [len(setting.target.values)]:
        what = f"its {len(setting.target.values)} target classes must be asked together ('together: true')"
    else:
        return
    raise InputError(
        f"{prompts.source}: '{setting.prompts}' has {len(found)} group(s) of {choices(sorted(set(found)))} "
        f"queries, but setting '{setting.name}' is a {setting.task}: {what}"
    )


def _summarize(
    workspace: Workspace, setting: Setting, scores: Iterator[Tensor], bias: np.ndarray
) -> dict[str, dict[str, Any]]:
    data = workspace.data
    if setting.task == "retrieval":
        names = [group.name for group in workspace.prompts(setting).groups]
        relevant = _relevant(data, setting, names)
        k = workspace.options.retrieval_k
        return summarize_retrieval(
            evaluate_retrieval(scores, data.val, bias, setting.bias.values, k, relevant)
        )
    target = data.codes(setting.target)
    classes = (setting.target.values, setting.bias.values)
    counts = evaluate_classification(scores, data.val, target, bias, (len(classes[0]), len(classes[1])))
    return summarize_classification(*counts, classes)


def _relevant(data: EvaluationData, setting: Setting, names: Sequence[str]) -> np.ndarray | None:
    """Which images have each query's label, ``(Q, N)``; None for unlabelled queries."""
    if not setting.query_labels:
        return None
    for name in names:
        if name not in setting.query_labels:
            raise unknown("query label", name, list(setting.query_labels), f"setting '{setting.name}'")
    return np.stack([data.is_value(*setting.query_labels[name]) for name in names])
