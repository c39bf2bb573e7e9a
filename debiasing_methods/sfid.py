"""SFID: the coordinates that show the bias class most are set to a neutral constant.

Symbols: d embedding dimension, m replaced coordinates, x̄_low mean of the images whose class is uncertain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from debiasing_methods.base import QueryGroup, ReferenceImages
from debiasing_methods.forest import ForestOptions, forest_of_fold, grow_forest, uncertain_mean
from debiasing_methods.labelled import LabelledImageMethod, LabelledRows, bias_prompt_rows
from debiasing_methods.linalg import unit
from debiasing_methods.transforms import CoordinateTransform, once_per_prompts

TEXT = ("none", "prompts")
_PUBLISHED_M = 100


class Sfid(LabelledImageMethod):
    """SFID: selective feature imputation.

    Source: Jung et al. 2024, "A Unified Debiasing Approach for Vision-Language Models across Modalities and
    Tasks", arXiv:2410.07593; defaults as in the published retrieval script.

    Parameters
    ----------
    m : int, optional
        How many coordinates are replaced: 100, and at most a fifth (ours) of narrower embeddings than CLIP's.
    tau : float
        An image is uncertain where its largest class probability is below this. A probability of exactly τ
        counts as not below. [?]
    holdout, max_samples
        As for `ForestOptions`. `max_samples` is ours: a forest on 50,000 images takes minutes.
    text : {'none', 'prompts'}
        What happens to queries: nothing; or the same with a forest on the bias prompts, which is ours, since
        the published one needs labelled sentences.

    Notes
    -----
    1. A random forest predicts the class from the unit reference images.
    2. S: the m coordinates of largest impurity importance; of equal ones the lower index is less important.
    3. ``x_S ← x̄_low,S``; other coordinates stay, and nothing is normalized before the cosine.

    Differs from the published code: probabilities come from the trees that did not see an image (out of
    bag), so only the reference half is used.
    """

    name = "sfid"
    display_name = "SFID"

    def __init__(
        self,
        *,
        m: int | None = None,
        tau: float = 0.7,
        holdout: float | None = None,
        max_samples: int | None = None,
        text: str = "none",
    ) -> None:
        super().__init__()
        if m is not None and m < 1:
            raise ValueError(f"m must be at least 1, got {m}")
        if not 0 < tau <= 1:
            raise ValueError(f"tau must lie above 0 and be at most 1, got {tau}")
        if text not in TEXT:
            raise ValueError(f"text must be one of {', '.join(TEXT)}, got '{text}'")
        self.m, self.tau, self.text = m, tau, text
        self.forest = ForestOptions(holdout, max_samples)
        self.needs = self.needs_with({"text": text})
        self.changes_text = text != "none"

    @classmethod
    def needs_with(cls, options: Mapping[str, object]) -> frozenset[str]:
        """Bias prompts where text is changed too."""
        return frozenset({"bias_prompts"}) if options.get("text") == "prompts" else frozenset()

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Return copies of the queries or, with the option `text`, unit queries with replaced coordinates."""
        self.check(groups)
        if self.text == "none":
            return super().debias_text(groups)
        maps = once_per_prompts(groups, lambda group: group.bias_prompts, self._fit_on_prompts)
        return [each.apply(unit(group.queries)) for each, group in zip(maps, groups, strict=True)]

    def _fit(self, rows: LabelledRows, reference: ReferenceImages, fold: int) -> CoordinateTransform:
        fit = forest_of_fold(rows, reference, fold, self.forest)
        return self._replacing(fit.importances, uncertain_mean(rows.images, fit.largest, self.tau, self.name))

    def _fit_on_prompts(self, group: QueryGroup) -> CoordinateTransform:
        prompts, labels = bias_prompt_rows(group, self.name)
        fit = grow_forest(prompts, labels, self.forest)
        return self._replacing(fit.importances, uncertain_mean(prompts, fit.largest, self.tau, self.name))

    def _replacing(self, importances: Tensor, constant: Tensor) -> CoordinateTransform:
        d = len(importances)
        m = min(_PUBLISHED_M, max(1, d // 5)) if self.m is None else self.m
        if m > d:
            raise ValueError(
                f"{self.name}: m = {m} coordinates cannot be replaced in embeddings of width {d}; set m to "
                f"at most {d}"
            )
        kept = torch.ones_like(importances, dtype=torch.bool)
        kept[torch.argsort(importances, stable=True)[-m:]] = False
        return CoordinateTransform(kept, constant)
