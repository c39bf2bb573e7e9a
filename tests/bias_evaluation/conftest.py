"""A tiny CLIP model that is made here, so that no test needs weights from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bias_evaluation.configs import Backbone

DIM = 8
MODEL = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Keep tiny products on one thread: on a busy machine more threads make them ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def save_tiny_clip() -> Callable[..., None]:
    """Write a model config and a checkpoint: ``save_tiny_clip(config, checkpoint, seed=0)``."""

    def save(config: Path, checkpoint: Path, seed: int = 0) -> None:
        import open_clip

        config.write_text(json.dumps(MODEL))
        open_clip.add_model_config(config)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = open_clip.create_model(config.stem)
        torch.save(model.state_dict(), checkpoint)

    return save


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory, save_tiny_clip: Callable[..., None]) -> Path:
    """Folder with a model of 400,000 parameters: ``tiny_test_clip.json`` and ``tiny.pt``; read only."""
    folder = tmp_path_factory.mktemp("tiny_clip")
    save_tiny_clip(folder / "tiny_test_clip.json", folder / "tiny.pt")
    return folder


@pytest.fixture(scope="session")
def make_backbone(tiny_clip: Path) -> Callable[..., Backbone]:
    """Make a backbone of the tiny model, with changes."""

    def make(**changes: Any) -> Backbone:
        fields = {
            "name": "tiny",
            "stem": "tiny",
            "open_clip": str(tiny_clip / "tiny_test_clip.json"),
            "pretrained": None,
            "checkpoint": tiny_clip / "tiny.pt",
            "dim": DIM,
            "quick_gelu": True,
            "sae": None,
            "openai_name": "tiny",
        }
        return Backbone(**fields | changes)

    return make
