"""The grid of results: planned as data, checked for what is missing, then computed with shared work.

Order of work: dataset → backbone (embeddings held once) → setting → method. `plan` lists, `Workspace` holds
what results share, `evaluate` computes one result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_evaluation import weights
from bias_evaluation.classification import evaluate_classification, summarize_classification
from bias_evaluation.configs import Backbone, DatasetConfig, Setting, is_seeded
from bias_evaluation.datasets import (
    METADATA,
    TRAIN_INDICES,
    VAL_INDICES,
    EvaluationData,
    embeddings_name,
    load_evaluation_data,
)
from bias_evaluation.encoder import TextStore, finite_rows
from bias_evaluation.official_prompts import is_official, load_official
from bias_evaluation.prompts import GroupEmbedder, SettingPrompts, load_prompts
from bias_evaluation.results import ResultKey, differences, make_records
from bias_evaluation.retrieval import evaluate_retrieval, summarize_retrieval
from bias_evaluation.scoring import fold_scores
from bias_evaluation.sections import unknown
from debiasing_methods.base import DebiasingMethod, ReferenceImages
from debiasing_methods.errors import InputError
from debiasing_methods.files import sha256_file, sha256_json
from debiasing_methods.linalg import unit
from debiasing_methods.registry import get_method
from debiasing_methods.sae import load_sae


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
    """List the results of a config, restricted by a selection, in the order of work.

    Raises
    ------
    InputError
        A selected name is not in the config, or no seed of a selected seeded method is left.
    """
    settings = _chosen("setting", config.settings, selection.settings, config.path)
    backbones = _chosen("backbone", config.backbones, selection.backbones, config.path)
    methods = _chosen("method", config.methods, selection.methods, config.path.parent / "methods.yml")
    return [
        ResultKey(config.dataset, setting, backbone, method, seed)
        for backbone in backbones
        for setting in settings
        for method in methods
        for seed in _seeds(method.name, method.seeds, selection.seeds)
    ]


def _chosen(kind: str, available: dict[str, Any], names: Sequence[str] | None, where: Path) -> list[Any]:
    if names is None:
        return list(available.values())
    for name in names:
        if name not in available:
            raise unknown(kind, name, list(available), str(where))
    return [value for name, value in available.items() if name in names]


def _seeds(method: str, seeds: tuple[int, ...], wanted: Sequence[int] | None) -> list[int | None]:
    if not is_seeded(method):
        return [None]
    if wanted is None:
        return list(seeds)
    chosen = [seed for seed in seeds if seed in wanted]
    if not chosen:
        raise InputError(
            f"--seeds {' '.join(map(str, wanted))}: {method} has the seeds {' '.join(map(str, seeds))}"
        )
    return chosen


@dataclass(frozen=True)
class State:
    """Where one result stands.

    Attributes
    ----------
    kind : str
        'done', 'to do', 'stale' (made from other inputs) or 'lacks'.
    detail : str
        What differs or is missing.
    digests : dict
        Component → digest of what the result is made from, where nothing is missing.
    """

    kind: str
    detail: str
    digests: dict[str, str]

    def __str__(self) -> str:
        """Describe the state in a few words."""
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class Workspace:
    """What the results of one dataset and backbone share: arrays, text, prompts, weights and digests.

    Everything is loaded when it is first asked for, once.

    Parameters
    ----------
    config : DatasetConfig
    backbone : Backbone
    options : RunOptions
    """

    def __init__(self, config: DatasetConfig, backbone: Backbone, options: RunOptions) -> None:
        self.config, self.backbone, self.options = config, backbone, options
        self.folder = options.data_root / config.folder
        self._prompts: dict[str, SettingPrompts] = {}
        self._methods: dict[str, DebiasingMethod] = {}

    # inputs

    @cached_property
    def data(self) -> EvaluationData:
        """Metadata, embeddings and folds."""
        return load_evaluation_data(self.folder, self.backbone.name, self.backbone.dim)

    @cached_property
    def text(self) -> TextStore:
        """Text embeddings."""
        cache_dir = self.options.data_root / "text_embeddings"
        given = self.options.text_embeddings
        return TextStore(self.backbone, cache_dir, device=self.options.device, given=given)

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
        if setting.name not in self._prompts:
            folder = self.config.path.parent / "prompts" / self.options.prompts
            official = is_official(folder)
            self._prompts[setting.name] = (
                load_official(folder, setting.prompts)
                if official
                else load_prompts(folder, self.config.dataset, setting.prompts)
            )
        return self._prompts[setting.name]

    def weight_file(self, key: ResultKey) -> weights.WeightFile | None:
        """Find the trained weights that a result needs, if any."""
        if get_method(key.method.name).weights == "sae":
            return weights.sae_file(self.config.root, self.options.prompts, self.backbone)
        return None

    # state

    @cached_property
    def _file_digests(self) -> dict[str, str]:
        names = {
            "embeddings": [embeddings_name(self.backbone.name)],
            "metadata": [METADATA],
            "folds": [TRAIN_INDICES, VAL_INDICES],
        }
        return {
            component: sha256_json([sha256_file(self.folder / name) for name in files])
            for component, files in names.items()
        }

    def digests(self, key: ResultKey) -> dict[str, str]:
        """Component → digest of everything that a result is made from."""
        method = get_method(key.method.name)
        setting = {k: v for k, v in asdict(key.setting).items() if k != "name"}
        options = key.method.options_for(key.setting.bias_attribute)
        k = self.options.retrieval_k if key.setting.task == "retrieval" else None
        file = self.weight_file(key)
        return {
            "config": sha256_json([setting, key.method.name, options, key.seed, k, self.backbone.dim]),
            "prompts": sha256_json(self.prompts(key.setting).used_by(key.method.name, method.needs)),
            "weights": sha256_file(file.path) if file else "",
            "text": self.text.digest,
            **self._file_digests,
        }

    def lacks(self, key: ResultKey) -> str:
        """Say what is missing for a result; empty where nothing is."""
        names = [METADATA, embeddings_name(self.backbone.name), TRAIN_INDICES, VAL_INDICES]
        missing = [str(self.folder / name) for name in names if not (self.folder / name).is_file()]
        file = self.weight_file(key)
        if file and not file.path.is_file():
            missing.append(f"{file.path} ({file.make})")
        try:
            self.text  # noqa: B018 - opening it checks the checkpoint or the given file
            needs = get_method(key.method.name).needs
            prompts = self.prompts(key.setting)
            prompts.check_for(key.method.name, needs)
            absent = self.text.missing(prompts.sentences(key.method.name, needs))
            if absent and self.text.given:
                missing.append(f"{len(absent)} prompt(s) in {self.text.given}, the first: '{absent[0]}'")
        except InputError as error:
            missing.append(str(error))
        return "; ".join(missing)

    def state(self, key: ResultKey) -> State:
        """Find out where a result stands; nothing is computed or written."""
        if missing := self.lacks(key):
            return State("lacks", missing, {})
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
        identity = sha256_json([key.method.name, options, key.seed, diverse])
        if identity not in self._methods:
            cls = get_method(key.method.name)
            if cls.weights == "sae":
                file = weights.sae_file(self.config.root, self.options.prompts, self.backbone)
                sae = load_sae(file.path, dim=self.backbone.dim, make=file.make).to(self.options.device)
                options |= {"sae": sae, "diverse": self.embedder.matrix(diverse)}
            self._methods[identity] = cls(**options)
        return self._methods[identity]

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
