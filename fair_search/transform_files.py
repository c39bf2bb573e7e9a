"""What a method does to images, as a file that any index can apply.

Symbols: Q queries, n images, d embedding dimension; x a unit image (a row), t a unit debiased query.

A ``.safetensors`` file holds ``transform_of_query`` (Q,), int64, the number i of each query's transform, and

- methods with a linear map: ``matrix_<i>`` W (d, d): the image becomes ``x Wᵀ``;
- methods that edit spans: ``removed_<i>`` R (r, d) and ``doubled_<i>`` U (u, d), float64, orthonormal rows:
  the image becomes ``y + (y Uᵀ) U`` with ``y = x − (x Rᵀ) R``;
- methods with an affine map of low rank (spd, leace): ``left`` L (d, r), ``right`` R (r, d) and ``offset`` o
  (d,), float64, for all queries: the image becomes ``x − (x L) R + o``;
- methods that replace coordinates (sfid, clip-clip): ``kept`` (d,), bool, and ``constant`` c (d,), float64,
  for all queries: coordinates that are not kept become those of c;
- CFD: ``basis_<i>`` A (r, d), float64, orthonormal rows: see `debiasing_methods.cfd.compromise`;
- ZSDebias: the tensors of its model, ``tanh`` and ``seed``; images are taken raw.

The score is the cosine of the new image and t.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.weights.read import LAYERS, zsdebias_from_checkpoint
from debiasing_methods.base import IdentityTransform, ImageTransform
from debiasing_methods.cfd import CompromiseTransform
from debiasing_methods.chunks import IMAGE_ROWS, chunks
from debiasing_methods.linalg import unit
from debiasing_methods.transforms import (
    AffineTransform,
    CoordinateTransform,
    LinearTransform,
    SpanEdit,
    SpanTransform,
)
from debiasing_methods.zsdebias import DisentanglingVAE, Network, ResampledTransform, ZSDebias
from safe_io.arrays import float_rows
from safe_io.errors import InputError
from safe_io.files import load_weights, save_weights

INDEX = "transform_of_query"


def save_transform(path: Path, transform: ImageTransform, n_queries: int) -> bool:
    """Write a method's image transform.

    Parameters
    ----------
    path : pathlib.Path
        ``.safetensors`` file.
    transform : ImageTransform
        Of one group a query.
    n_queries : int
        Number of queries Q.

    Returns
    -------
    bool
        False, and nothing is written, where images stay as they are.
    """
    tensors = transform_tensors(transform, n_queries)
    if tensors is not None:
        save_weights(path, tensors)
    return tensors is not None


def transform_tensors(transform: ImageTransform, n_queries: int) -> dict[str, Tensor] | None:
    """Arrange a method's image transform as tensors of a file; None where images stay as they are."""
    return None if isinstance(transform, IdentityTransform) else _tensors(transform, n_queries)


def _tensors(transform: ImageTransform, n_queries: int) -> dict[str, Tensor]:
    if isinstance(transform, LinearTransform):
        index, maps = _distinct(transform.maps)
        return {INDEX: index} | {f"matrix_{i}": w.cpu() for i, w in enumerate(maps)}
    if isinstance(transform, SpanTransform):
        index, edits = _distinct(transform.edits)
        removed = {f"removed_{i}": edit.removed.cpu() for i, edit in enumerate(edits)}
        return {INDEX: index} | removed | {f"doubled_{i}": edit.doubled.cpu() for i, edit in enumerate(edits)}
    if isinstance(transform, AffineTransform):
        parts = {"left": transform.left, "right": transform.right, "offset": transform.offset}
        return _of_all(n_queries) | {name: part.contiguous().cpu() for name, part in parts.items()}
    if isinstance(transform, CoordinateTransform):
        if not transform.renormalize:
            raise ValueError(
                "there is no file format for images that must not be normalized; use renormalize"
            )
        return _of_all(n_queries) | {"kept": transform.kept.cpu(), "constant": transform.constant.cpu()}
    if isinstance(transform, CompromiseTransform):
        index, bases = _distinct(transform.bases)
        return {INDEX: index} | {f"basis_{i}": basis.contiguous().cpu() for i, basis in enumerate(bases)}
    if isinstance(transform, ResampledTransform):
        scalars = {"tanh": transform.vae.tanh, "seed": transform.seed}
        return {
            **_of_all(n_queries),
            **_network("encoder", transform.vae.encoder),
            **_network("decoder", transform.vae.decoder),
            **{name: torch.tensor(int(value)) for name, value in scalars.items()},
        }
    raise ValueError(f"there is no file format for a {type(transform).__name__}")


def _of_all(n_queries: int) -> dict[str, Tensor]:
    """Return the index of a transform that all queries share."""
    return {INDEX: torch.zeros(n_queries, dtype=torch.int64)}


def _distinct(items: Sequence[Hashable]) -> tuple[Tensor, list]:
    """Return each query's number, and the distinct objects that are numbered."""
    found = list({id(item): item for item in items}.values())
    number = {id(item): i for i, item in enumerate(found)}
    return torch.tensor([number[id(item)] for item in items]), found


def _network(part: str, network: Network) -> dict[str, Tensor]:
    parts = zip(LAYERS, fields(network), strict=True)
    return {f"{part}.{layer}": getattr(network, field.name).cpu() for layer, field in parts}


class TransformFile:
    """An exported image transform, ready to be applied.

    Parameters
    ----------
    path : path-like
        What `save_transform` wrote.

    Attributes
    ----------
    transform_of_query : ndarray of shape (Q,), int64
        Queries with the same number share the debiased images.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        tensors = load_weights(path, make="debias_queries.py writes it beside the queries")
        if INDEX not in tensors:
            raise InputError(f"{path} has no tensor '{INDEX}'; it is no image transform")
        self.transform_of_query = tensors[INDEX].numpy()
        self._vae: DisentanglingVAE | None = None
        try:
            self._transform = self._build(tensors, path)
        except KeyError as error:
            raise InputError(
                f"{path} lacks the tensor {error}; write it anew with debias_queries.py"
            ) from None

    def _build(self, tensors: dict[str, Tensor], path: str | Path) -> ImageTransform:
        n = int(self.transform_of_query.max(initial=0)) + 1
        if "matrix_0" in tensors:
            return LinearTransform([tensors[f"matrix_{i}"] for i in range(n)])
        if "removed_0" in tensors:
            edits = [SpanEdit(tensors[f"removed_{i}"], tensors[f"doubled_{i}"]) for i in range(n)]
            return SpanTransform(edits, normalize=True)
        if "left" in tensors:
            return AffineTransform(tensors["left"], tensors["right"], tensors["offset"])
        if "kept" in tensors:
            return CoordinateTransform(tensors["kept"], tensors["constant"])
        if "basis_0" in tensors:
            return CompromiseTransform([tensors[f"basis_{i}"] for i in range(n)])
        normalized = {"args": {"normalize_embeddings": bool(tensors["tanh"])}}
        self._vae = zsdebias_from_checkpoint(tensors | normalized, path)
        return ResampledTransform(self._vae, seed=int(tensors["seed"]), fold=0)

    def apply(self, images: np.ndarray, number: int = 0, first_row: int = 0) -> np.ndarray:
        """Debias image embeddings.

        Parameters
        ----------
        images : ndarray of shape (n, d)
            As stored; may be memory-mapped, and may be a part of an index.
        number : int
            Which transform: a value of `transform_of_query`.
        first_row : int
            Position of the first row in the whole index: ZSDebias's noise belongs to the position.

        Returns
        -------
        ndarray of shape (n, d), float32
            Unit rows.
        """
        parts = []
        for chunk in chunks(len(images), IMAGE_ROWS):
            rows = float_rows(images[chunk])
            prepared = unit(rows) if self._vae is None else ZSDebias(vae=self._vae).prepare_images(rows)
            parts.append(unit(self._transform.apply(prepared, number, first_row + chunk.start)))
        return torch.cat(parts).numpy() if parts else np.empty(images.shape, np.float32)
