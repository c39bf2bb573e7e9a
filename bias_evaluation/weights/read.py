"""Trained weights from files: what the release publishes, and what the trainers here write.

Files are torch files (read with ``weights_only=True``) or safetensors; nothing in them is executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.zsdebias import DisentanglingVAE, Network
from safe_io.errors import InputError, as_input_error
from safe_io.files import load_weights, save_weights, take_matrix

PRISM_MAP = "transformer.weight"  # the release's name of PRISM's W
_MAKE = "see README, 'The methods'"

# Names of a network's tensors in the release, after "encoder." or "decoder.": the positions in
# Linear → LayerNorm → LeakyReLU → Dropout → Linear; and the number of dimensions of each.
LAYERS = {"0.weight": 2, "0.bias": 1, "1.weight": 1, "1.bias": 1, "4.weight": 2, "4.bias": 1}


def load_sae(path: str | os.PathLike[str], *, dim: int, make: str = _MAKE) -> SparseAutoencoder:
    """Load an SAE in the release's format or safetensors.

    Parameters
    ----------
    path : path-like
        Weight file. Its tensors' shapes count, not what its name says.
    dim : int
        Embedding dimension of the backbone that it is for.
    make : str
        How to get the file, for the error line.

    Returns
    -------
    SparseAutoencoder

    Raises
    ------
    InputError
        The file is missing or damaged, or was made for another width.
    """
    sae = sae_from_state_dict(load_weights(path, make=make), path)
    if sae.dim != dim:
        raise InputError(
            f"{path} is an SAE for embeddings of width {sae.dim}, but the backbone has width {dim}; "
            f"to get one: {make}"
        )
    return sae


def sae_from_state_dict(weights: Mapping[str, object], path: str | os.PathLike[str]) -> SparseAutoencoder:
    """Build an SAE from tensors under the release's names; `path` is for the error line."""
    threshold = 0.0
    if "threshold" in weights:
        values = take_matrix(weights, "threshold", ndim=1, path=path)
        if len(values) != 1 or values[0] < 0:
            raise InputError(
                f"{path}: 'threshold' must be one number of at least 0, found {values.tolist()[:3]}"
            )
        threshold = float(values[0])
    with as_input_error(str(path)):
        return SparseAutoencoder(
            encoder_weight=take_matrix(weights, "encoder.weight", ndim=2, path=path),
            encoder_bias=take_matrix(weights, "encoder.bias", ndim=1, path=path),
            decoder_weight=take_matrix(weights, "decoder.weight", ndim=2, path=path),
            pre_bias=take_matrix(weights, "bpre", ndim=1, path=path),
            threshold=threshold,
        )


def save_sae(path: str | os.PathLike[str], sae: SparseAutoencoder) -> None:
    """Write an SAE in the release's format (``.pth``) or as ``.safetensors``, as the suffix says."""
    save_weights(path, sae.state_dict())


def load_prism_map(path: str | os.PathLike[str], *, dim: int, make: str = _MAKE) -> Tensor:
    """Load the map of one setting in the release's format or safetensors.

    Parameters
    ----------
    path : path-like
        Weight file.
    dim : int
        Embedding dimension of the backbone that it is for.
    make : str
        How to get the file, for the error line.

    Returns
    -------
    Tensor of shape (dim, dim), float32

    Raises
    ------
    InputError
        The file is missing or damaged, or was made for another width.
    """
    w = prism_map_from_state_dict(load_weights(path, make=make), path)
    if w.shape != (dim, dim):
        raise InputError(
            f"{path} is a PRISM map of shape {tuple(w.shape)}, but the backbone has width {dim} and needs "
            f"({dim}, {dim}); to get one: {make}"
        )
    return w


def prism_map_from_state_dict(weights: Mapping[str, object], path: str | os.PathLike[str]) -> Tensor:
    """Take the map out of loaded weights; `InputError` unless it is a square matrix."""
    w = take_matrix(weights, PRISM_MAP, ndim=2, path=path)
    if w.shape[0] != w.shape[1]:
        raise InputError(f"{path}: '{PRISM_MAP}' is {tuple(w.shape)}; PRISM needs a square matrix")
    return w


def load_zsdebias(path: str | os.PathLike[str], *, dim: int, make: str = _MAKE) -> DisentanglingVAE:
    """Load a ZSDebias model in the release's format or safetensors.

    Parameters
    ----------
    path : path-like
        A torch file with the state dicts `encoder` and `decoder` and, beside them, `args` of the training; or
        the tensors of both under the same names (``encoder.0.weight`` …) in one flat file.
    dim : int
        Embedding dimension of the backbone that it is for.
    make : str
        How to get the file, for the error line.

    Returns
    -------
    DisentanglingVAE
        With a tanh if `args` says ``normalize_embeddings``.

    Raises
    ------
    InputError
        The file is missing or damaged, has another architecture, or was made for another width.
    """
    vae = zsdebias_from_checkpoint(load_weights(path, make=make), path)
    if vae.dim != dim:
        raise InputError(
            f"{path} is a ZSDebias model for width {vae.dim}, but the backbone has width {dim}; "
            f"to get one: {make}"
        )
    return vae


def zsdebias_from_checkpoint(checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> DisentanglingVAE:
    """Build the model from a checkpoint's content; `path` is for the error line."""
    args = checkpoint.get("args")
    tanh = bool(args.get("normalize_embeddings", False)) if isinstance(args, Mapping) else False
    with as_input_error(str(path)):
        return DisentanglingVAE(
            encoder=_network(checkpoint, "encoder", path),
            decoder=_network(checkpoint, "decoder", path),
            tanh=tanh,
        )


def _network(checkpoint: Mapping[str, Any], part: str, path: str | os.PathLike[str]) -> Network:
    """Take one of the two networks out of a checkpoint, nested or flat, and nothing but its six tensors."""
    nested = checkpoint.get(part)
    flat = {name: value for name, value in checkpoint.items() if str(name).startswith(f"{part}.")}
    state = nested if isinstance(nested, Mapping) else flat
    names = {f"{part}.{layer}": ndim for layer, ndim in LAYERS.items()}
    if unknown := sorted(set(map(str, state)) - set(names)):
        raise InputError(
            f"{path}: the {part} is not one of two linear layers; it also has: {', '.join(unknown)}"
        )
    return Network(*(take_matrix(state, name, ndim=ndim, path=path) for name, ndim in names.items()))
