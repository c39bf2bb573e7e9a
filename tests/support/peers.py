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
from safe_io.checkout import ROOT
from support.oracle import oracle_folder

SMALL = ROOT / "tests" / "oracle"
WORLDS = {2: "celeba_hair_gender", 7: "fairface_stereotype_race"}


class Cut(dict[str, np.ndarray]):
    """Arrays of the small oracle: tests that need another one are skipped."""

    def __missing__(self, key: str) -> np.ndarray:
        pytest.skip(f"no oracle data: '{key}' is in the large oracle alone")


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
def peer_oracle() -> Callable[[str, int | str], PeerOracle]:
    """Load one: ``peer_oracle("leace", 7)``, or with the name of a setting of the golden world.

    Without the large oracle it is the part of it that ships with the tests (`benchmarks/small_oracle.py`):
    one setting with two classes.
    """
    golden = oracle_folder() / "golden"
    found: dict[Path, dict[str, np.ndarray]] = {}

    def read(path: Path) -> dict[str, np.ndarray]:
        return found.setdefault(path, found.get(path) or _load(path))

    def load(name: str, which: int | str) -> PeerOracle:
        setting = WORLDS.get(which, which)
        if (golden / "peers").is_dir():
            return PeerOracle(read(golden / "peers" / f"{name}.npz"), read(golden / f"{setting}.npz"))
        if setting != WORLDS[2]:
            pytest.skip("no oracle data: set SEM_ORACLE_DIR to the folder that holds official/ and golden/")
        small = Cut({key.removeprefix(f"{name}/"): a for key, a in read(SMALL / "peers.npz").items()})
        world = {k: a for k, a in read(SMALL / "published.npz").items() if not k.startswith("sae/")}
        return PeerOracle(small, world)

    return load
