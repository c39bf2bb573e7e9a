"""The kinds of trained weights: what each is called, how its files are named and read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bias_evaluation.grid.configs import Backbone
from bias_evaluation.weights import KIND_NAMES, read
from debiasing_methods import base


@dataclass(frozen=True)
class WeightKind:
    """One kind of trained weights.

    Attributes
    ----------
    name : str
        'sae', 'prism' or 'zsdebias': a method's `weights`.
    title : str
        What it is, for error lines.
    pattern : re.Pattern
        Names of the release's files; the group `backbone` is what `backbone_part` gives.
    load : callable
        ``load(path, *, dim, make)`` reads a file and checks its width.
    width : callable
        Content of a file and its path → embedding dimension; `InputError` if the content is of another kind.
    backbone_part : callable
        How a file's name says which backbone it is for.
    one_per_group : bool
        Whether each query group has weights of its own.
    for_its_prompts : bool
        Whether weights serve no other prompts than those that they were trained on.
    """

    name: str
    title: str
    pattern: re.Pattern[str]
    load: Callable[..., Any]
    width: Callable[[Mapping[str, Any], str | os.PathLike[str]], int]
    backbone_part: Callable[[Backbone], str]
    one_per_group: bool = False
    for_its_prompts: bool = False

    @property
    def keyword(self) -> str:
        """Keyword of a method's constructor that takes the weights."""
        return base.WEIGHT_KINDS[self.name]

    @property
    def archive(self) -> str:
        """Name of the archive in the release."""
        return f"{self.name}_weights.zip"

    @property
    def folder(self) -> Path:
        """Where the files go, relative to the project."""
        return Path("debiasing_methods") / f"{self.name}_weights"

    def backbone(self, file_name: str, backbones: Iterable[Backbone]) -> Backbone | None:
        """Return the backbone that a file is for, by its name; None where it is none of those given."""
        match = self.pattern.fullmatch(file_name)
        named = match["backbone"] if match else None
        return next((backbone for backbone in backbones if named == self.backbone_part(backbone)), None)


_SUFFIX = r"\.(?:pth|safetensors)"
SAE = WeightKind(
    name="sae",
    title="a sparse autoencoder",
    pattern=re.compile(rf"(?P<backbone>MSAE_.+){_SUFFIX}"),
    load=read.load_sae,
    width=lambda weights, path: read.sae_from_state_dict(weights, path).dim,
    backbone_part=lambda backbone: Path(backbone.sae or "").stem,
)
PRISM = WeightKind(
    name="prism",
    title="a trained map",
    pattern=re.compile(rf"prism_clip=(?P<backbone>.+?)_task=.+{_SUFFIX}"),
    load=read.load_prism_map,
    width=lambda weights, path: len(read.prism_map_from_state_dict(weights, path)),
    backbone_part=lambda backbone: backbone.name,
    one_per_group=True,
    for_its_prompts=True,
)
ZSDEBIAS = WeightKind(
    name="zsdebias",
    title="a trained model",
    pattern=re.compile(rf"(?P<backbone>.+)_(?:human|animal)_zsdebias_\d+{_SUFFIX}"),
    load=read.load_zsdebias,
    width=lambda weights, path: read.zsdebias_from_checkpoint(weights, path).dim,
    backbone_part=lambda backbone: backbone.name,
)
KINDS: Mapping[str, WeightKind] = dict(zip(KIND_NAMES, (SAE, PRISM, ZSDEBIAS), strict=True))
"""Name → kind, in the order of the release's archives."""
