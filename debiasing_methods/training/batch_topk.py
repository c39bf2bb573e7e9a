"""Training of DeBiasLens's sparse autoencoder: BatchTopK activations, Matryoshka groups, an auxiliary loss.

Symbols: n training rows, B rows of a batch, w width of the residual stream, s latents, k latents per row;
W_e (w, s), b_e (s,), W_d (s, w) with rows of length 1, b_dec (w,); u = relu((v − b_dec)W_e + b_e).

Source: An et al. 2026, arXiv:2602.24014, and the published code that it trains with (Bussmann et al. 2024,
arXiv:2412.06410, BatchTopK; Bussmann et al. 2025, arXiv:2503.17547, Matryoshka groups).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from debiasing_methods.sae import SparseAutoencoder

GROUP_SHARES = (1 / 16, 1 / 8, 1 / 4, 9 / 16)
AUXILIARY_WEIGHT = 0.03
_THRESHOLD_DECAY = 0.999
_STREAM_START, _STREAM_ORDER = 0, 1


@dataclass(frozen=True)
class BatchTopKConfig:
    """What a training run is, beside its data; defaults are the paper's.

    Attributes
    ----------
    n_latents : int or None
        s; None takes 8 w.
    k : int
        Latents per row, on average over a batch.
    steps : int
    batch_size : int
    lr : float or None
        Peak learning rate; None takes ``2e-4 / √(s / 2¹⁴)``.
    warmup : int
        Steps over which the learning rate rises linearly; θ is averaged from then on.
    silent_rows : int
        A latent that was zero for so many rows is dead: the auxiliary loss trains it.
    seed : int
        Of the starting values and the order of the rows.
    """

    n_latents: int | None = None
    k: int = 20
    steps: int = 110_000
    batch_size: int = 4096
    lr: float | None = None
    warmup: int = 1000
    silent_rows: int = 10_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("k", "steps", "batch_size", "silent_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.warmup >= self.steps:
            raise ValueError(
                f"warmup must be below steps, got {self.warmup} and {self.steps}: the threshold is learned "
                f"after the warm-up, and without one every positive latent would count"
            )
        if self.n_latents is not None and self.n_latents < self.k:
            raise ValueError(f"n_latents must be at least k = {self.k}, got {self.n_latents}")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a number above 0, got {self.lr}")


class Parameters(NamedTuple):
    """What is trained: ``encoder (w, s)``, ``encoder_bias (s,)``, ``decoder (s, w)``, ``center (w,)``."""

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    center: Tensor


def group_sizes(n_latents: int) -> list[int]:
    """Split the latents into the Matryoshka groups; the last takes what rounding leaves."""
    sizes = [int(share * n_latents) for share in GROUP_SHARES[:-1]]
    return [*sizes, n_latents - sum(sizes)]


def batch_topk(u: Tensor, k: int) -> Tensor:
    """Keep the ``k·B`` largest entries of a batch ``(B, s)``; the others become 0."""
    flat = u.flatten()
    values, places = flat.topk(min(k * len(u), len(flat)))
    return torch.zeros_like(flat).scatter(0, places, values).view_as(u)


def partial_errors(v: Tensor, z: Tensor, decoder: Tensor, center: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mean squared norm of what each nested reconstruction leaves, ``(L,)``, and the last residual.

    The first reconstruction decodes the first group, the second the first two, and so on.
    """
    residual, errors, start = v - center, [], 0
    for size in sizes:
        residual = residual - z[:, start : start + size] @ decoder[start : start + size]
        errors.append(residual.square().sum(1).mean())
        start += size
    return torch.stack(errors)


def auxiliary_loss(residual: Tensor, u: Tensor, dead: Tensor, decoder: Tensor) -> Tensor:
    """Share of the residual that the strongest dead latents leave: ``mean‖res − aux‖² / mean‖res − m‖²``.

    Parameters
    ----------
    residual : Tensor of shape (B, w)
        What the reconstruction leaves; not trained by this loss. m is its mean row.
    u : Tensor of shape (B, s)
        Latents before BatchTopK.
    dead : BoolTensor of shape (s,)
    decoder : Tensor of shape (s, w)

    Returns
    -------
    Tensor of shape ()
        0 if no latent is dead, or the rows leave the same residual.
    """
    count = min(residual.shape[1] // 2, int(dead.sum()))
    spread = (residual - residual.mean(0)).square().sum(1).mean()
    if count == 0 or spread == 0:
        return residual.new_zeros(())
    values, places = u.masked_fill(~dead, -math.inf).topk(count, dim=1)
    aux = torch.zeros_like(u).scatter(1, places, values) @ decoder
    return (residual - aux).square().sum(1).mean() / spread


def geometric_median(rows: Tensor, steps: int = 100, tolerance: float = 1e-5) -> Tensor:
    """Point with the least sum of distances to the rows ``(n, w)``, by Weiszfeld's iteration."""
    guess = rows.mean(0)
    for _ in range(steps):
        weights = 1 / torch.linalg.vector_norm(rows - guess, dim=1).clamp_min(1e-12)
        before, guess = guess, (weights[:, None] * rows).sum(0) / weights.sum()
        if torch.linalg.vector_norm(guess - before) <= tolerance * torch.linalg.vector_norm(guess):
            break
    return guess


class BatchTopKTraining:
    """One training run, which can be cut off after any step and continued, bit for bit (on the CPU).

    Parameters
    ----------
    rows : Tensor of shape (n, w)
        Residuals to train on, finite; not changed.
    config : BatchTopKConfig

    Raises
    ------
    ValueError
        The rows are not a float matrix.
    """

    def __init__(self, rows: Tensor, config: BatchTopKConfig, *, device: str = "cpu") -> None:
        if rows.ndim != 2 or 0 in rows.shape or not rows.is_floating_point():
            raise ValueError(f"rows must be a float matrix (n, w) with n, w >= 1, got {tuple(rows.shape)}")
        self.config, self._x = config, rows.to(device, torch.float32)
        width = rows.shape[1]
        self.n_latents = config.n_latents or 8 * width
        if self.n_latents < config.k:
            raise ValueError(f"k must be at most the {self.n_latents} latents, got {config.k}")
        self.sizes = group_sizes(self.n_latents)
        self.peak_lr = config.lr or 2e-4 / math.sqrt(self.n_latents / 2**14)
        draws = self._rng(_STREAM_START, 0).standard_normal((self.n_latents, width))
        decoder = functional.normalize(torch.from_numpy(draws), dim=1).float()
        start = (
            decoder.T.clone(),
            torch.zeros(self.n_latents),
            decoder,
            geometric_median(self._batch(0)).cpu(),
        )
        self.parameters = Parameters(*(p.to(device).requires_grad_() for p in start))
        self._optimizer = torch.optim.Adam(self.parameters, lr=self.peak_lr)
        self._silent = torch.zeros(self.n_latents, dtype=torch.long, device=device)
        self.threshold, self.step = -1.0, 0

    def run(self, after_step: Callable[[BatchTopKTraining, float], None] | None = None) -> SparseAutoencoder:
        """Take all steps that are left; `after_step` is called with the run and the loss of each."""
        while self.step < self.config.steps:
            loss = self.take_step()
            if after_step is not None:
                after_step(self, loss)
        return self.result()

    def take_step(self) -> float:
        """Train on the next batch and return its loss (before the step)."""
        v = self._batch(self.step)
        encoder, bias, decoder, center = self.parameters
        u = torch.relu((v - center) @ encoder + bias)
        z = batch_topk(u, self.config.k)
        self._follow_threshold(z)
        errors = partial_errors(v, z, decoder, center, self.sizes)
        residual = (v - center - z @ decoder).detach()
        loss = errors.mean() / 4 + AUXILIARY_WEIGHT * auxiliary_loss(residual, u, self.dead, decoder)
        if not math.isfinite(loss.item()):
            raise ValueError(
                f"the loss is {loss.item()} in step {self.step + 1}: training diverged; a smaller lr may help"
            )
        self._optimizer.zero_grad()
        loss.backward()
        self._update()
        fired = (z > 0).any(0)
        self._silent = torch.where(fired, 0, self._silent + len(v))
        self.step += 1
        return loss.item()

    @property
    def dead(self) -> Tensor:
        """Latents that have been silent for so many rows that the auxiliary loss trains them, ``(s,)``."""
        return self._silent >= self.config.silent_rows

    def _follow_threshold(self, z: Tensor) -> None:
        """Average the least positive latent of each batch; evaluation keeps what is above the average."""
        if self.step < self.config.warmup or not (z > 0).any():
            return
        least = float(z.detach()[z > 0].min())
        self.threshold = (
            least
            if self.threshold < 0
            else _THRESHOLD_DECAY * self.threshold + (1 - _THRESHOLD_DECAY) * least
        )

    def _update(self) -> None:
        """Take an Adam step that keeps the decoder's rows at length 1."""
        decoder = self.parameters.decoder
        along = (decoder.grad * decoder.data).sum(1, keepdim=True)
        decoder.grad -= along * decoder.data
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._optimizer.param_groups[0]["lr"] = self.learning_rate(self.step)
        self._optimizer.step()
        with torch.no_grad():
            decoder.copy_(functional.normalize(decoder, dim=1))

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step: linear to the peak during the warm-up, then constant."""
        return self.peak_lr * min(1.0, (step + 1) / max(1, self.config.warmup))

    def result(self) -> SparseAutoencoder:
        """Return the autoencoder with its threshold θ."""
        encoder, bias, decoder, center = (p.detach().cpu() for p in self.parameters)
        return SparseAutoencoder(
            encoder.T.contiguous(),
            bias.clone(),
            decoder.T.contiguous(),
            center.clone(),
            max(self.threshold, 0.0),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later process needs, beside data and config: tensors and plain values."""
        return {
            "step": self.step,
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self._optimizer.state_dict(),
            "silent": self._silent,
            "threshold": self.threshold,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of a run on the same data with the same config."""
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._silent, self.threshold, self.step = state["silent"], state["threshold"], state["step"]

    def _batch(self, step: int) -> Tensor:
        """Rows of a step: each pass over the data is a permutation of its own."""
        n, size = len(self._x), min(self.config.batch_size, len(self._x))
        per_pass = n // size
        epoch, position = divmod(step, per_pass)
        rows = self._rng(_STREAM_ORDER, epoch).permutation(n)[position * size : (position + 1) * size]
        return self._x[torch.from_numpy(rows).to(self._x.device)]

    def _rng(self, stream: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, stream, number))
