"""A small random world in which every method of the registry can be made and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor

from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages
from debiasing_methods.registry import METHODS
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.zsdebias import DisentanglingVAE, Network

DIM, LATENTS, HIDDEN, CLASSES = 16, 40, 12, 3
N_IMAGES = 1300  # more than the transforms take in one step
OPTIONS: dict[str, dict[str, Any]] = {
    "orth-cali": {"lam": 50.0},
    "bendvlm": {"num_neighbors": 7},
    "bendsem-bi": {"num_neighbors": 7},
    "zsdebias": {"seed": 3},
    "debiaslens-e": {"tau": 0.5},  # a random autoencoder's latents are not so sure of a class
    "sfid": {"m": 5},
}


@dataclass
class World:
    """Groups, images and weights of one dtype; `method` makes a method of the registry with them."""

    groups: list[QueryGroup]
    images: Tensor  # raw
    reference: ReferenceImages
    sae: SparseAutoencoder
    diverse: Tensor
    maps: dict[str, Tensor]
    vae: DisentanglingVAE

    def method(self, name: str, **options: Any) -> DebiasingMethod:
        cls = METHODS[name]
        weights = {
            None: {},
            "sae": {"sae": self.sae} | ({"diverse": self.diverse} if "diverse" in cls.needs else {}),
            "prism": {"maps": self.maps},
            "zsdebias": {"vae": self.vae},
        }[cls.weights]
        return cls(**weights, **(OPTIONS.get(name, {}) | options))

    def text(self, method: DebiasingMethod, groups: list[QueryGroup] | None = None) -> list[Tensor]:
        groups = self.groups if groups is None else groups
        return method.debias_text(groups, self.reference if method.needs_reference else None)

    def transform(
        self, method: DebiasingMethod, groups: list[QueryGroup] | None = None, fold: int = 0
    ) -> ImageTransform:
        groups = self.groups if groups is None else groups
        return method.image_transform(groups, fold, self.reference if method.fits_images else None)

    def prepared(self, method: DebiasingMethod) -> Tensor:
        images = torch.nn.functional.normalize(self.images, dim=1) if method.normalize else self.images
        return method.prepare_images(images)

    def tensors(self) -> list[Tensor]:
        """Every tensor that is handed to methods."""
        found: list[Tensor] = [self.images, self.diverse, *self.maps.values()]
        holders = [*self.groups, self.reference, self.sae, self.vae.encoder, self.vae.decoder]
        for value in (getattr(holder, f.name) for holder in holders for f in fields(holder)):
            found += [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, Tensor)]
        return found


def _make_world(dtype: torch.dtype = torch.float32, seed: int = 0) -> World:
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(DIM, generator=generator, dtype=torch.float64)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)

    def prompts(*shape: int) -> Tensor:  # raw text embeddings are not centred and not unit
        return draw(*shape, DIM) + (2 * drift).to(dtype)

    # shared by the groups
    spurious, bias = prompts(CLASSES), tuple(prompts(5 + c) for c in range(CLASSES))
    attribute = tuple(prompts(4, 1) for _ in range(CLASSES))

    def group(name: str, n_queries: int, pairs: Tensor | None = None) -> QueryGroup:
        return QueryGroup(
            queries=prompts(n_queries),
            name=name,
            spurious=spurious,
            candidates=prompts(n_queries * CLASSES),
            candidate_pairs=pairs,
            augmentations=prompts(n_queries * CLASSES),
            harmful=prompts(4, 2),
            helpful=prompts(2, 2),
            paraphrases=tuple(prompts(4 + q) for q in range(n_queries)),
            bias_prompts=bias,
            attribute_prompts=attribute,
        )

    def network(inputs: int, outputs: int) -> Network:
        return Network(
            draw(HIDDEN, inputs, scale=0.4),
            draw(HIDDEN, scale=0.3),
            1 + draw(HIDDEN, scale=0.2),
            draw(HIDDEN, scale=0.2),
            draw(outputs, HIDDEN, scale=0.4),
            draw(outputs, scale=0.3),
        )

    groups = [group("one", 1), group("two", 1), group("both", 2, torch.tensor([[0, 1], [3, 4], [0, 5]]))]
    images = 3 * draw(N_IMAGES, DIM) + drift.to(dtype)
    labels = torch.randint(0, CLASSES, (N_IMAGES,), generator=generator)
    folds = torch.stack([torch.randperm(N_IMAGES, generator=generator)[: N_IMAGES // 2] for _ in range(3)])
    shared_map = draw(DIM, DIM)
    return World(
        groups=groups,
        images=images,
        reference=ReferenceImages(
            torch.nn.functional.normalize(images, dim=1), labels, ("red", "green", "blue"), folds
        ),
        sae=SparseAutoencoder(
            draw(LATENTS, DIM, scale=0.3), draw(LATENTS), draw(DIM, LATENTS, scale=0.3), draw(DIM)
        ),
        diverse=prompts(30),
        maps={"one": shared_map, "two": shared_map, "both": draw(DIM, DIM)},
        vae=DisentanglingVAE(network(DIM, 2 * DIM), network(DIM, DIM)),
    )


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """Make a world: ``make_world(dtype=torch.float32, seed=0)``; the same arguments, the same world."""
    return _make_world
