"""The open_clip towers behind one class.

Symbols: P prompts, d embedding dimension. Text and image embeddings are raw (not normalised) float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bias_evaluation.embedding.text_tower import encode_tokens
from bias_evaluation.grid.configs import Backbone
from safe_io.digests import remembered_sha256
from safe_io.documents import Section, unknown
from safe_io.errors import InputError
from safe_io.files import read_json, sha256_file, sha256_json

if TYPE_CHECKING:
    from PIL.Image import Image

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Encoder:
    """Text and image towers of one backbone.

    Parameters
    ----------
    backbone : Backbone
        What to load: a tag of open_clip, or a local checkpoint.
    device : str
        'cpu' or 'cuda'.
    precision : str
        'fp32', 'fp16' or 'bf16': of the weights and activations; embeddings come out as float32.

    Raises
    ------
    InputError
        The model or tag is unknown, the checkpoint is missing or does not fit, the activation is not the one
        that the weights were trained with, the width is not the config's, or there is no GPU.
    """

    def __init__(self, backbone: Backbone, *, device: str = "cpu", precision: str = "fp32") -> None:
        import open_clip

        check_device(device)
        name = _register_model(backbone)
        _check_activation(backbone, name)
        existing_checkpoint(backbone)
        logging.getLogger("root").setLevel(logging.WARNING)  # open_clip reports every load at INFO
        try:
            model, _, preprocess = open_clip.create_model_and_transforms(
                name,
                pretrained=str(backbone.checkpoint or backbone.pretrained),
                precision=precision,
                device=device,
                force_quick_gelu=backbone.quick_gelu,
                weights_only=True,
            )
        except InputError:
            raise
        except Exception as error:  # open_clip and the hub raise many kinds
            raise InputError(
                f"backbone '{backbone.name}' cannot be loaded from "
                f"{backbone.checkpoint or backbone.pretrained}: {error}"
            ) from None
        self.backbone = backbone
        self.device = device
        self.dtype = PRECISIONS[precision]
        # Channels last: RN50 and RN101 take a sixth to a quarter less time on a CPU, ViTs as much as before.
        self.model = model.eval().to(memory_format=torch.channels_last)
        self.preprocess: Callable[[Image], Tensor] = preprocess
        self._tokenize = open_clip.get_tokenizer(name)
        self._check_width()

    def _check_width(self) -> None:
        width = self.encode_text(["a"]).shape[1]
        if width != self.backbone.dim:
            raise InputError(
                f"backbone '{self.backbone.name}' gives embeddings of width {width}, but its 'dim' in the "
                f"backbone file is {self.backbone.dim}"
            )

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str], *, progress: bool = False) -> Tensor:
        """Raw embeddings ``(P, d)``, float32 on the CPU, of P prompts, at least one."""
        tokens = self._tokenize(list(prompts))
        return encode_tokens(self.model, tokens, self.device, progress=progress)

    def too_long(self, prompts: Sequence[str]) -> list[bool]:
        """Whether each prompt has more tokens than the model reads: it is encoded without its end."""
        length = self._tokenize.context_length
        # Given one place more, a tokenizer fills it only if the text does not fit without it. What it fills
        # free places with is seen on the shortest text there is.
        padding = self._tokenize([""], context_length=length + 1)[0, -1]
        tokens = self._tokenize(list(prompts), context_length=length + 1)
        return (tokens[:, -1] != padding).tolist()

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """Raw embeddings ``(n, d)``, float32 on the CPU, of a preprocessed batch ``(n, 3, H, W)``."""
        images = images.to(
            device=self.device, dtype=self.dtype, memory_format=torch.channels_last, non_blocking=True
        )
        return self.model.encode_image(images).float().cpu()


def _register_model(backbone: Backbone) -> str:
    """Return the open_clip name of a backbone; a model config file is registered first."""
    import open_clip

    if not backbone.open_clip.endswith(".json"):
        if backbone.open_clip not in open_clip.list_models():
            raise InputError(
                f"backbone '{backbone.name}': open_clip knows no model '{backbone.open_clip}'; "
                f"`python -c 'import open_clip; print(open_clip.list_models())'` lists them"
            )
        return backbone.open_clip
    path = Path(backbone.open_clip)
    config = Section(read_json(path, f"model config of backbone '{backbone.name}'"), str(path))
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        config.take_any(key)  # open_clip would pass over a file without them in silence
    open_clip.add_model_config(path)
    return path.stem


def _check_activation(backbone: Backbone, name: str) -> None:
    """Refuse a wrong `quick_gelu`: the model would run all the same, and only be less accurate."""
    import open_clip

    where = f"backbone '{backbone.name}'"
    built = backbone.quick_gelu or bool(open_clip.get_model_config(name).get("quick_gelu", False))
    if built != backbone.quick_gelu:
        raise InputError(f"{where}: the model '{name}' has QuickGELU, but its quick_gelu is false")
    if backbone.pretrained is None:
        return
    tag = open_clip.get_pretrained_cfg(name, backbone.pretrained)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise unknown("pretrained tag", backbone.pretrained, tags, where)
    if bool(tag.get("quick_gelu", False)) != backbone.quick_gelu:
        raise InputError(
            f"{where}: the weights '{backbone.pretrained}' were trained with"
            f"{'out' if backbone.quick_gelu else ''} QuickGELU, but its quick_gelu is "
            f"{str(backbone.quick_gelu).lower()}"
        )


def check_device(device: str) -> None:
    """Raise `InputError` where a GPU is asked for and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no GPU that torch can use; pass --device cpu")


def existing_checkpoint(backbone: Backbone) -> Path | None:
    """Return a backbone's local checkpoint, if it has one; `InputError` where that file is missing."""
    if backbone.checkpoint is not None and not backbone.checkpoint.is_file():
        raise InputError(
            f"checkpoint of backbone '{backbone.name}' not found: {backbone.checkpoint}; "
            f"put it there, or name another in the backbone file"
        )
    return backbone.checkpoint


def encoder_digest(backbone: Backbone) -> str:
    """Digest of what decides a text embedding: the architecture, and the checkpoint's bytes or the tag.

    Raises
    ------
    InputError
        The backbone's local checkpoint is missing.
    """
    model = Path(backbone.open_clip)
    weights = f"tag:{backbone.pretrained}"
    if checkpoint := existing_checkpoint(backbone):
        weights = remembered_sha256(checkpoint)
    name = sha256_file(model) if model.suffix == ".json" and model.is_file() else backbone.open_clip
    return sha256_json([name, weights, backbone.quick_gelu])
