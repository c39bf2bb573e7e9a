"""What the results of one dataset and backbone are made from: images, labels, folds, prompts and text."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

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
from bias_evaluation.embedding.identity import check_made_by
from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.grid.configs import Backbone, DatasetConfig, Labels, Setting
from bias_evaluation.grid.plan import ResultKey, RunOptions
from bias_evaluation.prompts.sentences import GroupEmbedder, SettingPrompts
from bias_evaluation.prompts.setting_prompts import load_setting_prompts
from debiasing_methods.base import ReferenceImages
from debiasing_methods.registry import get_method
from safe_io.digests import remembered_sha256
from safe_io.documents import unknown
from safe_io.errors import InputError
from safe_io.files import sha256_json

T = TypeVar("T")


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


class Inputs:
    """Inputs of the results of one dataset and backbone; each is loaded when it is first asked for, once.

    Parameters
    ----------
    config : DatasetConfig
    backbone : Backbone
    options : RunOptions
    shared : SharedCache
        Prompts, digests of files and rows of datasets; and the text of one backbone.
    """

    def __init__(
        self, config: DatasetConfig, backbone: Backbone, options: RunOptions, shared: SharedCache
    ) -> None:
        self.config, self.backbone, self.options = config, backbone, options
        self.folder = options.data_root / config.folder
        self._shared = shared
        self._data: EvaluationData | None = None
        self._images: StoredImages | None = None
        self._references: dict[Labels, ReferenceImages] = {}

    @property
    def files(self) -> dict[str, list[Path]]:
        """Component of a result's digests → the dataset's files that it is of."""
        names = {
            "embeddings": [embeddings_name(self.backbone.name)],
            "metadata": [METADATA],
            "folds": [TRAIN_INDICES, VAL_INDICES],
        }
        return {component: [self.folder / name for name in files] for component, files in names.items()}

    def digest(self, paths: Iterable[Path]) -> str:
        """Digest of some files."""
        return sha256_json([self._shared.sha256(path) for path in paths])

    @property
    def data(self) -> EvaluationData:
        """Metadata and folds, which the workspaces of a dataset share, and this backbone's embeddings."""
        if self._data is None:
            self._data = self._open_data()
        return self._data

    @property
    def images(self) -> StoredImages:
        """All images, checked, on the device."""
        if self._images is None:
            self._images = self._open_images()
        return self._images

    def open(self) -> None:
        """Open the embeddings, again if they are open: `data` may have been for a long time."""
        self._references.clear()
        self._data = self._open_data()
        self._images = self._open_images()

    def release(self) -> None:
        """Let go of the arrays."""
        self._data = self._images = None
        self._references.clear()

    def _open_data(self) -> EvaluationData:
        rows = self._shared.get(("rows", self.folder), self._load_rows)
        check_made_by(self.folder / embeddings_name(self.backbone.name), self.backbone)
        return open_embeddings(rows, self.backbone.name, self.backbone.dim)

    def _open_images(self) -> StoredImages:
        path = self.folder / embeddings_name(self.backbone.name)
        return StoredImages(self.data.embeddings, path, self.options.device)

    def _load_rows(self) -> DatasetRows:
        # digests before reading: what changes in between is then stale the next time, never taken for done
        for name in (METADATA, TRAIN_INDICES, VAL_INDICES):
            if (self.folder / name).is_file():
                self._shared.sha256(self.folder / name)
        return load_rows(self.folder)

    def codes(self, labels: Labels) -> np.ndarray:
        """Class codes of all images, int64 ``(N,)``; found once for each column and its values."""
        return self._shared.get(("codes", self.folder, labels), lambda: self.data.codes(labels))

    def reference(self, bias: Labels) -> ReferenceImages:
        """Labelled images of all folds; one object while the images are open, for fits are kept by it."""
        if bias not in self._references:
            codes, train = (
                torch.from_numpy(array).to(self.images.device)
                for array in (self.codes(bias), self.data.train)
            )
            names = tuple(map(str, bias.values))
            self._references[bias] = ReferenceImages(self.images.rows, codes, names, train)
        return self._references[bias]

    def needs(self, key: ResultKey) -> frozenset[str]:
        """Kinds of prompts that the method of a result needs with its options."""
        options = key.method.options_for(key.setting.bias_attribute)
        return get_method(key.method.name).needs_with(options)

    def relevant(self, setting: Setting, names: Sequence[str]) -> np.ndarray | None:
        """Which images have each query's label, ``(Q, N)``; None for unlabelled queries."""
        if not setting.query_labels:
            return None
        for name in names:
            if name not in setting.query_labels:
                raise unknown("query label", name, list(setting.query_labels), f"setting '{setting.name}'")
        return np.stack([self.data.is_value(*setting.query_labels[name]) for name in names])

    @property
    def text(self) -> TextStore:
        """Text embeddings; one store per backbone, since each writes all that it holds."""
        cache_dir = self.options.data_root / "text_embeddings"
        device, given = self.options.device, self.options.text_embeddings
        return self._shared.get(
            ("text", self.backbone, cache_dir, given),
            lambda: TextStore(self.backbone, cache_dir, device=device, given=given),
        )

    @cached_property
    def embedder(self) -> GroupEmbedder:
        """Groups of sentences → groups of embeddings on the device."""
        return GroupEmbedder(lambda sentences: self.text.embed(sentences).to(self.options.device))

    def prompts(self, setting: Setting) -> SettingPrompts:
        """Expand the prompts of a setting."""
        name = self.options.prompts
        return self._shared.get(
            ("prompts", self.config.path, setting.name, name),
            lambda: load_setting_prompts(self.config, setting, name),
        )

    def sentences(self, key: ResultKey) -> list[str]:
        """Every sentence that a result needs."""
        found = self.prompts(key.setting).sentences(key.method.name, self.needs(key))
        predicted = key.rerank and self.options.rerank_labels == "predicted"
        return [*found, *self.label_prompts(key.setting)] if predicted else found

    def label_prompts(self, setting: Setting) -> tuple[str, ...]:
        """Return the sentences that predict bias labels: BendVLM's spurious prompts, one per class.

        Raises
        ------
        InputError
            The setting's prompts do not hold one for each class.
        """
        prompts, n = self.prompts(setting), len(setting.bias.values)
        found = prompts.groups[0].for_method("bendvlm", frozenset({"spurious"})).spurious
        if len(found) != n:
            raise InputError(
                f"{prompts.source}: predicted labels need one spurious prompt of bendvlm for each of {n} "
                f"bias classes, but '{setting.prompts}' has {len(found)}; give labels (--rerank-labels given)"
            )
        return found

    def ensure_text(self, keys: Sequence[ResultKey]) -> None:
        """Encode all sentences of some results together."""
        self.text.ensure([sentence for key in keys for sentence in self.sentences(key)])
