"""ZSDebias: images pass through a variational autoencoder that has noise in the place of its bias latents.

Symbols: n images, d embedding dimension (and number of latents), x an image as stored, z = [z_i, z_s] its
latents in halves of d/2 (i kept, s replaced), μ and σ² their mean and variance, n(x) = x/‖x‖₂.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, leaky_relu, linear

from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages
from debiasing_methods.chunks import chunks
from debiasing_methods.linalg import unit

LEAKY_SLOPE = 0.3

# Rows that share one noise generator. Part of what a seed means: another value gives other draws. A block is
# drawn whole, so chunks of images that end with blocks draw nothing twice.
NOISE_BLOCK_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Network:
    """``Linear → LayerNorm → LeakyReLU(0.3) → Linear`` for inference (dropout is off).

    Attributes
    ----------
    weight_in : Tensor of shape (h, d)
    bias_in, scale, shift : Tensor of shape (h,)
        Of the first linear layer, and of the layer norm.
    weight_out : Tensor of shape (o, h)
    bias_out : Tensor of shape (o,)
    """

    weight_in: Tensor
    bias_in: Tensor
    scale: Tensor
    shift: Tensor
    weight_out: Tensor
    bias_out: Tensor

    def __post_init__(self) -> None:
        """Check that the layers fit together."""
        h, o = self.weight_in.shape[0], self.weight_out.shape[0]
        shapes = [tuple(getattr(self, field.name).shape) for field in fields(self)][1:]
        if shapes != [(h,), (h,), (h,), (o, h), (o,)]:
            raise ValueError(
                f"layers of shapes {tuple(self.weight_in.shape)}, {str(shapes)[1:-1]} do not fit together"
            )

    def hidden(self, x: Tensor) -> Tensor:
        """Activations ``(n, h)`` of inputs ``(n, d)``, in their dtype."""
        x = linear(x, self.weight_in.to(x), self.bias_in.to(x))
        x = layer_norm(x, x.shape[-1:], self.scale.to(x), self.shift.to(x))
        return leaky_relu(x, LEAKY_SLOPE)

    def output(self, hidden: Tensor, rows: slice = slice(None)) -> Tensor:
        """Apply the last layer, or only some rows of it, to activations ``(n, h)``."""
        return linear(hidden, self.weight_out[rows].to(hidden), self.bias_out[rows].to(hidden))

    def to(self, device: str | torch.device) -> Network:
        """Return a copy on another device."""
        return Network(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class DisentanglingVAE:
    """The trained autoencoder of ZSDebias, for inference.

    Attributes
    ----------
    encoder : Network
        Input d, output 2d: μ, then log σ².
    decoder : Network
        Input d, output d.
    tanh : bool
        Whether a tanh follows the decoder: only where the model was trained on normalised embeddings.
    """

    encoder: Network
    decoder: Network
    tanh: bool = False

    def __post_init__(self) -> None:
        """Check that encoder and decoder fit together."""
        d = self.dim
        got = [
            self.encoder.weight_out.shape[0],
            self.decoder.weight_in.shape[1],
            self.decoder.weight_out.shape[0],
        ]
        if d % 2 or got != [2 * d, d, d]:
            raise ValueError(
                f"an encoder of inputs of width {d} (which must be even) needs {2 * d} outputs and a decoder "
                f"from {d} to {d}; got {got[0]} outputs and a decoder from {got[1]} to {got[2]}"
            )

    @property
    def dim(self) -> int:
        """Embedding dimension d."""
        return self.encoder.weight_in.shape[1]

    def kept_moments(self, images: Tensor) -> Tensor:
        """Mean and standard deviation of the kept latents: ``[μ_i, σ_i]`` of shape (n, d) for images (n, d).

        Only the rows of the last layer that give them are evaluated, half of them.
        """
        half, hidden = self.dim // 2, self.encoder.hidden(images)
        mean = self.encoder.output(hidden, slice(0, half))
        log_variance = self.encoder.output(hidden, slice(self.dim, self.dim + half))
        return torch.cat([mean, torch.exp(log_variance / 2)], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """Embeddings ``(n, d)`` of latents ``(n, d)``."""
        decoded = self.decoder.output(self.decoder.hidden(latents))
        return torch.tanh(decoded) if self.tanh else decoded

    def to(self, device: str | torch.device) -> DisentanglingVAE:
        """Return a copy on another device."""
        return DisentanglingVAE(self.encoder.to(device), self.decoder.to(device), self.tanh)


def noise(seed: int, fold: int, first_row: int, n: int, d: int) -> Tensor:
    """Draw the standard normal noise of some rows, the same however the rows are split into calls.

    Parameters
    ----------
    seed, fold : int
        Of the run, at least 0; nothing else decides the draws.
    first_row, n : int
        Which rows of an endless list.
    d : int
        Width of a row; another width gives other draws.

    Returns
    -------
    Tensor of shape (n, d), float32, on the CPU

    Notes
    -----
    Each block of `NOISE_BLOCK_ROWS` rows has a generator of its own, seeded by a mix of (seed, fold, block).
    """
    blocks = range(first_row // NOISE_BLOCK_ROWS, -(-(first_row + n) // NOISE_BLOCK_ROWS))
    if not blocks:
        return torch.empty(0, d)
    drawn = torch.cat([_noise_block(seed, fold, block, d) for block in blocks])
    start = first_row - blocks[0] * NOISE_BLOCK_ROWS
    return drawn[start : start + n]


def _noise_block(seed: int, fold: int, block: int, d: int) -> Tensor:
    # neighbouring seeds would do for the generator, but (seed 0, fold 1) and (seed 1, fold 0) must differ too
    mixed = int(np.random.SeedSequence([seed, fold, block]).generate_state(1)[0])
    return torch.randn(NOISE_BLOCK_ROWS, d, generator=torch.Generator().manual_seed(mixed))


class ResampledTransform(ImageTransform):
    """Draw the latents, decode, normalise; the same for every group.

    Parameters
    ----------
    vae : DisentanglingVAE
    seed, fold : int
        What the noise belongs to.
    """

    def __init__(self, vae: DisentanglingVAE, *, seed: int, fold: int) -> None:
        self.vae = vae
        self.seed = seed
        self.fold = fold

    def apply(self, images: Tensor, group: int = 0, first_row: int = 0) -> Tensor:
        """Return unit images ``(n, d)`` for rows ``[μ_i, σ_i]`` of `ZSDebias.prepare_images`."""
        debiased = torch.empty_like(images)
        for rows in chunks(len(images)):
            mean, deviation = images[rows].chunk(2, dim=1)
            draws = noise(self.seed, self.fold, first_row + rows.start, len(mean), self.vae.dim).to(images)
            kept, replaced = draws.chunk(2, dim=1)
            debiased[rows] = unit(self.vae.decode(torch.cat([mean + deviation * kept, replaced], dim=1)))
        return debiased

    def scores(self, images: Tensor, text: Sequence[Tensor], first_row: int = 0) -> Tensor:
        """Cosines with the queries of all groups: one product, since all groups have the same images."""
        queries = unit(torch.cat(list(text)).to(images)).T
        cosines = images.new_empty(len(images), queries.shape[1])
        for rows in chunks(len(images)):
            cosines[rows] = self.apply(images[rows], first_row=first_row + rows.start) @ queries
        return cosines


class ZSDebias(DebiasingMethod):
    """ZSDebias: replace the bias half of an image's latents by noise.

    Source: Jang, Jung and Wang, "Target Bias Is All You Need: Zero-Shot Debiasing of Vision-Language
    Models with Bias Corpus", ICCV 2025. The release of SEM (arXiv:2603.19028) holds weights of it.

    Parameters
    ----------
    vae : DisentanglingVAE
        Trained on image embeddings as stored, not normalised.
    seed : int
        Of the run, at least 0. The noise depends on it, on the fold and on a row's position, on nothing else.

    Notes
    -----
    Text ``n(q)``. Image: ``z_i = μ_i + ε·σ_i`` with ``ε ~ N(0, I)``, also at inference; ``z_s ~ N(0, I)``;
    the result is ``n(decoder([z_i, z_s]))``. Noise hides what the second half held; nothing is promised of
    what bias the first half still holds.

    Differs from the published code: the noise is drawn once per fold from a seeded generator; the published
    code draws for each query and fold from the global one, so its results cannot be repeated singly.
    """

    name = "zsdebias"
    display_name = "ZSDebias"
    group = "bias-prompts"
    seeded = True
    weights = "zsdebias"
    changes_images = True
    normalize = False
    random_images = True

    def __init__(self, *, vae: DisentanglingVAE, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.vae = vae
        self.seed = seed

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Return the unit queries."""
        self.check(groups)
        return [unit(group.queries) for group in groups]

    def prepare_images(self, images: Tensor) -> Tensor:
        """Encode images as stored, ``(n, d)``, into ``[μ_i, σ_i]`` of the kept latents, ``(n, d)``."""
        if images.shape[1] != self.vae.dim:
            raise ValueError(
                f"images of width {images.shape[1]} do not go with a model of width {self.vae.dim}"
            )
        prepared = torch.empty_like(images)
        for rows in chunks(len(images)):
            prepared[rows] = self.vae.kept_moments(images[rows])
        return prepared

    def image_transform(
        self, groups: Sequence[QueryGroup], fold: int = 0, reference: ReferenceImages | None = None
    ) -> ImageTransform:
        """Make the transform that draws the noise of a fold; one for all groups."""
        return ResampledTransform(self.vae, seed=self.seed, fold=fold)
