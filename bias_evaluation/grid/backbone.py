"""`Backbone`: a CLIP model as the other modules name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Backbone:
    """A CLIP model.

    Attributes
    ----------
    name : str
        Name in embedding and weight files.
    stem : str
        Name in result files.
    open_clip : str
        open_clip model name (``hf-hub:`` and ``local-dir:`` too), or the path of a model config (JSON).
    pretrained : str or None
        open_clip pretrained tag.
    checkpoint : pathlib.Path or None
        Local checkpoint file, instead of a tag.
    dim : int
        Embedding dimension d.
    quick_gelu : bool
        Whether the weights were trained with QuickGELU (OpenAI's were).
    sae : str or None
        File name of its sparse autoencoder.
    openai_name : str
        Name in the published flat configs; the plain name where there is none.
    pixels : tuple of (str, object)
        Settings of ``PIXEL_KEYS`` that the entry gives, where they are not to be looked for
        (`bias_evaluation.datasets.pixels`).
    resize_positions : bool
        Whether weights of another image size or context length may have their position embeddings resized.
    """

    name: str
    stem: str
    open_clip: str
    pretrained: str | None
    checkpoint: Path | None
    dim: int
    quick_gelu: bool
    sae: str | None
    openai_name: str
    pixels: tuple[tuple[str, Any], ...] = ()
    resize_positions: bool = False

    @property
    def option(self) -> str:
        """What ``--backbone`` takes for it: its name, or for a model without an entry what describes it."""
        if ":" in self.open_clip:
            return self.open_clip
        described = f"{self.open_clip}--{self.pretrained}" == self.name
        return f"{self.open_clip}:{self.pretrained}" if described else self.name
