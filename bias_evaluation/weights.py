"""Where the trained weights of a method lie, and how to get them where they are missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bias_evaluation.configs import Backbone


@dataclass(frozen=True)
class WeightFile:
    """A weight file that a result needs.

    Attributes
    ----------
    path : pathlib.Path
        The file: in the prompt set's own folder if it is there, else in the release's.
    make : str
        Commands that train or download it.
    """

    path: Path
    make: str


def find(root: Path, kind: str, prompts: str, name: str, make: str) -> WeightFile:
    """Look in ``<kind>_weights/<prompts>/`` (trained here), then in ``<kind>_weights/`` (the release).

    Parameters
    ----------
    root : pathlib.Path
        Project root.
    kind : str
        'sae', 'prism' or 'zsdebias'.
    prompts : str
        Name of the prompt set in use.
    name : str
        File name; a ``.safetensors`` file of the same stem serves as well.
    make : str
        Commands for the error line.
    """
    folder = root / "debiasing_methods" / f"{kind}_weights"
    safe = Path(name).with_suffix(".safetensors").name if name.endswith(".pth") else name
    candidates = [folder / prompts / name, folder / prompts / safe, folder / name, folder / safe]
    found = next((path for path in candidates if path.is_file()), folder / prompts / name)
    return WeightFile(found, make)


def sae_file(root: Path, prompts: str, backbone: Backbone) -> WeightFile:
    """Find the backbone's sparse autoencoder."""
    name = backbone.sae or f"MSAE_{backbone.stem}.pth"
    target = f"debiasing_methods/sae_weights/{prompts}/{name}"
    make = (
        f"train it with `python debiasing_methods/sae_training.py --backbone {backbone.name} "
        f"--output {target} …` "
        f"or fetch the release with `python download_release.py`"
    )
    return find(root, "sae", prompts, name, make)
