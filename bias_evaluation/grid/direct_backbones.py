"""Backbones that need no entry in the backbone file: models of open_clip, of the hub, and of local folders.

=====================  ====================================================================================
``MODEL:TAG``          a model of open_clip with one of its pretrained tags
``hf-hub:ORG/NAME``    a model of the Hugging Face hub in open_clip's layout
``local-dir:FOLDER``   a folder in the same layout: ``open_clip_config.json``, weights, tokenizer files
=====================  ====================================================================================
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bias_evaluation.grid.backbone import Backbone
from safe_io.documents import Section, unknown
from safe_io.errors import InputError
from safe_io.files import read_json
from safe_io.hub import hub_file

HUB, FOLDER = "hf-hub:", "local-dir:"
CONFIG = "open_clip_config.json"
FORMS = "MODEL:TAG of open_clip, hf-hub:ORG/NAME or local-dir:FOLDER"
_WEIGHTS_OF_HUB = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def is_direct(name: str) -> bool:
    """Whether a backbone's name says by itself which model it is (`FORMS`)."""
    return ":" in name


def describe_direct(name: str) -> Backbone:
    """Describe a backbone by what its name says.

    Parameters
    ----------
    name : str
        One of the forms above.

    Returns
    -------
    Backbone
        Its `name`, which is part of file names, is ``MODEL--TAG``, ``ORG--NAME`` or the folder's name. The
        weights of ``hf-hub:`` are downloaded if they are not in the hub's cache.

    Raises
    ------
    InputError
        The model, tag, folder or a file in it does not exist or cannot be had, or is no model of open_clip.
    """
    if name.startswith(HUB):
        return _of_hub(name)
    if name.startswith(FOLDER):
        return _of_folder(name)
    model, _, tag = name.rpartition(":")
    return describe(model, pretrained=tag)


def _of_hub(name: str) -> Backbone:
    model = name.removeprefix(HUB)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", model):
        raise InputError(f"backbone '{name}': a model of the hub is named hf-hub:ORG/NAME")
    config = hub_file(model, CONFIG, missing=": it is no model in open_clip's layout; choose one that is")
    checkpoint = None
    for filename in _WEIGHTS_OF_HUB:
        try:
            checkpoint = hub_file(model, filename)
            break
        except InputError:
            if filename == _WEIGHTS_OF_HUB[-1]:
                raise
    return _of_layout(name, model.replace("/", "--"), name, config, checkpoint)


def _of_folder(name: str) -> Backbone:
    from open_clip.factory import _find_checkpoint_in_dir  # so that it is the file that open_clip loads

    folder = Path(name.removeprefix(FOLDER)).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"backbone '{name}': folder not found: {folder}")
    config = folder / CONFIG
    if not config.is_file():
        raise InputError(
            f"backbone '{name}': {folder} has no {CONFIG}: it is no model in open_clip's layout, as "
            f"open_clip.push_to_hf_hub saves it"
        )
    found = _find_checkpoint_in_dir(folder)
    if found is None:  # open_clip would go on with random weights
        raise InputError(f"backbone '{name}': {folder} has no weights (.safetensors, .bin or .pth)")
    return _of_layout(name, folder.name, f"{FOLDER}{folder}", config, Path(found))


def _of_layout(given: str, name: str, open_clip: str, config: Path, checkpoint: Path) -> Backbone:
    document = Section(read_json(config, f"model config of backbone '{given}'"), str(config))
    model = document.section("model_cfg")
    for key in ("vision_cfg", "text_cfg"):
        model.take_any(key)  # without its text tower a model cannot serve
    return _backbone(name, open_clip, model, checkpoint=checkpoint)


def describe(model: str, *, pretrained: str | None = None, checkpoint: Path | None = None) -> Backbone:
    """Describe a model of open_clip with a tag or a checkpoint; its width and activation are read.

    Parameters
    ----------
    model : str
        A name of open_clip, or a model config (``.json``).
    pretrained : str, optional
        A pretrained tag of open_clip.
    checkpoint : pathlib.Path, optional
        A local checkpoint, instead of a tag.

    Returns
    -------
    Backbone

    Raises
    ------
    InputError
        open_clip has no such model or tag, or the model config cannot be read.
    """
    import open_clip

    is_file = model.endswith(".json")
    config = read_json(Path(model), "model config") if is_file else open_clip.get_model_config(model)
    if config is None:
        raise InputError(
            f"open_clip knows no model '{model}' (open_clip.list_models() lists them); a name of "
            f"config/backbones.yml is given alone, without weights"
        )
    section = Section(config, f"model config '{model}'")
    name = Path(model).stem if is_file else model
    if pretrained is None:
        return _backbone(name, model, section, checkpoint=checkpoint)
    tag = None if is_file else open_clip.get_pretrained_cfg(model, pretrained)
    if not tag:
        tags = [] if is_file else open_clip.list_pretrained_tags_by_model(model)
        raise unknown("pretrained tag", pretrained, tags, f"model '{model}' of open_clip")
    return _backbone(f"{name}--{pretrained}", model, section, pretrained=pretrained, **_activation(tag))


def _activation(tag: dict[str, Any]) -> dict[str, bool]:
    return {} if tag.get("quick_gelu") is None else {"quick_gelu": bool(tag["quick_gelu"])}


def _backbone(name: str, open_clip: str, config: Section, **settings: Any) -> Backbone:
    quick_gelu = config.take("quick_gelu", bool, False)
    fields = {"pretrained": None, "checkpoint": None, "quick_gelu": quick_gelu} | settings
    width = config.positive("embed_dim")
    return Backbone(
        name=name, stem=name, open_clip=open_clip, dim=width, sae=None, openai_name=name, **fields
    )
