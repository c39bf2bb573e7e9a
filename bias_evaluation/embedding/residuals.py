"""What the last block of an open_clip tower gives at the pooled token, and the layers that follow it.

Symbols: n images, P prompts, w width of the residual stream, d embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from debiasing_methods.encoder_head import EncoderHead
from safe_io.arrays import load_arrays
from safe_io.errors import InputError
from safe_io.files import atomic_path

_NAMES = ("norm_weight", "norm_bias", "eps", "weight", "bias")


def image_head(model: nn.Module, name: str) -> EncoderHead:
    """Return the last layers of a model's image tower; `name` is the backbone's, for the error line.

    Raises
    ------
    InputError
        The tower does not end in a token, a layer norm and a projection: ResNets, towers that pool by
        attention (SigLIP, CoCa) or by a mean, towers of other libraries.
    """
    from open_clip.transformer import VisionTransformer

    tower = model.visual
    ends_in_token = type(tower) is VisionTransformer and tower.attn_pool is None and tower.pool_type == "tok"
    if not ends_in_token:
        raise InputError(
            f"backbone '{name}': its image tower ({type(tower).__name__}) does not end in one token, a layer "
            f"norm and a projection, so it has no residuals to store; choose a ViT with a class token "
            f"(OpenAI's ViT-B-16 or ViT-L-14, LAION's)"
        )
    return _head(tower.ln_post, tower.proj)


def text_head(model: nn.Module, name: str) -> EncoderHead:
    """Return the last layers of a model's text tower; arguments and errors as for `image_head`."""
    tower = text_tower(model)
    if tower is None:
        raise InputError(
            f"backbone '{name}': its text tower is not one of open_clip's own transformers, so its residuals "
            f"cannot be read; choose another backbone"
        )
    return _head(tower.ln_final, tower.text_projection)


def text_tower(model: nn.Module) -> nn.Module | None:
    """Return the module that holds the text tower's parts, for open_clip's own transformers; else None."""
    from open_clip import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    encode = type(model).encode_text
    if encode is CLIP.encode_text:
        return model
    own = encode is CustomTextCLIP.encode_text and type(model.text) is TextTransformer
    return model.text if own else None


def _head(norm: nn.Module, projection: nn.Module | Tensor | None) -> EncoderHead:
    weight, bias = projection, None
    if isinstance(projection, nn.Linear):
        weight, bias = projection.weight.T, projection.bias
    elif projection is None:
        weight = torch.eye(len(norm.weight))
    parts = [None if t is None else t.detach().float().cpu() for t in (norm.weight, norm.bias, weight, bias)]
    return EncoderHead(parts[0], parts[1], float(norm.eps), parts[2].contiguous(), parts[3])


def image_residuals(model: nn.Module, images: Tensor) -> Tensor:
    """Residuals ``(n, w)`` of a preprocessed batch ``(n, 3, H, W)``; `image_head` says if there are any."""
    with _input_of(model.visual.ln_post) as seen:
        model.encode_image(images)
    return seen[0] if seen[0].ndim == 2 else seen[0][:, 0]


def padded_text_residuals(model: nn.Module, tokens: Tensor) -> Tensor:
    """Residuals ``(P, w)`` of tokenized prompts ``(P, T)``, each computed at its whole length."""
    from open_clip.transformer import text_global_pool

    tower = text_tower(model)
    with _input_of(tower.ln_final) as seen:
        model.encode_text(tokens)
    if seen[0].ndim == 2:  # a class token behind the text: pooled before the layer norm
        return seen[0]
    pooling = model.text_pool_type if tower is model else tower.pool_type
    eos = getattr(tower, "text_eos_id" if tower is model else "eos_id", None)
    return text_global_pool(seen[0], tokens, pooling, eos_token_id=eos)


@contextmanager
def _input_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module is given in a block; the hook is removed after it, whatever happens."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def write_head(path: Path, head: EncoderHead) -> None:
    """Write a head as ``.npz``, atomically."""
    arrays = {name: getattr(head, name) for name in _NAMES}
    arrays["bias"] = torch.empty(0) if head.bias is None else head.bias
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})


def read_head(path: Path) -> EncoderHead:
    """Read a head that `write_head` wrote.

    Raises
    ------
    InputError
        The file is missing or damaged, or its arrays do not go together.
    """
    norm_weight, norm_bias, eps, weight, bias = (
        torch.from_numpy(np.asarray(array)) for array in load_arrays(path, "head of an encoder", _NAMES)
    )
    try:
        return EncoderHead(
            norm_weight.float(),
            norm_bias.float(),
            float(eps),
            weight.float(),
            bias.float() if len(bias) else None,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: {error}; make it again with precompute_embeddings.py --residuals"
        ) from None
