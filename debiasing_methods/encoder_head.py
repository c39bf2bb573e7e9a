"""The last layers of an encoder, from the pooled token to the embedding.

After the last block of a transformer no token sees another. Its output at the pooled token, the residual v,
therefore decides the embedding: ``e = ln(v)W + b``. From stored residuals an embedding can be edited in front
of the projection, or given a variance, without a pass through the encoder.

Symbols: n rows, w width of the residual stream, p width of the features, d embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import layer_norm


@dataclass(frozen=True, eq=False)
class EncoderHead:
    """Layer norm and projection of one tower.

    Attributes
    ----------
    norm_weight, norm_bias : Tensor of shape (w,), float32
        Of the layer norm ln.
    eps : float
        Of the layer norm.
    weight : Tensor of shape (w, d), float32
        W.
    bias : Tensor of shape (d,), float32, or None
        b; most towers have none.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    eps: float
    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that the shapes go together."""
        w, d = self.weight.shape
        shapes = [tuple(self.norm_weight.shape), tuple(self.norm_bias.shape)]
        if shapes != [(w,), (w,)] or (self.bias is not None and self.bias.shape != (d,)):
            raise ValueError(
                f"a projection ({w}, {d}) needs a layer norm ({w},), got {shapes[0]}, {shapes[1]}"
            )

    @property
    def width(self) -> int:
        """Width w of the residual stream."""
        return self.weight.shape[0]

    @property
    def projection(self) -> Tensor:
        """Matrix ``(p, d)`` that takes features to embeddings: W, with b, if any, as last row."""
        return self.weight if self.bias is None else torch.cat([self.weight, self.bias[None]])

    def features(self, residuals: Tensor) -> Tensor:
        """Features φ ``(n, p)`` of residuals ``(n, w)``: ``ln(v)``, with a column of ones for b, if any."""
        normed = layer_norm(residuals, (self.width,), self.norm_weight, self.norm_bias, self.eps)
        return normed if self.bias is None else torch.cat([normed, torch.ones_like(normed[:, :1])], dim=1)

    def embeddings(self, residuals: Tensor) -> Tensor:
        """Raw embeddings ``e = ln(v)W + b``, ``(n, d)``, of residuals ``(n, w)``."""
        return self.features(residuals) @ self.projection

    def to(self, device: str | torch.device) -> EncoderHead:
        """Return a copy on another device."""
        bias = None if self.bias is None else self.bias.to(device)
        parts = (self.norm_weight.to(device), self.norm_bias.to(device))
        return EncoderHead(*parts, self.eps, self.weight.to(device), bias)
