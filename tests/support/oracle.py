"""Oracle data: inputs and outputs of the published implementation, as the methods take them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from debiasing_methods.base import DebiasingMethod, QueryGroup, ReferenceImages
from debiasing_methods.registry import METHODS
from debiasing_methods.sae import SparseAutoencoder
from safe_io.checkout import ROOT

# orth-cali and bendvlm have spurious prompts of their own
SPURIOUS = {"orth-cali": "cali_spurious", "bendvlm": "bend_spurious"}


def oracle_folder() -> Path:
    """Folder of the large oracle, whether or not it is there."""
    return Path(os.environ.get("SEM_ORACLE_DIR", ROOT / ".." / "shared")).resolve()


def as_tensor(a: np.ndarray) -> Tensor:
    return torch.from_numpy(a.astype(np.int64) if a.dtype.kind in "ui" else a)


class Oracle:
    """One setting of the oracle: groups, reference images, weights and the published outputs."""

    def __init__(self, path: Path, sae: SparseAutoencoder, diverse: Tensor) -> None:
        with np.load(path) as arrays:
            self.data = {name: as_tensor(arrays[name]) for name in arrays.files}
        self.facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.sae, self.diverse = sae, diverse
        self.groups = sorted(
            {name.split("/")[0] for name in self.data if name.startswith("q") and "/" in name}
        )
        self.images = normalize(self.data["images"], dim=1)

    def method(self, name: str) -> DebiasingMethod:
        cls = METHODS[name]
        given: dict[str, Any] = {"sae": self.sae, "diverse": self.diverse} if cls.weights == "sae" else {}
        if name == "prism":
            given["maps"] = {q: self.data[f"{q}/prism_weight"] for q in self.groups}
        if cls.needs_reference:
            given["num_neighbors"] = self.facts["num_neighbors"]
        if name == "orth-cali":
            given["lam"] = 1000.0
        return cls(**given)

    def queries(self, name: str) -> list[QueryGroup]:
        return [self._group(q, SPURIOUS.get(name, "spurious")) for q in self.groups]

    def _group(self, q: str, spurious: str) -> QueryGroup:
        return QueryGroup(
            queries=self.data[f"{q}/query"],
            name=q,
            spurious=self.data[f"{q}/{spurious}"],
            candidates=self.data[f"{q}/candidates"],
            candidate_pairs=self.data.get(f"{q}/candidate_pairs"),
            augmentations=self.data[f"{q}/bend_augmentations"],
            harmful=self.data[f"{q}/harmful"],
            helpful=self.data[f"{q}/helpful"],
            paraphrases=tuple(self.data[f"{q}/paraphrases"]),
            bias_prompts=tuple(self.data[f"{q}/bias_prompts"]),
        )

    def reference(self) -> ReferenceImages:
        labels = self.data["bias_label"]
        classes = tuple(str(code) for code in range(int(labels.max()) + 1))
        return ReferenceImages(self.images, labels, classes, self.data["train_indices"])

    def published(self, name: str, kind: str) -> list[Tensor]:
        return [self.data[f"{q}/out/{name.replace('-', '_')}/{kind}"] for q in self.groups]


def deviation(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())
