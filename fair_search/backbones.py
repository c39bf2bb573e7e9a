"""Backbones by name, or any model of open_clip with a pretrained tag or a local checkpoint."""

from __future__ import annotations

from pathlib import Path

from bias_evaluation.grid.configs import Backbone, get_backbone
from fair_search.config_files import config_folder
from safe_io.documents import Section
from safe_io.errors import InputError
from safe_io.files import read_json

BackboneLike = str | Backbone | tuple[str, str | Path]


def find_backbone(backbone: BackboneLike, *, file: Path | None = None) -> Backbone:
    """Find a backbone by its name, or describe one of open_clip.

    Parameters
    ----------
    backbone : str, Backbone or (str, str or path)
        A name in the backbone file; or a model and its weights: the model is a name of open_clip or a model
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
    if isinstance(weights, Path) or Path(weights).suffix or Path(weights).exists():
        return _described(model, checkpoint=Path(weights))
    return _described(model, pretrained=weights)


def _described(model: str, *, pretrained: str | None = None, checkpoint: Path | None = None) -> Backbone:
    """Describe a model of open_clip; its width and activation are read, not asked for."""
    import open_clip

    if model.endswith(".json"):
        config = read_json(model, "model config")
    else:
        config = open_clip.get_model_config(model)
    if config is None:
        raise InputError(
            f"open_clip knows no model '{model}' (open_clip.list_models() lists them); a name of "
            f"config/backbones.yml is given alone, without weights"
        )
    section = Section(config, f"model config '{model}'")
    width = section.positive("embed_dim")
    quick_gelu = section.take("quick_gelu", bool, False)
    if pretrained is not None:  # a wrong tag is an error of its own when the model is loaded
        quick_gelu = bool(
            (open_clip.get_pretrained_cfg(model, pretrained) or {}).get("quick_gelu", quick_gelu)
        )
    name = Path(model).stem if model.endswith(".json") else model
    return Backbone(
        name=name,
        stem=name,
        open_clip=model,
        pretrained=pretrained,
        checkpoint=checkpoint,
        dim=width,
        quick_gelu=quick_gelu,
        sae=None,
        openai_name=name,
    )
