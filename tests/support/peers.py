"""The oracle data of the further methods, with the images, labels and prompts that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from debiasing_methods.base import ReferenceImages

WORLDS = {2: "celeba_hair_gender", 7: "fairface_stereotype_race"}


@dataclass(frozen=True)
class PeerOracle:
    """One file of the oracle (`arrays`) and the golden world (`world`) beside it."""

    arrays: dict[str, np.ndarray]
    world: dict[str, np.ndarray]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name]).to(torch.float64)

    def rows(self, kind: str) -> Tensor:
        """Rows of the reference ("train") or evaluation ("val") half of fold 0."""
        return torch.from_numpy(self.world[f"{kind}_indices"][0].astype(np.int64))

    @property
    def raw(self) -> Tensor:
        return torch.from_numpy(self.world["images"])

    @property
    def labels(self) -> Tensor:
        return torch.from_numpy(self.world["bias_label"].astype(np.int64))

    def unit_rows(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return normalize(self.raw[rows].to(dtype), dim=1)

    @property
    def reference(self) -> ReferenceImages:
        classes = tuple(map(str, range(int(self.labels.max()) + 1)))
        return ReferenceImages(self.raw, self.labels, classes, self.rows("train")[None])


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


@pytest.fixture(scope="session")
def peer_oracle(oracle_dir: Path) -> Callable[[str, int | str], PeerOracle]:
    """Load one: ``peer_oracle("leace", 7)``, or with the name of a setting of the golden world."""
    golden = oracle_dir / "golden"
    if not (golden / "peers").is_dir():
        pytest.skip("no oracle data of further methods")
    found: dict[Path, dict[str, np.ndarray]] = {}

    def load(name: str, world: int | str) -> PeerOracle:
        setting = WORLDS.get(world, world)
        paths = golden / "peers" / f"{name}.npz", golden / f"{setting}.npz"
        return PeerOracle(*(found.setdefault(path, found.get(path) or _load(path)) for path in paths))

    return load
