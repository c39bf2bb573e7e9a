"""The autoencoder of ZSDebias as it is trained; `debiasing_methods.zsdebias` holds it for inference.

Symbols: B rows of a batch, d embedding dimension (and number of latents), μ and σ² mean and variance of the
latents.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

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
        return x * torch.rand_like(x).lt_(keep).div_(keep)


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

    def decode_shuffled(self, kept: Tensor, bias: Tensor, order: Tensor, *, swapped: bool) -> Tensor:
        """Decode the latents of a batch, and both mixtures with one half in another order.

        Parameters
        ----------
        kept, bias : Tensor of shape (B, d/2)
            Halves z_i and z_s of the latents.
        order : Tensor of shape (B,), int64
            A permutation of the rows.
        swapped : bool
            Whether the mixtures are ``[z_s[order], z_i]`` and ``[z_s, z_i[order]]`` instead of
            ``[z_i, z_s[order]]`` and ``[z_i[order], z_s]``.

        Returns
        -------
        Tensor of shape (3, B, d)
            Reconstructions from the latents, the first and the second mixture.

        Notes
        -----
        The first layer is linear, so it is applied to halves, of which the mixtures are sums: two products
        of whole latents instead of three.
        """
        first = self.decoder[0]
        left, right = first.weight.chunk(2, dim=1)
        own_left, own_right = linear(kept, left, first.bias), linear(bias, right)
        plain = own_left + own_right
        if swapped:
            other_left, other_right = linear(bias, left, first.bias), linear(kept, right)
            mixed = (
                other_left.index_select(0, order) + other_right,
                other_left + other_right.index_select(0, order),
            )
        else:
            mixed = own_left + own_right.index_select(0, order), own_left.index_select(0, order) + own_right
        return self.decoder[1:](torch.cat([plain, *mixed])).view(3, len(kept), -1)


def _network(inputs: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    # not initialised twice: torch's own starting values would be drawn from its global generator
    first, last = (nn.utils.skip_init(nn.Linear, inputs, width) for width in (inputs, outputs))
    for layer in (first, last):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="leaky_relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.LayerNorm(inputs), nn.LeakyReLU(LEAKY_SLOPE), Dropout(DROPOUT), last)
