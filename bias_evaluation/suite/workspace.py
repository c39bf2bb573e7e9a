"""What the results of one dataset and backbone share: their inputs, their methods and their states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bias_evaluation.grid.configs import Backbone, DatasetConfig, Setting
from bias_evaluation.grid.plan import ResultKey, RunOptions
from bias_evaluation.scoring.classification import check_groups
from bias_evaluation.scoring.metrics import class_priors
from bias_evaluation.scoring.retrieval import check_k
from bias_evaluation.suite.inputs import Inputs, SharedCache
from bias_evaluation.suite.reranking import check_shares
from bias_evaluation.suite.states import States
from bias_evaluation.suite.trained_methods import TrainedMethods
from bias_evaluation.suite.uncertainty import ModelUncertainty
from debiasing_methods.registry import get_method
from safe_io.errors import InputError

_AT_LEAST = {1: "reference images", 2: "at least two reference images"}


class Workspace:
    """What the results of one dataset and backbone share.

    Parameters
    ----------
    config : DatasetConfig
    backbone : Backbone
    options : RunOptions
    shared : SharedCache, optional
        Shared with other workspaces.

    Attributes
    ----------
    inputs : Inputs
        Images, labels, folds, prompts and text.
    methods : TrainedMethods
        Methods with their weights.
    states : States
        Where each result stands.
    uncertainty : ModelUncertainty or None
        Of the embeddings, while they are loaded and if it is asked for.
    """

    def __init__(
        self,
        config: DatasetConfig,
        backbone: Backbone,
        options: RunOptions,
        shared: SharedCache | None = None,
    ) -> None:
        self.config, self.backbone, self.options = config, backbone, options
        self.inputs = Inputs(config, backbone, options, shared or SharedCache())
        self.methods = TrainedMethods(self.inputs)
        self.states = States(self.inputs, self.methods)
        self.uncertainty: ModelUncertainty | None = None

    def check(self, keys: Sequence[ResultKey]) -> None:
        """Raise `InputError` where files, labels, folds and K do not go together; nothing large is loaded."""
        for key in keys:
            if get_method(key.method.name).takes_labelled_images():
                self._check_reference(key)
            if key.rerank:
                check_shares(self.inputs, key)
        for setting in {key.setting.name: key.setting for key in keys}.values():
            if setting.target is None:
                self._check_retrieval(setting)
            else:
                self._check_classification(setting)

    def _check_reference(self, key: ResultKey) -> None:
        """Raise where a fold's reference part has too few images of a bias class."""
        fewest = 2 if get_method(key.method.name).fits_images else 1
        bias, classes = self.inputs.codes(key.setting.bias), key.setting.bias.values
        for fold, rows in enumerate(self.inputs.data.train):
            sizes = np.bincount(bias[rows], minlength=len(classes))
            if sizes.min() < fewest:
                few = int(sizes.argmin())
                raise InputError(
                    f"{key.method.name} needs {_AT_LEAST[fewest]} of every bias class, but fold {fold} has "
                    f"{sizes[few] or 'none'} of '{classes[few]}'; use folds that hold every class, or leave "
                    f"the method out"
                )

    def _check_retrieval(self, setting: Setting) -> None:
        bias, folds = self.inputs.codes(setting.bias), self.inputs.data.val
        check_k(self.options.retrieval_k, folds.shape[1])
        for fold, rows in enumerate(folds):
            class_priors(bias[rows], setting.bias.values, fold)
        self.inputs.relevant(setting, [group.name for group in self.inputs.prompts(setting).groups])

    def _check_classification(self, setting: Setting) -> None:
        names = (setting.target.values, setting.bias.values)
        codes = self.inputs.codes(setting.target) * len(names[1]) + self.inputs.codes(setting.bias)
        sizes = np.bincount(codes[self.inputs.data.val.ravel()], minlength=len(names[0]) * len(names[1]))
        check_groups(sizes.reshape(len(names[0]), len(names[1])), names)

    def load(self, keys: Sequence[ResultKey]) -> None:
        """Encode text, open images and weights, so that what is wrong with them shows before any result."""
        self.inputs.ensure_text(keys)
        for key in keys:  # before anything is read: see `Inputs._load_rows`
            self.states.digests(key)
        self.inputs.open()
        for key in keys:
            self.methods.get(key)
        if self.options.uncertainty:
            self.uncertainty = ModelUncertainty(self.inputs)
            self.uncertainty.ensure(keys)

    def release(self) -> None:
        """Let go of arrays and methods: a command with many workspaces holds those of one at a time."""
        self.uncertainty = None
        self.inputs.release()
        self.methods.release()
