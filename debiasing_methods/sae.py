"""The Matryoshka sparse autoencoder that SEM works in.

Symbols: d embedding dimension, s latents, W_e (s, d), W_d (d, s), b_pre (d,), b_e (s,).
``h(x) = relu(W_e (x − b_pre) + b_e)`` and ``dec(h) = W_d h + b_pre``; inference uses all latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """An SAE for inference (MSAE: Zaigrajew et al., ICML 2025, arXiv:2502.20578).

    Attributes
    ----------
    encoder_weight : Tensor of shape (s, d), float32
    encoder_bias : Tensor of shape (s,), float32
    decoder_weight : Tensor of shape (d, s), float32
    pre_bias : Tensor of shape (d,), float32
    threshold : float
        θ: latents up to it count as 0 (BatchTopK autoencoders, arXiv:2412.06410); 0 keeps all positive ones.
    """

    encoder_weight: Tensor
    encoder_bias: Tensor
    decoder_weight: Tensor
    pre_bias: Tensor
    threshold: float = 0.0

    def __post_init__(self) -> None:
        """Check that the shapes go together."""
        s, d = self.encoder_weight.shape
        shapes = [tuple(t.shape) for t in (self.encoder_bias, self.decoder_weight, self.pre_bias)]
        if shapes != [(s,), (d, s), (d,)]:
            raise ValueError(
                f"an SAE with encoder.weight ({s}, {d}) needs encoder.bias ({s},), decoder.weight ({d}, {s}) "
                f"and bpre ({d},); got {shapes[0]}, {shapes[1]} and {shapes[2]}"
            )

    @property
    def dim(self) -> int:
        """Embedding dimension d."""
        return self.encoder_weight.shape[1]

    @property
    def n_latents(self) -> int:
        """Number of latents s."""
        return self.encoder_weight.shape[0]

    def encode(self, x: Tensor) -> Tensor:
        """Latents of raw embeddings.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Raw embeddings.

        Returns
        -------
        Tensor of shape (n, s)
            Non-negative latents, all that are above the threshold (no top-k).
        """
        latents = torch.relu((x - self.pre_bias) @ self.encoder_weight.T + self.encoder_bias)
        return latents * (latents > self.threshold) if self.threshold > 0 else latents

    def decode(self, latents: Tensor) -> Tensor:
        """Raw embeddings ``(n, d)`` of latents ``(n, s)``."""
        return latents @ self.decoder_weight.T + self.pre_bias

    def to(self, device: str | torch.device) -> SparseAutoencoder:
        """Return a copy on another device."""
        parts = (self.encoder_weight, self.encoder_bias, self.decoder_weight, self.pre_bias)
        return SparseAutoencoder(*(part.to(device) for part in parts), self.threshold)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors under the release's names."""
        threshold = {"threshold": torch.tensor([self.threshold])} if self.threshold > 0 else {}
        return {
            "bpre": self.pre_bias,
            "encoder.weight": self.encoder_weight,
            "encoder.bias": self.encoder_bias,
            "decoder.weight": self.decoder_weight,
            **threshold,
        }
