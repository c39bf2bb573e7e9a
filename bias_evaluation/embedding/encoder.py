"""The open_clip towers behind one class.

Symbols: P prompts, d embedding dimension. Text and image embeddings are raw (not normalised) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bias_evaluation.datasets.pixels import pixel_settings
from bias_evaluation.embedding.open_clip_model import build_model
from bias_evaluation.embedding.residuals import image_head, image_residuals, text_head
from bias_evaluation.embedding.text_tower import encode_tokens
from bias_evaluation.grid.configs import PRECISIONS, Backbone
from debiasing_methods.encoder_head import EncoderHead
from safe_io.arrays import check_rows
from safe_io.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


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
        check_device(device)
        model, self._tokenize = build_model(backbone, device=device, precision=precision)
        self.backbone = backbone
        self.device = device
        self.dtype = getattr(torch, PRECISIONS[precision])
        # Channels last: RN50 and RN101 take a sixth to a quarter less time on a CPU, ViTs as much as before.
        self.model = model.eval().to(memory_format=torch.channels_last)
        self._check_width()

    def _check_width(self) -> None:
        width = self.encode_text(["a"]).shape[1]
        if width != self.backbone.dim:
            raise InputError(
                f"backbone '{self.backbone.name}' gives embeddings of width {width}, but its 'dim' in the "
                f"backbone file is {self.backbone.dim}"
            )

    @cached_property
    def preprocess(self) -> Callable[[Image], Tensor]:
        """PIL image → pixels ``(3, H, W)`` as the backbone was trained with (`pixel_settings`)."""
        from open_clip import image_transform

        settings = pixel_settings(self.backbone)
        return image_transform(self.model.visual.image_size, is_train=False, **settings)

    @cached_property
    def image_head(self) -> EncoderHead:
        """Last layers of the image tower; `InputError` if it does not end in a token and a projection."""
        return image_head(self.model, self.backbone.name)

    @cached_property
    def text_head(self) -> EncoderHead:
        """Last layers of the text tower; `InputError` as for `image_head`."""
        return text_head(self.model, self.backbone.name)

    @torch.inference_mode()
    def encode_text(
        self, prompts: Sequence[str], *, progress: bool = False, residuals: bool = False
    ) -> Tensor:
        """Encode text.

        Parameters
        ----------
        prompts : sequence of str
            P prompts, at least one.
        progress : bool
            Show a progress bar.
        residuals : bool
            Return what `text_head` makes embeddings from, ``(P, w)``.

        Returns
        -------
        Tensor of shape (P, d), float32, on the CPU
            Raw embeddings.

        Raises
        ------
        InputError
            An embedding is NaN, infinite or all zero; the line names the backbone and the prompt.
        """
        if residuals:
            _ = self.text_head  # raises if there are none
        tokens = self._tokenize(list(prompts))
        embeddings = encode_tokens(self.model, tokens, self.device, progress=progress, residuals=residuals)
        check_rows(
            embeddings,
            f"text embeddings of backbone '{self.backbone.name}'",
            name=lambda row: f"of '{prompts[row]}'",
            advice="check its weights: a damaged checkpoint, or one saved in too low a precision",
        )
        return embeddings

    def too_long(self, prompts: Sequence[str]) -> list[bool]:
        """Whether each prompt has more tokens than the model reads: it is encoded without its end."""
        length = self._tokenize.context_length
        # Given one place more, a tokenizer pads it only if the text fits without it. Padding can also be the
        # end token, or be followed by another token: then what the place adds tells.
        shorter = self._tokenize(["", *prompts], context_length=length)
        longer = self._tokenize(["", *prompts], context_length=length + 1)
        added, last = longer.sum(dim=1) - shorter.sum(dim=1), longer[:, -1]
        return ((added != added[0]) | (last != last[0]))[1:].tolist()

    @torch.inference_mode()
    def encode_images(self, images: Tensor, *, residuals: bool = False) -> Tensor:
        """Raw embeddings ``(n, d)``, float32 on the CPU, of a preprocessed batch ``(n, 3, H, W)``.

        With `residuals`, what `image_head` makes them from, ``(n, w)``.
        """
        images = images.to(
            device=self.device, dtype=self.dtype, memory_format=torch.channels_last, non_blocking=True
        )
        if residuals:
            return image_residuals(self.model, images).float().cpu()
        return self.model.encode_image(images).float().cpu()


def check_device(device: str) -> None:
    """Raise `InputError` where a GPU is asked for and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no GPU that torch can use; pass --device cpu")
