"""The uncertainty of a result of the grid: from files to means, standard deviations and ranges of figures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.datasets.folder import check_images, head_path, residuals_name
from bias_evaluation.embedding.identity import check_made_by
from bias_evaluation.embedding.residuals import read_head
from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.grid.plan import ResultKey
from bias_evaluation.suite.inputs import Inputs
from bias_evaluation.uncertainty.draws import DRAWS, Uncertain, drawn_fold_scores
from bias_evaluation.uncertainty.factors import Factors, factors_path, read_factors
from bias_evaluation.uncertainty.images import check_residuals, image_spread, mean_variances
from debiasing_methods.base import DebiasingMethod, QueryGroup, ReferenceImages
from debiasing_methods.uncertainty import Spread
from safe_io.arrays import load_array
from safe_io.errors import InputError
from safe_io.files import sha256_json

_SEED = 0


def needed_files(inputs: Inputs) -> dict[Path, str]:
    """List the files that uncertainty needs beside a result's own → the command that makes each."""
    name = inputs.backbone.name
    residuals = inputs.folder / residuals_name(name)
    return {
        factors_path(inputs.options.data_root, inputs.backbone): f"hessian_estimation.py --backbone {name}",
        residuals: "precompute_embeddings.py --residuals",
        head_path(residuals): "precompute_embeddings.py --residuals",
    }


def digest_of(inputs: Inputs) -> str:
    """Digest of what uncertainty adds to the inputs of a result."""
    return sha256_json([inputs.digest(needed_files(inputs)), DRAWS, _SEED])


class ModelUncertainty:
    """The uncertainty of one backbone's embeddings of a dataset and of its queries.

    Parameters
    ----------
    inputs : Inputs
        Of the dataset and backbone; their images are open.

    Raises
    ------
    InputError
        A file is missing, damaged, or of another model or image list, or text is given without its model.
    """

    def __init__(self, inputs: Inputs) -> None:
        if inputs.options.text_embeddings is not None:
            raise InputError(
                "--uncertainty needs the model of the text, not only its embeddings; leave out "
                "--text-embeddings"
            )
        self._inputs = inputs
        factors, residuals, _ = needed_files(inputs)
        self.factors: Factors = read_factors(factors)
        self.factors.check_made_for(inputs.backbone, factors)
        rows = load_array(residuals, "residuals", "precompute_embeddings.py --residuals")
        check_images(residuals, inputs.data.metadata)
        check_made_by(residuals, inputs.backbone)
        check_residuals(rows, read_head(head_path(residuals)), inputs.images, residuals)
        device = inputs.options.device
        self.images: Spread = image_spread(rows, self.factors).to(device)
        self._text_posterior = self.factors.posterior("text")
        self._text = TextStore(
            inputs.backbone, inputs.options.data_root / "text_embeddings", device=device, residuals=True
        )

    def ensure(self, keys: Sequence[ResultKey]) -> None:
        """Encode the queries of some results together, with one load of the model."""
        groups = [group for key in keys for group in self._inputs.prompts(key.setting).groups]
        self._text.ensure([sentence for group in groups for sentence in group.queries])

    def queries(self, sentences: Sequence[str]) -> Spread:
        """Uncertainty of some sentences."""
        features = self.factors.text.head.features(self._text.embed(sentences))
        return self._text_posterior.spread(features).to(self._inputs.options.device)


def uncertain_figures(
    model: ModelUncertainty,
    inputs: Inputs,
    key: ResultKey,
    method: DebiasingMethod,
    groups: Sequence[QueryGroup],
    reference: Callable[[], ReferenceImages],
    summarize: Callable[[Iterable[Tensor]], Mapping[str, Mapping[str, Any]]],
) -> dict[str, dict[str, Any]]:
    """Draw the figures of a result.

    Parameters
    ----------
    model : ModelUncertainty
    inputs : Inputs
    key : ResultKey
    method : DebiasingMethod
    groups : sequence of QueryGroup
        The result's own.
    reference : callable
        Gives the labelled reference images.
    summarize : callable
        Scores of all folds → metric → its `mean` and detail.

    Returns
    -------
    dict
        Metric → `mean`, `sd` and `range` (2.5 and 97.5 percentiles) over the draws, their number, and
        `variance_by_class`: mean variance of the cosine of an image of each bias class with the queries,
        before debiasing.
    """
    prompts = inputs.prompts(key.setting).groups
    spreads = [model.queries(group.queries) for group in prompts]
    uncertain = Uncertain(model.images, spreads, DRAWS, _SEED)
    means: dict[str, list[float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result itself has warned
        for scores in drawn_fold_scores(
            method,
            groups,
            inputs.images,
            inputs.data.val,
            reference,
            uncertain,
        ):
            for metric, values in summarize(scores).items():
                means.setdefault(metric, []).append(float(values["mean"]))
    by_class = _variance_by_class(model, inputs, key, groups, spreads)
    return {metric: _described(values) | {"variance_by_class": by_class} for metric, values in means.items()}


def _described(values: Sequence[float]) -> dict[str, Any]:
    low, high = np.percentile(values, [2.5, 97.5])
    sd = float(np.std(values, ddof=1))
    return {
        "mean": float(np.mean(values)),
        "sd": sd,
        "range": [float(low), float(high)],
        "draws": len(values),
    }


def _variance_by_class(
    model: ModelUncertainty,
    inputs: Inputs,
    key: ResultKey,
    groups: Sequence[QueryGroup],
    spreads: Sequence[Spread],
) -> dict[str, float]:
    """Mean variance of the cosines, ``Var`` of `cosine_moments`, over the images of each bias class."""
    texts = torch.cat([group.queries for group in groups])
    of_texts = torch.cat([spread.variances for spread in spreads])
    of_images = mean_variances(inputs.images, model.images, texts, of_texts)
    codes = torch.from_numpy(inputs.codes(key.setting.bias))
    names = map(str, key.setting.bias.values)
    return {name: float(of_images[codes == code].mean()) for code, name in enumerate(names)}
