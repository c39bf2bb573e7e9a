"""Methods of a workspace, with their options and trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bias_evaluation.grid.plan import ResultKey
from bias_evaluation.prompts.prism_settings import TRAINING, text_set_name
from bias_evaluation.suite.inputs import Inputs
from bias_evaluation.weights import find
from bias_evaluation.weights.build import build_method
from bias_evaluation.weights.find import WeightFile
from bias_evaluation.weights.kinds import KINDS, WeightKind
from debiasing_methods.base import DebiasingMethod
from debiasing_methods.registry import get_method
from safe_io.errors import InputError
from safe_io.files import sha256_json


class TrainedMethods:
    """The methods of the results of one dataset and backbone; those of equal options and weights are one.

    Parameters
    ----------
    inputs : Inputs
        Whose backbone, prompts and diverse prompts the methods are built with.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._methods: dict[str, DebiasingMethod] = {}
        self._weights: dict[Path, Any] = {}

    def files(self, key: ResultKey) -> list[WeightFile]:
        """Find the trained weights that a result needs; `InputError` if the config does not say which."""
        kind = get_method(key.method.name).weights
        return _FIND[kind](self.inputs, key) if kind else []

    def get(self, key: ResultKey) -> DebiasingMethod:
        """Build the method of a result, or return the one that results with the same inputs share."""
        cls, files = get_method(key.method.name), self.files(key)
        kind = KINDS[cls.weights] if cls.weights else None
        if kind and kind.one_per_group:  # not kept: up to 100 MB that serve one result
            return self._build(key, self._group_weights(kind, key, files))
        diverse = self.inputs.prompts(key.setting).diverse
        options = key.method.options_for(key.setting.bias_attribute)
        paths = [str(file.path) for file in files]
        identity = sha256_json([cls.name, options, key.seed, diverse, paths])
        if identity not in self._methods:
            self._methods[identity] = self._build(key, self._shared_weights(kind, files[0]) if kind else None)
        return self._methods[identity]

    def release(self) -> None:
        """Let go of methods and weights."""
        self._methods.clear()
        self._weights.clear()

    def _build(self, key: ResultKey, weights: Any) -> DebiasingMethod:
        cls, inputs = get_method(key.method.name), self.inputs
        diverse = inputs.prompts(key.setting).diverse if "diverse" in cls.needs else None
        return build_method(
            cls,
            key.method.options_for(key.setting.bias_attribute),
            where=f"{inputs.config.path.parent / 'methods.yml'}: {cls.name}",
            weights=weights,
            diverse=None if diverse is None else inputs.embedder.matrix(diverse),
            seed=key.seed,
        )

    def _load(self, kind: WeightKind, file: WeightFile) -> Any:
        backbone, device = self.inputs.backbone, self.inputs.options.device
        return kind.load(file.path, dim=backbone.dim, make=file.make).to(device)

    def _shared_weights(self, kind: WeightKind, file: WeightFile) -> Any:
        """Load weights; once for the methods that share them."""
        if file.path not in self._weights:
            self._weights[file.path] = self._load(kind, file)
        return self._weights[file.path]

    def _group_weights(self, kind: WeightKind, key: ResultKey, files: list[WeightFile]) -> dict[str, Any]:
        """Load the weights of each query group."""
        groups = self.inputs.prompts(key.setting).groups
        return {group.name: self._load(kind, file) for group, file in zip(groups, files, strict=True)}


def _where(inputs: Inputs) -> tuple[Path, str]:
    return inputs.config.root, inputs.options.prompts


def _sae_files(inputs: Inputs, key: ResultKey) -> list[WeightFile]:
    return [find.sae_file(*_where(inputs), inputs.backbone, key.method.sae)]


def _zsdebias_files(inputs: Inputs, key: ResultKey) -> list[WeightFile]:
    if key.setting.zsdebias is None:
        raise InputError(
            f"{inputs.config.path}: setting '{key.setting.name}' does not say which ZSDebias model it "
            f"takes; give it the key 'zsdebias' (human, animal, or the name of your own bias corpus)"
        )
    return [find.zsdebias_file(*_where(inputs), inputs.backbone, key.setting.zsdebias, key.seed)]


def _prism_files(inputs: Inputs, key: ResultKey) -> list[WeightFile]:
    """One map per query group, in the order of the groups."""
    training = key.method.prism or inputs.config.path.parent / TRAINING
    names = [text_set_name(key.setting, group.name) for group in inputs.prompts(key.setting).groups]
    return find.prism_files(*_where(inputs), inputs.backbone, key.setting.task, names, key.seed, training)


_FIND = {"sae": _sae_files, "zsdebias": _zsdebias_files, "prism": _prism_files}
