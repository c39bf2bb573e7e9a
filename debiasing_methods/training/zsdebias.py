"""Training of ZSDebias: configuration, bias targets, loss, and a run that can stop and go on, bit for bit.

Symbols: n images, B rows of a batch, d embedding dimension, C corpus sentences; x an image embedding as
stored, b its bias target, z = [z_i, z_s] its latents in halves of d/2, r its reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from debiasing_methods.chunks import IMAGE_ROWS, chunks
from debiasing_methods.linalg import unit
from debiasing_methods.training.cka import alignments
from debiasing_methods.training.hyperparameters import ZSDebiasTrainingConfig
from debiasing_methods.training.zsdebias_network import TrainableVAE

NEAREST_SENTENCES = 10
MIN_ROWS = 10

_TRAINING_SHARE = 0.7
_MAX_GRADIENT_NORM = 1.0
_BETA_MAX, _BETA_CYCLE = 0.01, 50
# Independent random streams of one seed.
_STREAM_START, _STREAM_SPLIT, _STREAM_TRAINING, _STREAM_VALIDATION = range(4)


def beta(epoch: int) -> float:
    """Weight of the KL term in an epoch, from 1: rises from 0 to 0.01 in every 50 epochs."""
    return _BETA_MAX * ((epoch - 1) % _BETA_CYCLE) / (_BETA_CYCLE - 1)


def bias_targets(images: Tensor, corpus: Tensor, k: int = NEAREST_SENTENCES) -> Tensor:
    """Say what each image shows of the bias attribute: ``b(x) = n(mean of the k nearest sentences)``.

    Parameters
    ----------
    images : Tensor of shape (n, d)
    corpus : Tensor of shape (C, d)
        Embeddings of the bias corpus, C ≥ k.
    k : int
        Number of sentences, by cosine.

    Returns
    -------
    Tensor of shape (n, d)
        Unit rows; sentences count as unit vectors in the mean.
    """
    if len(corpus) < k:
        raise ValueError(f"a corpus of at least {k} sentences is needed, got {len(corpus)}")
    corpus = unit(corpus)
    targets = torch.empty_like(images)
    for rows in chunks(len(images), IMAGE_ROWS):  # of the (n, C) similarities
        nearest = (images[rows] @ corpus.T).topk(k, dim=1).indices  # an image's length changes no order
        targets[rows] = unit(embedding_bag(nearest, corpus, mode="mean"))
    return targets


class LossTerms(NamedTuple):
    """The terms of the loss, unweighted; 0-dimensional tensors, or floats where they have been averaged.

    Attributes
    ----------
    reconstruction
        Mean of ``‖r − x‖²``.
    bias_alignment
        ``CKA(z_s, b)``, to be large.
    half_alignment
        ``CKA(z_i, z_s)``, to be small.
    shuffled
        Sum of the means of ``‖dec(z_s shuffled) − x‖²`` and ``‖dec(z_i shuffled) − x‖²``.
    kl
        Mean of ``−½ Σ(1 + log σ² − μ² − σ²)``.
    """

    reconstruction: Tensor
    bias_alignment: Tensor
    half_alignment: Tensor
    shuffled: Tensor
    kl: Tensor

    def total(self, beta: float) -> Tensor:
        """``L``, the weighted sum."""
        alignments = self.half_alignment - self.bias_alignment
        return 100 * self.reconstruction + 10 * alignments + 10 * self.shuffled + beta * self.kl


def loss_terms(model: TrainableVAE, x: Tensor, b: Tensor, shuffle_order: str = "published") -> LossTerms:
    """Evaluate the loss of a batch; draws the latents, one permutation and, in training, the dropout.

    Parameters
    ----------
    model : TrainableVAE
        In training mode with dropout, in evaluation mode without; z is sampled in both.
    x : Tensor of shape (B, d)
        Image embeddings as stored.
    b : Tensor of shape (B, d)
        Their bias targets.
    shuffle_order : str
        One of `SHUFFLE_ORDERS`.

    Returns
    -------
    LossTerms
    """
    mean, log_variance = model.moments(x)
    z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    kept, bias = z.chunk(2, dim=1)
    order = torch.randperm(len(x), device=x.device)
    # The release's models are trained with the halves the other way round in the two shuffle terms.
    decoded = model.decode_shuffled(kept, bias, order, swapped=shuffle_order == "published")
    errors = _SquaredErrors.apply(decoded, x)
    bias_alignment, half_alignment = alignments([kept, bias, b], [(1, 2), (0, 1)])
    return LossTerms(
        reconstruction=errors[0],
        bias_alignment=bias_alignment,
        half_alignment=half_alignment,
        shuffled=errors[1] + errors[2],
        kl=-0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1).mean(),
    )


class _SquaredErrors(torch.autograd.Function):
    """Mean squared distances ``(k,)`` of k reconstructions ``(k, B, d)`` from x ``(B, d)``, in few passes."""

    @staticmethod
    def forward(ctx: Any, decoded: Tensor, x: Tensor) -> Tensor:
        difference = decoded - x
        ctx.save_for_backward(difference)
        return torch.stack([torch.dot(part, part) for part in difference.flatten(1)]) / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (gradient * (2 / difference.shape[1]))[:, None, None], None


@dataclass
class Best:
    """The epoch with the lowest validation loss so far, and the model that it left."""

    epoch: int
    val_loss: float
    weights: dict[str, Tensor]


class ZSDebiasTraining:
    """One training run, which can be cut off after any epoch.

    With its `state_dict` another process goes on, and the result is the same to the last bit (on the CPU,
    with the same versions and number of threads): the draws of an epoch follow from the seed and its number.

    Parameters
    ----------
    images : Tensor of shape (n, d)
        Embeddings as stored, finite; 70 % train, 30 % validate.
    targets : Tensor of shape (n, d)
        Their bias targets, on the same device.
    config : ZSDebiasTrainingConfig

    Raises
    ------
    ValueError
        Images and targets are not two matrices of one shape and an even width, or have too few rows.

    Notes
    -----
    The last training batch of an epoch is dropped where it is short, unless it is the only one.
    """

    def __init__(self, images: Tensor, targets: Tensor, config: ZSDebiasTrainingConfig) -> None:
        if images.ndim != 2 or images.shape != targets.shape:
            raise ValueError(f"images {tuple(images.shape)} and targets {tuple(targets.shape)} must be alike")
        if len(images) < MIN_ROWS:
            raise ValueError(
                f"{len(images)} image embeddings are too few to train on; give at least {MIN_ROWS}"
            )
        self.config = config
        self._x, self._b = images, targets
        generator = torch.Generator().manual_seed(self._mixed_seed(_STREAM_SPLIT))
        rows = torch.randperm(len(images), generator=generator).to(images.device)
        self.training_rows, self.validation_rows = rows.tensor_split([int(_TRAINING_SHARE * len(rows))])
        generator.manual_seed(self._mixed_seed(_STREAM_START))
        self.model = TrainableVAE(images.shape[1], generator).to(images.device)
        self._optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.history: list[dict[str, float]] = []
        self.best: Best | None = None

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` of them passed without a lower validation loss."""
        waited = self.epoch - self.best.epoch if self.best else 0
        return self.epoch >= self.config.epochs or waited >= self.config.patience

    @property
    def batch_size(self) -> int:
        """Rows of a training batch: the config's, or all training rows where they are fewer."""
        return min(self.config.batch_size, len(self.training_rows))

    def run(self, after_epoch: Callable[[ZSDebiasTraining], None] | None = None) -> Best:
        """Train until the run is finished and return its best epoch; `after_epoch` is called after each."""
        while not self.finished:
            self.take_epoch()
            if after_epoch is not None:
                after_epoch(self)
        return self.best

    def take_epoch(self) -> None:
        """Train for one epoch, validate, and note what came out in `history` and `best`."""
        epoch = self.epoch + 1
        lr, kl_weight = self.config.learning_rate(epoch), beta(epoch)
        train_terms = self._train(epoch, lr, kl_weight)
        val_terms = self._validate(epoch)
        record = {"epoch": epoch, "learning_rate": lr, "beta": kl_weight}
        for part, terms in (("train", train_terms), ("val", val_terms)):
            record[f"{part}_loss"] = terms.total(kl_weight)
            record |= {f"{part}_{name}": value for name, value in terms._asdict().items()}
        if not all(math.isfinite(value) for value in record.values()):
            raise ValueError(
                f"the loss is not finite in epoch {epoch}: training diverged; a smaller lr may help"
            )
        self.history.append(record)
        if self.best is None or record["val_loss"] < self.best.val_loss:
            weights = {name: tensor.cpu().clone() for name, tensor in self.model.state_dict().items()}
            self.best = Best(epoch, record["val_loss"], weights)

    def _train(self, epoch: int, lr: float, kl_weight: float) -> LossTerms:
        """Take the steps of an epoch and return the mean terms of its batches."""
        self.model.train()
        self._optimizer.param_groups[0]["lr"] = lr
        seen = []
        with self._draws(_STREAM_TRAINING, epoch):
            order = torch.randperm(len(self.training_rows), device=self._x.device)
            for rows in self.training_rows[order].split(self.batch_size):
                if len(rows) < self.batch_size:
                    break  # the last short batch is dropped
                terms = loss_terms(self.model, self._x[rows], self._b[rows], self.config.shuffle_order)
                self._optimizer.zero_grad()
                terms.total(kl_weight).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT_NORM)
                self._optimizer.step()
                seen.append(torch.stack(terms).detach())
        return _mean_terms(seen)

    @torch.no_grad()
    def _validate(self, epoch: int) -> LossTerms:
        """Mean terms of the validation batches, of which a short last one counts as much as the others."""
        self.model.eval()
        with self._draws(_STREAM_VALIDATION, epoch):
            return _mean_terms(
                [
                    torch.stack(
                        loss_terms(self.model, self._x[rows], self._b[rows], self.config.shuffle_order)
                    )
                    for rows in self.validation_rows.split(self.config.batch_size)
                ]
            )

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later process needs, beside data and config: tensors and plain values.

        There is no generator and no schedule among them: both follow from the number of the epoch.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "history": self.history,
            "best": vars(self.best) if self.best else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a run on the same data with the same config."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.history = list(state["history"])
        self.best = Best(**state["best"]) if state["best"] else None

    def _mixed_seed(self, stream: int, number: int = 0) -> int:
        return int(np.random.SeedSequence([self.config.seed, stream, number]).generate_state(1)[0])

    @contextmanager
    def _draws(self, stream: int, epoch: int) -> Iterator[None]:
        """Seed torch's own generators for a while; afterwards they are as they were."""
        device = self._x.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self._mixed_seed(stream, epoch))
            yield


def _mean_terms(batches: list[Tensor]) -> LossTerms:
    return LossTerms(*torch.stack(batches).mean(dim=0).tolist())
