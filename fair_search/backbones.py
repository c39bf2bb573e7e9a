"""Backbones by name, or any model of open_clip with a pretrained tag or a local checkpoint."""

from __future__ import annotations

from pathlib import Path

from bias_evaluation.grid.backbone import Backbone
from bias_evaluation.grid.configs import get_backbone
from bias_evaluation.grid.direct_backbones import FORMS, describe, is_direct
from fair_search.config_files import config_folder
from safe_io.errors import InputError

BackboneLike = str | Backbone | tuple[str, str | Path]


def find_backbone(backbone: BackboneLike, *, file: Path | None = None) -> Backbone:
    """Find a backbone by its name, or describe one of open_clip.

    Parameters
    ----------
    backbone : str, Backbone or (str, str or path)
        A name in the backbone file; a model that needs no entry in it (``MODEL:TAG``, ``hf-hub:ORG/NAME``,
        ``local-dir:FOLDER``); or a model and its weights: the model is a name of open_clip or a model
        config (``.json``), the weights are a pretrained tag of open_clip or a local checkpoint file.
    file : pathlib.Path, optional
        Backbone file; without it ``config/backbones.yml``.

    Returns
    -------
    Backbone

    Raises
    ------
    InputError
        The name, model, tag or file does not exist.
    """
    if isinstance(backbone, Backbone):
        return backbone
    if isinstance(backbone, str):
        return get_backbone(backbone, file or config_folder() / "backbones.yml")
    model, weights = str(backbone[0]), backbone[1]
    if is_direct(model):
        raise InputError(
            f"backbone '{model}' has its own weights: leave out '{weights}'; alone are given: {FORMS}"
        )
    if isinstance(weights, Path) or Path(weights).suffix or Path(weights).exists():
        return describe(model, checkpoint=Path(weights))
    return describe(model, pretrained=weights)
