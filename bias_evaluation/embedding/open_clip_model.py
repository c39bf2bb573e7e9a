"""A backbone's model and tokenizer, built by open_clip, with checks of what it would pass over in silence."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from bias_evaluation.embedding.identity import existing_checkpoint
from bias_evaluation.grid.backbone import Backbone
from bias_evaluation.grid.direct_backbones import FOLDER, HUB
from safe_io.documents import Section, unknown
from safe_io.errors import InputError, plain_reason
from safe_io.files import read_json
from safe_io.hub import cached_file, offline, use_cache_if_unreachable

HUGGING_FACE = "pip install 'sem-debiasing[hf]'"


def build_model(backbone: Backbone, *, device: str, precision: str) -> tuple[nn.Module, Callable[..., Any]]:
    """Build a backbone's model with its weights, and its tokenizer.

    Parameters
    ----------
    backbone : Backbone
    device : str
        'cpu' or 'cuda'.
    precision : str
        'fp32', 'fp16' or 'bf16'.

    Returns
    -------
    model : nn.Module
    tokenizer : callable
        Texts → LongTensor ``(P, T)``.

    Raises
    ------
    InputError
        The model or tag is unknown, the checkpoint is missing or does not fit, the activation is not the one
        that the weights were trained with, or a package is missing.
    """
    existing_checkpoint(backbone)
    if backbone.checkpoint is None or in_layout(backbone):
        use_cache_if_unreachable()
    import open_clip

    name = register_model(backbone)
    _check_activation(backbone, name)
    try:
        with _resizes_of_positions() as resizes:
            model, _, _ = open_clip.create_model_and_transforms(
                name,
                pretrained=None if in_layout(backbone) else str(backbone.checkpoint or backbone.pretrained),
                require_pretrained=True,
                precision=precision,
                device=device,
                force_quick_gelu=backbone.quick_gelu,
                weights_only=True,
            )
        tokenizer = _cached_tokenizer(name) or open_clip.get_tokenizer(name)
    except InputError:
        raise
    except Exception as error:  # open_clip and the hub raise many kinds
        raise InputError(
            f"backbone '{backbone.name}' cannot be loaded from "
            f"{backbone.checkpoint or backbone.pretrained}: {_reason(error)}"
        ) from None
    if resizes and not backbone.resize_positions:
        raise InputError(
            f"backbone '{backbone.name}': its weights are of another image size or context length than the "
            f"model '{name}' ({'; '.join(resizes)}); name the model that they were trained as, or set "
            f"'resize_positions: true' in its entry to have their position embeddings resized"
        )
    return model, tokenizer


def in_layout(backbone: Backbone) -> bool:
    """Whether a backbone is a folder or a model of the hub that has its model config beside its weights."""
    return backbone.open_clip.startswith((HUB, FOLDER))


def _cached_tokenizer(name: str) -> Callable[..., Any] | None:
    """Build a tokenizer of Hugging Face from its folder in the cache; None if there is a connection, or none.

    Offline, transformers looks for a ``config.json`` by the name of the model, and fails for models in
    open_clip's layout, which have none. It does not if it is given their folder.
    """
    import open_clip

    text = open_clip.get_model_config(name)["text_cfg"]
    source = text.get("hf_tokenizer_name")
    if not source or name.startswith(FOLDER) or not offline():
        return None
    found = cached_file(source, "tokenizer_config.json")
    return found and open_clip.tokenizer.HFTokenizer(
        str(found.parent),
        context_length=text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
        tokenizer_mode=text.get("tokenizer_mode"),
        **text.get("tokenizer_kwargs", {}),
    )


def _reason(error: Exception) -> str:
    named = isinstance(error, ImportError) or "transformers" in str(error).lower()
    if named and importlib.util.find_spec("transformers") is None:
        return f"its text tower or tokenizer needs the package transformers: {HUGGING_FACE}"
    if offline():
        return (
            f"{plain_reason(error)} (the hub does not answer, or HF_HUB_OFFLINE is set: with a connection, "
            f"run `hf download` for it and copy the cache here, or give a local checkpoint)"
        )
    return plain_reason(error)


@contextmanager
def _resizes_of_positions() -> Iterator[list[str]]:
    """Collect open_clip's notices of resized position embeddings; its other reports are left out.

    It resizes whatever does not fit, reports it at INFO on the root logger like every step of loading, and
    returns nothing that says so.
    """
    root, found = logging.getLogger(), []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            message = record.getMessage()
            found.extend([message[:1].lower() + message[1:]] if message.startswith("Resizing") else [])
            return False
        return True

    level = root.level
    root.setLevel(logging.INFO)
    root.addFilter(keep)
    try:
        yield found
    finally:
        root.removeFilter(keep)
        root.setLevel(max(level, logging.WARNING))


def register_model(backbone: Backbone) -> str:
    """Return the open_clip name of a backbone; a model config file is registered first."""
    import open_clip

    if in_layout(backbone):
        return backbone.open_clip
    if not backbone.open_clip.endswith(".json"):
        if backbone.open_clip not in open_clip.list_models():
            raise InputError(
                f"backbone '{backbone.name}': open_clip knows no model '{backbone.open_clip}'; "
                f"`python -c 'import open_clip; print(open_clip.list_models())'` lists them"
            )
        return backbone.open_clip
    path = Path(backbone.open_clip)
    config = Section(read_json(path, f"model config of backbone '{backbone.name}'"), str(path))
    if "model_cfg" in config:
        raise InputError(
            f"{path} holds a model config and pixel settings; name the folder that it is in, as "
            f"{FOLDER}FOLDER"
        )
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        config.take_any(key)  # open_clip would pass over a file without them in silence
    open_clip.add_model_config(path)
    return path.stem


def _check_activation(backbone: Backbone, name: str) -> None:
    """Refuse a wrong `quick_gelu`: the model would run all the same, and only be less accurate."""
    import open_clip

    where = f"backbone '{backbone.name}'"
    of_model = bool(open_clip.get_model_config(name).get("quick_gelu", False))
    if of_model and not backbone.quick_gelu:
        raise InputError(f"{where}: the model '{name}' has QuickGELU, but its quick_gelu is false")
    if backbone.pretrained is None:
        return
    tag = open_clip.get_pretrained_cfg(name, backbone.pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise unknown("pretrained tag", backbone.pretrained, tags, where)
    if bool(tag.get("quick_gelu", of_model)) != backbone.quick_gelu:
        raise InputError(
            f"{where}: the weights '{backbone.pretrained}' were trained with"
            f"{'out' if backbone.quick_gelu else ''} QuickGELU, but its quick_gelu is "
            f"{str(backbone.quick_gelu).lower()}"
        )
