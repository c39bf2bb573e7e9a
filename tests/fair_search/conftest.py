"""A tiny text model with random weights for every method, as files of a user would be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.world_parts import random_sae

from bias_evaluation.weights.read import save_sae
from debiasing_methods.registry import METHODS
from fair_search import Debiaser, load_debiaser
from safe_io.files import save_weights

DIM, LATENTS, HIDDEN, CONTEXT = 32, 60, 12, 40
TEXT_MODEL = {"context_length": CONTEXT, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
NETWORKS = {"encoder": (DIM, 2 * DIM), "decoder": (DIM, DIM)}


@dataclass(frozen=True)
class SearchWorld:
    """Files of a search system; `load` loads a method with its weights."""

    folder: Path
    backbone: tuple[str, str]
    images: np.ndarray
    labels: np.ndarray

    def weights(self, method: str) -> Path | None:
        kind = METHODS[method].weights
        return None if kind is None else self.folder / f"{kind}.safetensors"

    def load(self, method: str, bias: Any = "gender", **options: Any) -> Debiaser:
        given = {"backbone": self.backbone, "weights": self.weights(method)} | options
        return load_debiaser(method, bias=bias, **given)


@pytest.fixture(scope="session")
def search_world(
    tmp_path_factory: pytest.TempPathFactory, save_tiny_clip: Callable[..., None]
) -> SearchWorld:
    """Make the files once; read only."""
    folder = tmp_path_factory.mktemp("search")
    model, checkpoint = folder / "tiny_search_clip.json", folder / "model.pt"
    save_tiny_clip(model, checkpoint, embed_dim=DIM, text_cfg=TEXT_MODEL)
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=draw)

    save_sae(folder / "sae.safetensors", random_sae(DIM, LATENTS, draw, [0.3] * 4))
    save_weights(folder / "prism.safetensors", {"transformer.weight": random(DIM, DIM)})
    vae = {}
    for part, (inputs, outputs) in NETWORKS.items():
        shapes = {
            "0.weight": (HIDDEN, inputs),
            "0.bias": (HIDDEN,),
            "1.weight": (HIDDEN,),
            "1.bias": (HIDDEN,),
            "4.weight": (outputs, HIDDEN),
            "4.bias": (outputs,),
        }
        vae |= {f"{part}.{name}": random(*shape) for name, shape in shapes.items()}
    save_weights(folder / "zsdebias.safetensors", vae)
    images = (3 * random(50, DIM)).numpy()
    labels = np.array(["Male", "Female"] * 25, dtype=object)
    np.save(folder / "images.npy", images)
    return SearchWorld(folder, (str(model), str(checkpoint)), images, labels)
