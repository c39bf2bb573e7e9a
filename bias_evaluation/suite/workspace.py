"""What the results of one dataset and backbone share, and where each result stands."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from bias_evaluation.datasets.folder import (
    TRAIN_INDICES,
    VAL_INDICES,
    DatasetRows,
    EvaluationData,
    embeddings_name,
    load_rows,
    open_embeddings,
)
from bias_evaluation.datasets.metadata import METADATA
from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.embedding.text_store import TextStore, describe_missing
from bias_evaluation.grid.configs import Backbone, DatasetConfig, Labels, Setting, option_defaults
from bias_evaluation.grid.plan import ResultKey, RunOptions, State
from bias_evaluation.prompts.official import is_official, load_official
from bias_evaluation.prompts.prism_settings import TRAINING, text_set_name
from bias_evaluation.prompts.sentences import GroupEmbedder, SettingPrompts, load_prompts
from bias_evaluation.suite.classification import check_groups
from bias_evaluation.suite.metrics import class_priors
from bias_evaluation.suite.results import REVISION, differences
from bias_evaluation.suite.retrieval import check_k
from bias_evaluation.weights import find as weights
from bias_evaluation.weights.read import load_prism_map, load_sae, load_zsdebias
from debiasing_methods.base import DebiasingMethod
from debiasing_methods.prism import Prism
from debiasing_methods.registry import get_method
from debiasing_methods.sae import SparseAutoencoder
from safe_io.digests import remembered_sha256
from safe_io.documents import choices, unknown
from safe_io.errors import InputError, as_input_error
from safe_io.files import sha256_json

T = TypeVar("T")
_MAKERS = {
    "embeddings": "precompute_embeddings.py",
    "metadata": "precompute_embeddings.py",
    "folds": "generate_splits.py",
}


class SharedCache:
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
        return self.get(("sha256", path), lambda: remembered_sha256(path))


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
    memo : SharedCache, optional
        Shared with other workspaces: prompts and digests of files, and the text of one backbone.
    """

    def __init__(
        self, config: DatasetConfig, backbone: Backbone, options: RunOptions, memo: SharedCache | None = None
    ) -> None:
        self.config, self.backbone, self.options = config, backbone, options
        self.folder = options.data_root / config.folder
        self._memo = SharedCache() if memo is None else memo
        self._methods: dict[str, DebiasingMethod] = {}
        self._saes: dict[Path, SparseAutoencoder] = {}

    # inputs

    @cached_property
    def data(self) -> EvaluationData:
        """Metadata and folds, which the workspaces of a dataset share, and this backbone's embeddings."""
        rows = self._memo.get(("rows", self.folder), self._load_rows)
        return open_embeddings(rows, self.backbone.name, self.backbone.dim)

    def _load_rows(self) -> DatasetRows:
        # digests before reading: what changes in between is then stale the next time, never taken for done
        for name in (METADATA, TRAIN_INDICES, VAL_INDICES):
            if (self.folder / name).is_file():
                self._memo.sha256(self.folder / name)
        return load_rows(self.folder)

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
    def images(self) -> StoredImages:
        """All images, checked, on the device."""
        path = self.folder / embeddings_name(self.backbone.name)
        return StoredImages(self.data.embeddings, path, self.options.device)

    def codes(self, labels: Labels) -> np.ndarray:
        """Class codes of all images, int64 ``(N,)``; found once for each column and its values."""
        return self._memo.get(("codes", self.folder, labels), lambda: self.data.codes(labels))

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
            "revision": str(REVISION),
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
        return [describe_missing(absent, text.given)] if absent else []

    def state(self, key: ResultKey) -> State:
        """Find out where a result stands; nothing is computed or written.

        Files are digested only for a result that is there: the digests of a new one wait until it is made.
        """
        if missing := self.lacks(key):
            return State("lacks", ", ".join(missing), tuple(chain.from_iterable(missing.values())))
        path = key.path(self.options.output_dir)
        if not path.is_file():
            return State("to do")
        changed = differences(path, self.digests(key))
        return State("stale", f"made from another {', '.join(changed)}") if changed else State("done")

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
                options |= {"sae": self._sae(files[0]), "diverse": self.embedder.matrix(diverse)}
            elif cls.weights == "zsdebias":
                vae = load_zsdebias(files[0].path, dim=self.backbone.dim, make=files[0].make)
                options |= {"vae": vae.to(self.options.device), "seed": key.seed}
            with as_input_error(f"{self.config.path.parent / 'methods.yml'}: {key.method.name}"):
                self._methods[identity] = cls(**options)  # an option may be out of its range
        return self._methods[identity]

    def _sae(self, file: weights.WeightFile) -> SparseAutoencoder:
        """Load an SAE; once for the methods that share it."""
        if file.path not in self._saes:
            sae = load_sae(file.path, dim=self.backbone.dim, make=file.make)
            self._saes[file.path] = sae.to(self.options.device)
        return self._saes[file.path]

    def _prism_maps(self, key: ResultKey, files: Sequence[weights.WeightFile]) -> dict[str, Tensor]:
        """Load the map of each query group."""
        groups, dim, device = self.prompts(key.setting).groups, self.backbone.dim, self.options.device
        return {
            group.name: load_prism_map(file.path, dim=dim, make=file.make).to(device)
            for group, file in zip(groups, files, strict=True)
        }

    def check(self, keys: Sequence[ResultKey]) -> None:
        """Raise `InputError` where files, labels, folds and K do not go together; nothing large is loaded."""
        for key in keys:
            if get_method(key.method.name).needs_reference:
                self._check_reference(key)
        for setting in {key.setting.name: key.setting for key in keys}.values():
            data, bias = self.data, self.codes(setting.bias)
            if setting.target is None:
                check_k(self.options.retrieval_k, data.val.shape[1])
                for fold, rows in enumerate(data.val):
                    class_priors(bias[rows], setting.bias.values, fold)
                relevant_images(data, setting, [group.name for group in self.prompts(setting).groups])
            else:
                names = (setting.target.values, setting.bias.values)
                groups = (self.codes(setting.target) * len(names[1]) + bias)[data.val.ravel()]
                sizes = np.bincount(groups, minlength=len(names[0]) * len(names[1]))
                check_groups(sizes.reshape(len(names[0]), len(names[1])), names)

    def _check_reference(self, key: ResultKey) -> None:
        """Raise where a fold's reference part has no image of a bias class."""
        bias, classes = self.codes(key.setting.bias), key.setting.bias.values
        for fold, rows in enumerate(self.data.train):
            absent = np.flatnonzero(np.bincount(bias[rows], minlength=len(classes)) == 0)
            if len(absent):
                raise InputError(
                    f"{key.method.name} needs reference images of every bias class, but fold {fold} has none "
                    f"of '{classes[absent[0]]}'; use folds that hold every class, or leave the method out"
                )

    def load(self, keys: Sequence[ResultKey]) -> None:
        """Encode text, open images and weights, so that what is wrong with them shows before any result."""
        self.ensure_text(keys)
        for key in keys:  # before anything is read: see `_load_rows`
            self.digests(key)
        self.__dict__.pop("data", None)  # `check` has opened the embeddings, perhaps long ago
        _ = self.images
        for key in keys:
            self.method(key)

    def release(self) -> None:
        """Let go of arrays and methods: a command with many workspaces holds those of one at a time."""
        for name in ("data", "embedder", "images"):
            self.__dict__.pop(name, None)
        self._methods.clear()
        self._saes.clear()

    def ensure_text(self, keys: Sequence[ResultKey]) -> None:
        """Encode all sentences of some results together."""
        sentences: list[str] = []
        for key in keys:
            needs = get_method(key.method.name).needs
            sentences += self.prompts(key.setting).sentences(key.method.name, needs)
        self.text.ensure(sentences)


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


def relevant_images(data: EvaluationData, setting: Setting, names: Sequence[str]) -> np.ndarray | None:
    """Which images have each query's label, ``(Q, N)``; None for unlabelled queries."""
    if not setting.query_labels:
        return None
    for name in names:
        if name not in setting.query_labels:
            raise unknown("query label", name, list(setting.query_labels), f"setting '{setting.name}'")
    return np.stack([data.is_value(*setting.query_labels[name]) for name in names])
