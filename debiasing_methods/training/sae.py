"""Training of the Matryoshka SAE: configuration, loss, and a run that can stop and go on, bit for bit.

Symbols: n training rows, B rows of a batch, d embedding dimension, s latents; levels k_1 < … < k_L with
weights w_k; W_e (s, d), b_e (s,), W_d (d, s), b_pre (d,) as in `debiasing_methods.sae`;
u = W_e(x − b_pre) + b_e; z_k = relu of the k largest entries of u (the others 0); c and m scale and centre of
the training data.

Source: MSAE, Zaigrajew et al., ICML 2025, arXiv:2502.20578, for the nested levels, the weights and the
starting values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from debiasing_methods.chunks import ROWS
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.training.hyperparameters import SaeTrainingConfig

_INITIAL_NORM = 0.1  # of a decoder column
# A batch is worked through in parts of so many rows (gradients add up): its (rows, s) tensors stay small, and
# parts of this size were also faster than whole batches of 4,096.
# Independent random streams of one seed.
_STREAM_START, _STREAM_ORDER = 0, 1


class SaeParameters(NamedTuple):
    """What is trained. The decoder is held as its columns, row by row, which is how the levels read it.

    Attributes
    ----------
    encoder_weight : Tensor of shape (s, d)
    encoder_bias : Tensor of shape (s,)
    dictionary : Tensor of shape (s, d)
        W_dᵀ; rows of length 1 after every step.
    pre_bias : Tensor of shape (d,)
    """

    encoder_weight: Tensor
    encoder_bias: Tensor
    dictionary: Tensor
    pre_bias: Tensor


def starting_values(dim: int, n_latents: int, rng: np.random.Generator) -> SaeParameters:
    """Draw starting values: decoder columns uniform in a cube and of length 0.1, ``W_e = W_dᵀ``, biases 0.

    Parameters
    ----------
    dim, n_latents : int
        d and s.
    rng : numpy.random.Generator

    Returns
    -------
    SaeParameters
        float32, on the CPU. Kaiming's bound drops out, since the columns are scaled.
    """
    cube = torch.from_numpy(rng.uniform(-1, 1, size=(n_latents, dim)))
    dictionary = (_INITIAL_NORM * functional.normalize(cube, dim=1)).float()
    return SaeParameters(dictionary.clone(), torch.zeros(n_latents), dictionary, torch.zeros(dim))


def nested_reconstructions(u: Tensor, dictionary: Tensor, levels: Sequence[int]) -> Tensor:
    """Decode every level, without the pre-bias: ``W_d z_k`` for each k.

    Parameters
    ----------
    u : Tensor of shape (B, s)
        Latents before (or after) the relu.
    dictionary : Tensor of shape (s, d)
        W_dᵀ.
    levels : sequence of int
        Ascending, at most s.

    Returns
    -------
    Tensor of shape (B, L, d)

    Notes
    -----
    One top-k for the largest k < s: its values come in descending order, so that a level is a prefix of it.
    What each level adds to the one before is a sparse sum of decoder columns; levels are their running sums.
    Only level s is decoded as a dense matrix.
    """
    rows, s = u.shape
    sparse = [k for k in levels if k < s]
    parts = []
    if sparse:
        values, indices = u.topk(sparse[-1], dim=1)
        first = torch.tensor([0, *sparse[:-1]], device=u.device)
        starts = torch.arange(rows, device=u.device)[:, None] * sparse[-1] + first
        added = functional.embedding_bag(
            indices.flatten(),
            dictionary,
            starts.flatten(),
            mode="sum",
            per_sample_weights=values.relu().flatten(),
        )
        parts.append(added.view(rows, len(sparse), -1).cumsum(dim=1))
    if levels[-1] == s:
        parts.append((u.relu() @ dictionary)[:, None])
    return torch.cat(parts, dim=1)


def matryoshka_loss(
    x: Tensor, parameters: SaeParameters, levels: Sequence[int], weights: Sequence[float], l1: float = 0.0
) -> Tensor:
    """``L = Σ_k w_k · mean((W_d z_k + b_pre − x)²) + l1 · Σ_j relu(u_j)``, the sum a mean over rows.

    Parameters
    ----------
    x : Tensor of shape (B, d)
        Embeddings, as they are trained on.
    parameters : SaeParameters
    levels : sequence of int
        Ascending, at most s.
    weights : sequence of float
        One for each level.
    l1 : float
        Weight of the penalty on the positive latents; 0 leaves it out.

    Returns
    -------
    Tensor of shape ()
        The squared errors are means over rows and coordinates, the penalty a mean over rows.
    """
    w_e, b_e, dictionary, b_pre = parameters
    u = torch.addmm(b_e - w_e @ b_pre, x, w_e.T)  # b_pre apart: its gradient then costs no (B, s) product
    errors = nested_reconstructions(u, dictionary, levels) + (b_pre - x)[:, None]
    loss = errors.square().mean(dim=(0, 2)) @ x.new_tensor(weights)
    return loss + l1 * u.relu().sum(dim=1).mean() if l1 else loss


class SaeTraining:
    """One training run, which can be cut off after any step.

    With its `state_dict` another process goes on, and the result is the same to the last bit (on the CPU,
    with the same versions and number of threads).

    Parameters
    ----------
    embeddings : Tensor of shape (n, d)
        Raw training rows, finite; not changed.
    config : SaeTrainingConfig
    device : str
        Where to train.

    Raises
    ------
    ValueError
        The rows are not a float matrix; or all are the same, and are to be standardised.
    """

    def __init__(self, embeddings: Tensor, config: SaeTrainingConfig, *, device: str = "cpu") -> None:
        if embeddings.ndim != 2 or 0 in embeddings.shape or not embeddings.is_floating_point():
            raise ValueError(
                f"embeddings must be a float matrix (n, d) with n, d >= 1, got {tuple(embeddings.shape)}"
            )
        embeddings = embeddings.to(device, torch.float32)
        self.config = config
        self.centre, self.scale = _standardization(embeddings, config.standardize)
        self._x = (embeddings - self.centre) * self.scale
        start = starting_values(embeddings.shape[1], config.n_latents, self._rng(_STREAM_START, 0))
        self.parameters = SaeParameters(*(p.to(device).requires_grad_() for p in start))
        self._optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, eps=config.eps, weight_decay=0)
        self.step = 0
        self.batches_per_epoch = math.ceil(len(embeddings) / config.batch_size)
        self.total_steps = config.epochs * self.batches_per_epoch
        self._order: tuple[int, list[Tensor]] = (-1, [])  # an epoch and its batches

    def run(self, after_step: Callable[[SaeTraining, float], None] | None = None) -> SparseAutoencoder:
        """Take all steps that are left; `after_step` is called with the run and the loss of each."""
        while self.step < self.total_steps:
            loss = self.take_step()
            if after_step is not None:
                after_step(self, loss)
        return self.result()

    def take_step(self) -> float:
        """Train on the next batch and return its loss (before the step)."""
        config, x = self.config, self._next_batch()
        self._optimizer.zero_grad()
        loss = 0.0
        for part in x.split(ROWS):
            share = matryoshka_loss(part, self.parameters, config.all_levels, config.level_weights, config.l1)
            share = share * (len(part) / len(x))
            share.backward()
            loss += share.item()
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} in step {self.step + 1}: training diverged; a smaller lr may help"
            )
        torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip)
        self._optimizer.param_groups[0]["lr"] = self.learning_rate(self.step)
        self._optimizer.step()
        with torch.no_grad():
            dictionary = self.parameters.dictionary
            dictionary.copy_(functional.normalize(dictionary, dim=1))
        self.step += 1
        return loss

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step: constant, then linear to 0 (which the step after the last would have)."""
        decay_steps = self.config.decay_fraction * self.total_steps
        left = self.total_steps - step
        return self.config.lr * (left / decay_steps if left < decay_steps else 1.0)

    def result(self) -> SparseAutoencoder:
        """Return the SAE for raw embeddings: ``c·W_e``, ``b_e``, ``W_d/c`` and ``b_pre/c + m``."""
        w_e, b_e, dictionary, b_pre = (p.detach().cpu() for p in self.parameters)
        return SparseAutoencoder(
            encoder_weight=w_e * self.scale,
            encoder_bias=b_e.clone(),
            decoder_weight=(dictionary.T / self.scale).contiguous(),
            pre_bias=b_pre / self.scale + self.centre.cpu(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later process needs, beside data and config: tensors and plain values.

        There is no generator among them: the order of an epoch follows from the seed and its number.
        """
        return {
            "step": self.step,
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a run on the same data with the same config."""
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _next_batch(self) -> Tensor:
        epoch, position = divmod(self.step, self.batches_per_epoch)
        if self._order[0] != epoch:
            rows = self._rng(_STREAM_ORDER, epoch).permutation(len(self._x))
            batches = np.array_split(rows, self.batches_per_epoch)
            self._order = (epoch, [torch.from_numpy(batch).to(self._x.device) for batch in batches])
        return self._x[self._order[1][position]]

    def _rng(self, stream: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, stream, number))


def _standardization(x: Tensor, standardize: bool) -> tuple[Tensor, float]:
    """Centre m and scale c of the rows; 0 and 1 where they are left as they are."""
    if not standardize:
        return torch.zeros_like(x[0]), 1.0
    centre = x.to(torch.float64).mean(0).to(x.dtype)
    mean_square = (x - centre).to(torch.float64).square().mean().item()
    if mean_square == 0:
        raise ValueError("all rows to train on are the same: there is nothing to learn")
    return centre, mean_square**-0.5
