"""A small project in which ZSDebias is trained by command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

DIM, N_SENTENCES = 12, 40


def generator_of(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(n: int, seed: int = 0) -> Tensor:
    """Images of a colour and a digit: sums of one of 4 and one of 5 directions, and a little noise."""
    generator = generator_of(seed)
    colours, digits = torch.randn(9, DIM, generator=generator_of(99)).split([4, 5])
    colour, digit = (torch.randint(0, k, (n,), generator=generator) for k in (4, 5))
    return colours[colour] + digits[digit] + 0.3 * torch.randn(n, DIM, generator=generator)


def corpus() -> Tensor:
    """Sentences about the colours."""
    colours = torch.randn(9, DIM, generator=generator_of(99))[:4]
    return colours.repeat(N_SENTENCES // 4, 1) + 0.2 * torch.randn(
        N_SENTENCES, DIM, generator=generator_of(7)
    )


@pytest.fixture
def zsdebias_project(tmp_path: Path) -> Path:
    """Make a project folder: backbones, corpora with their text embeddings, and two dataset folders."""
    (tmp_path / "config" / "zsdebias").mkdir(parents=True)
    backbone = f"{{open_clip: RN50, pretrained: openai, openai_name: Ti/ny, dim: {DIM}, quick_gelu: true}}"
    (tmp_path / "config" / "backbones.yml").write_text(f"tiny: {backbone}\n")
    words = [f"word{i}" for i in range(N_SENTENCES)]
    corpora = {
        "color": {"words": {"w": words}, "frames": ["a {w}"]},
        "few": {"words": {"w": words[:9]}, "frames": ["a {w}"]},
        "unknown": {"words": {"w": words}, "frames": ["the {w}"]},
        "ten": {"words": {"w": words[:10]}, "frames": ["a {w}"]},
    }
    (tmp_path / "config" / "zsdebias" / "default.yml").write_text(json.dumps(corpora))
    sentences = np.array([f"a {word}" for word in words])
    np.savez(tmp_path / "text.npz", prompts=sentences, embeddings=corpus().numpy())
    write_dataset(tmp_path / "data" / "A", images_of(80))
    write_dataset(tmp_path / "data" / "B", images_of(40, seed=1).half())
    return tmp_path


def write_dataset(folder: Path, images: Tensor) -> None:
    folder.mkdir(parents=True)
    names = [f"{i}.png" for i in range(len(images))]
    pd.DataFrame({"file_name": names, "file_path": names}).to_feather(folder / "metadata.feather")
    np.save(folder / "CLIP_tiny_embeddings.npy", images.numpy())


def zsdebias_arguments(project: Path, *more: object, datasets: tuple[str, ...] = ("A", "B")) -> list[str]:
    arguments = ["--dataset-paths", *(project / "data" / name for name in datasets), "--backbone", "Ti/ny"]
    arguments += ["--backbones-file", project / "config" / "backbones.yml"]
    arguments += ["--text-embeddings", project / "text.npz", "--epochs", 4, "--patience", 3, "--bs", 32]
    arguments += ["--lr", 1e-2, "--weight-decay", 1e-5]
    attribute = () if "--bias-attribute" in more else ("--bias-attribute", "color")
    return [str(argument) for argument in (*arguments, *attribute, *more)]
