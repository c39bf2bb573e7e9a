"""Files of what `hessian_estimation.py` finds: curvature, prior precision and the layers it is of.

Symbols: p width of a tower's features, d embedding dimension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bias_evaluation.embedding.identity import encoder_digest
from bias_evaluation.grid.configs import Backbone
from debiasing_methods.encoder_head import EncoderHead
from debiasing_methods.uncertainty import Curvature, Posterior
from safe_io.arrays import load_arrays
from safe_io.errors import InputError, as_input_error
from safe_io.files import atomic_path

TOWERS = ("image", "text")
_HEAD = ("norm_weight", "norm_bias", "eps", "weight", "bias")
_MAKE = "make it again with hessian_estimation.py"


@dataclass(frozen=True, eq=False)
class Tower:
    """One tower: its last layers, their curvature and the prior precision λ."""

    head: EncoderHead
    curvature: Curvature
    precision: float


@dataclass(frozen=True, eq=False)
class Factors:
    """What `hessian_estimation.py` finds about one backbone.

    Attributes
    ----------
    image, text : Tower
    scale : float
        ``e^s``, by which cosines become logits.
    tau : float
        Pseudo-count τ that λ was fitted with.
    facts : mapping
        How it was made, plain values: `model` (digest of the encoder), `backbone`, `pairs`, `class_batch`,
        `seed`, `pairs_digest`, `evidence`.
    """

    image: Tower
    text: Tower
    scale: float
    tau: float
    facts: Mapping[str, Any]

    def posterior(self, tower: str) -> Posterior:
        """Posterior of one tower's projection; 'image' or 'text'."""
        found: Tower = getattr(self, tower)
        return Posterior.of(found.curvature, found.precision, self.tau)

    def check_made_for(self, backbone: Backbone, path: Path) -> None:
        """Raise `InputError` unless the factors are of this very model."""
        if self.facts.get("model") != encoder_digest(backbone):
            raise InputError(
                f"{path} was made for another model ('{self.facts.get('backbone')}') than backbone "
                f"'{backbone.name}' is now; {_MAKE} --backbone {backbone.option}"
            )


def factors_path(data_root: Path, backbone: Backbone) -> Path:
    """Where a backbone's factors are kept: one file for each backbone and checkpoint."""
    return data_root / "uncertainty" / f"CLIP_{backbone.name}_{encoder_digest(backbone)[:12]}.npz"


def write_factors(path: Path, factors: Factors) -> None:
    """Write factors as ``.npz``, atomically; the same factors give the same bytes."""
    arrays = {"scale": factors.scale, "tau": factors.tau}
    for name in TOWERS:
        tower: Tower = getattr(factors, name)
        arrays |= {f"{name}/a": tower.curvature.a, f"{name}/b": tower.curvature.b}
        arrays |= {f"{name}/{part}": getattr(tower.head, part) for part in _HEAD}
        arrays[f"{name}/bias"] = torch.empty(0) if tower.head.bias is None else tower.head.bias
        arrays[f"{name}/precision"] = tower.precision
    arrays["facts"] = json.dumps(dict(factors.facts), sort_keys=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: np.asarray(value) for name, value in arrays.items()})


def read_factors(path: Path) -> Factors:
    """Read factors that `write_factors` wrote.

    Raises
    ------
    InputError
        The file is missing or damaged, or its arrays are not finite or do not go together.
    """
    parts = (*(f"{tower}/{part}" for tower in TOWERS for part in ("a", "b", *_HEAD, "precision")),)
    names = ("scale", "tau", "facts", *parts)
    found = dict(zip(names, load_arrays(path, "factors of uncertainty", names), strict=True))
    with as_input_error(str(path)):
        towers = [
            _tower({part: found[f"{name}/{part}"] for part in ("a", "b", *_HEAD, "precision")})
            for name in TOWERS
        ]
        scale, tau = float(found["scale"]), float(found["tau"])
        facts = json.loads(str(found["facts"]))
        if not (np.isfinite([scale, tau]).all() and isinstance(facts, dict)):
            raise ValueError(f"it holds no factors; {_MAKE}")
        return Factors(*towers, scale, tau, facts)


def _tower(arrays: Mapping[str, np.ndarray]) -> Tower:
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    if not all(bool(t.isfinite().all()) for t in tensors.values()):
        raise ValueError(f"an array is not finite; {_MAKE}")
    bias = tensors["bias"] if len(tensors["bias"]) else None
    head = EncoderHead(
        tensors["norm_weight"], tensors["norm_bias"], float(tensors["eps"]), tensors["weight"], bias
    )
    p, d = head.projection.shape
    if tensors["a"].shape != (p, p) or tensors["b"].shape != (d, d):
        raise ValueError(f"curvature and projection ({p}, {d}) do not go together; {_MAKE}")
    return Tower(head, Curvature(tensors["a"], tensors["b"]), float(tensors["precision"]))
