"""The autoencoder of ZSDebias as it is trained; `debiasing_methods.zsdebias` holds it for inference.

Symbols: B rows of a batch, d embedding dimension (and number of latents), μ and σ² mean and variance of the
latents.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiasing_methods.zsdebias import LEAKY_SLOPE

DROPOUT = 0.3


class Dropout(nn.Module):
    """Dropout that compares uniform draws: on a CPU a seventh of the time of torch's own."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Set a share p of the values to 0 and scale the others by 1/(1 − p), in training alone."""
        if not self.training:
            return x
        keep = 1 - self.p
        return x * (torch.rand_like(x) < keep).to(x.dtype).div_(keep)


class TrainableVAE(nn.Module):
    """Encoder and decoder; `state_dict` has the release's names, ``encoder.0.weight`` … ``decoder.4.bias``.

    Parameters
    ----------
    dim : int
        d, even, since the latents come in halves.
    generator : torch.Generator
        On the CPU; draws the starting values.

    Notes
    -----
    Weights of linear layers start Kaiming-normal for fan-in with gain √2 (the gain of torch's ``leaky_relu``
    with its default slope argument, as in the published training; the slope in use is 0.3), biases at 0.
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"embeddings must have an even width of at least 2, got {dim}")
        self.encoder = _network(dim, 2 * dim, generator)
        self.decoder = _network(dim, dim, generator)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``μ, log σ²``, each ``(B, d)``, of embeddings ``(B, d)``."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Embeddings ``(B, d)`` of latents ``(B, d)``."""
        return self.decoder(latents)


def _network(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    # not initialised twice: torch's own starting values would be drawn from its global generator
    first, last = (nn.utils.skip_init(nn.Linear, inputs, width) for width in (inputs, outputs))
    for layer in (first, last):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="leaky_relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.LayerNorm(inputs), nn.LeakyReLU(LEAKY_SLOPE), Dropout(DROPOUT), last)
