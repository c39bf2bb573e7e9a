"""Hyper-parameters of the three trainings, with the published values as defaults.

Nothing here needs torch, so that a command can show and check its options before anything heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SAMPLINGS = ("published", "independent")
"""Ways to draw PRISM's samples; see `debiasing_methods.training.prism_sampling`."""
WEIGHTINGS = ("reverse", "uniform")
"""Weights of the levels of a Matryoshka SAE."""
SHUFFLE_ORDERS = ("published", "consistent")
"""Orders of the halves in ZSDebias's shuffle terms."""

_SAE_FIRST_LEVEL = 64
_ZSDEBIAS_FINAL_LR = 1e-8


@dataclass(frozen=True)
class PrismHyperparameters:
    """How a map is trained.

    Attributes
    ----------
    num_samples : int
        Samples that are drawn from the text set.
    lr : float
        Learning rate of Adam.
    epochs, batch_size : int
        Passes over the samples, and samples a step.
    wd : float
        Weight decay of Adam.
    """

    num_samples: int
    lr: float
    epochs: int = 1
    batch_size: int = 64
    wd: float = 0.0

    def __post_init__(self) -> None:
        """Raise `ValueError` where a number is out of range."""
        for name in ("num_samples", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf or not 0 <= self.wd < math.inf:
            raise ValueError(f"lr must be above 0 and wd at least 0, got lr {self.lr} and wd {self.wd}")


@dataclass(frozen=True)
class SaeTrainingConfig:
    """What a training run is, beside its data.

    Attributes
    ----------
    n_latents : int
        s.
    levels : tuple of int or None
        Levels k, ascending, at most s. None: 64, 128, … doubled while below s, as in the MSAE paper.
    full_level : bool
        Whether level s is appended where it is not among `levels`. Inference uses all positive latents, which
        the sparse levels alone do not train.
    weighting : str
        'reverse': w = (L, …, 2, 1), the sparsest level counts most; 'uniform': all ones.
    lr : float
        Learning rate of AdamW (no weight decay): 1e-4; 1e-3 suits some hundred to thousand rows.
    batch_size : int
        Most rows a batch. An epoch is split into batches as equal as can be, and uses every row.
    epochs : int
    decay_fraction : float
        Share of the steps, at the end, over which the learning rate falls linearly to 0.
    eps : float
        AdamW's.
    grad_clip : float
        Bound on the gradient's norm.
    l1 : float
        Weight of the L1 penalty on the positive latents. Inference uses all positive latents, and the sparse
        levels alone do not make those few; 0 (the default) adds no penalty.
    standardize : bool
        Whether to train on c(x − m), with m the mean row and c such that the mean square of a coordinate is
        1 (the mean squared error of a level is then its fraction of variance unexplained). The weights that
        come out take raw embeddings in either case.
    seed : int
        Of the starting values and the order of the rows.
    """

    n_latents: int = 16384
    levels: tuple[int, ...] | None = None
    full_level: bool = True
    weighting: str = "reverse"
    lr: float = 1e-4
    batch_size: int = 4096
    epochs: int = 30
    decay_fraction: float = 0.2
    eps: float = 6.25e-10
    grad_clip: float = 1.0
    l1: float = 0.0
    standardize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("n_latents", "batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "eps", "grad_clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a number above 0, got {getattr(self, name)}")
        if not (math.isfinite(self.l1) and self.l1 >= 0):
            raise ValueError(f"l1 must be a number of at least 0, got {self.l1}")
        if not 0 <= self.decay_fraction <= 1:
            raise ValueError(f"decay_fraction must be between 0 and 1, got {self.decay_fraction}")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got '{self.weighting}'")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if self.levels is not None:
            _check_levels(self.levels, self.n_latents)

    @property
    def all_levels(self) -> tuple[int, ...]:
        """The levels k_1 < … < k_L that are trained."""
        if self.levels is None:
            doubled = [_SAE_FIRST_LEVEL << i for i in range(self.n_latents.bit_length())]
            levels = tuple(k for k in doubled if k < self.n_latents) or (self.n_latents,)
        else:
            levels = self.levels
        return levels if levels[-1] == self.n_latents or not self.full_level else (*levels, self.n_latents)

    @property
    def level_weights(self) -> tuple[float, ...]:
        """The weight w_k of each of `all_levels`."""
        count = len(self.all_levels)
        return tuple(map(float, range(count, 0, -1))) if self.weighting == "reverse" else (1.0,) * count


@dataclass(frozen=True)
class ZSDebiasTrainingConfig:
    """What a training run is, beside its data.

    Attributes
    ----------
    epochs : int
        Most epochs; also the length of the learning rate's schedule.
    patience : int
        Stop after so many epochs without a lower validation loss.
    batch_size : int
    lr : float
        Learning rate of the first epoch.
    weight_decay : float
        Adam's (added to the gradient).
    shuffle_order : str
        Order of the halves in the two shuffle terms. 'published': ``[shuffled z_s, z_i]`` and
        ``[z_s, shuffled z_i]``, the opposite of z's own order; 'consistent': ``[z_i, shuffled z_s]`` and
        ``[shuffled z_i, z_s]``.
    seed : int
        Of the starting values, the split and all draws.
    """

    epochs: int = 500
    patience: int = 50
    batch_size: int = 1024
    lr: float = 1e-4
    weight_decay: float = 1e-5
    shuffle_order: str = "published"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (("epochs", 1), ("patience", 1), ("batch_size", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a number above 0, got {self.lr}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay must be a number of at least 0, got {self.weight_decay}")
        if self.shuffle_order not in SHUFFLE_ORDERS:
            raise ValueError(
                f"shuffle_order must be one of {', '.join(SHUFFLE_ORDERS)}, got '{self.shuffle_order}'"
            )

    def learning_rate(self, epoch: int) -> float:
        """Learning rate of an epoch, from 1: half a cosine from `lr` towards 1e-8 after the last."""
        remaining = (1 + math.cos(math.pi * (epoch - 1) / self.epochs)) / 2
        return _ZSDEBIAS_FINAL_LR + (self.lr - _ZSDEBIAS_FINAL_LR) * remaining


def _check_levels(levels: Sequence[int], n_latents: int) -> None:
    shown = " ".join(map(str, levels)) or "none"
    if not levels or levels[0] < 1 or any(b <= a for a, b in pairwise(levels)):
        raise ValueError(f"levels must be ascending whole numbers from 1, got {shown}")
    if levels[-1] > n_latents:
        raise ValueError(f"levels must be at most n_latents ({n_latents}), got {shown}")
