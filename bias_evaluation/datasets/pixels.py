"""How a backbone's images become pixels: mean, standard deviation, interpolation and resizing.

A pretrained tag of open_clip says it. A local checkpoint does not: open_clip would give all of them OpenAI's
settings, which is wrong for SigLIP, MobileCLIP, CLIPA and others. They are looked for in this order: the
backbone's own entry, an ``open_clip_config.json`` beside the checkpoint, and open_clip's pretrained tags of
the same model, if all of them agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bias_evaluation.grid.configs import PIXEL_KEYS, Backbone
from bias_evaluation.grid.direct_backbones import CONFIG
from safe_io.documents import Section
from safe_io.errors import InputError
from safe_io.files import read_json

# OpenAI's, which are open_clip's defaults too.
DEFAULT: dict[str, Any] = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def pixel_settings(backbone: Backbone) -> dict[str, Any]:
    """Find the pixel settings that a backbone was trained with.

    Parameters
    ----------
    backbone : Backbone

    Returns
    -------
    dict
        `mean` and `std` (three numbers each, for pixels between 0 and 1), `interpolation` and `resize_mode`,
        as open_clip calls them; plain values.

    Raises
    ------
    InputError
        The pretrained tags of a local checkpoint's model disagree, and neither the entry nor a file beside
        the checkpoint says which settings are its own.
    """
    own = {key: value for key, value in backbone.pixels if value is not None}
    if set(own) == set(PIXEL_KEYS):
        return _plain(own)
    return _plain({**_found(backbone, own), **own})


def _found(backbone: Backbone, own: Mapping[str, Any]) -> Mapping[str, Any]:
    if backbone.checkpoint is not None:
        path = backbone.checkpoint.parent / CONFIG
        if path.is_file():
            document = Section(read_json(path, "model config"), str(path))
            return document.take("preprocess_cfg", dict, {})
    if backbone.open_clip.endswith(".json"):
        return DEFAULT
    import open_clip

    if backbone.pretrained is not None:
        return open_clip.get_pretrained_cfg(backbone.open_clip, backbone.pretrained) or {}
    return _of_all_tags(backbone, own)


def _of_all_tags(backbone: Backbone, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what all pretrained tags of a model agree on; open_clip's defaults for a model without tags."""
    import open_clip

    model = backbone.open_clip
    distinct: list[dict[str, Any]] = []
    examples: list[str] = []  # a tag of each
    for tag in open_clip.list_pretrained_tags_by_model(model):
        settings = {**_plain(open_clip.get_pretrained_cfg(model, tag)), **own}
        if settings not in distinct:
            distinct.append(settings)
            examples.append(tag)
    if len(distinct) > 1:
        keys = [key for key in PIXEL_KEYS if any(settings[key] != distinct[0][key] for settings in distinct)]
        shown = (
            f"{tag}: {', '.join(f'{key} {settings[key]}' for key in keys)}"
            for tag, settings in zip(examples, distinct, strict=True)
        )
        raise InputError(
            f"backbone '{backbone.name}': weights of '{model}' were trained with different pixel settings "
            f"({'; '.join(shown)}), and a local checkpoint does not say which are its own; give "
            f"{' and '.join(keys)} in its entry, or put its {CONFIG} beside it"
        )
    return distinct[0] if distinct else DEFAULT


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Take the pixel settings out of a mapping as plain values, with the default for what is missing."""
    merged = {**DEFAULT, **{key: settings[key] for key in PIXEL_KEYS if settings.get(key) is not None}}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in merged.items()}
