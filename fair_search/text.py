"""Raw text embeddings of arbitrary sentences: from a model that is loaded when needed, or from a file.

Symbols: P sentences, d embedding dimension.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from bias_evaluation.embedding.encoder import (
    Encoder,
    check_device,
    describe_missing,
    encoder_digest,
    read_text_embeddings,
)
from bias_evaluation.grid.configs import Backbone
from safe_io.digests import remembered_sha256
from safe_io.errors import InputError


class TruncatedTextWarning(UserWarning):
    """Texts have more tokens than the model reads; the message counts them."""


class TextEmbedder:
    """Raw text embeddings of one backbone, on a device.

    Parameters
    ----------
    backbone : Backbone or None
        Its model is loaded when the first sentence has to be encoded.
    given : pathlib.Path, optional
        A ``.npz`` file with `prompts` (P,) and `embeddings` (P, d), raw; then no model is loaded.
    device : str
        'cpu' or 'cuda'.

    Raises
    ------
    InputError
        There is neither a backbone nor a file, the file cannot be used, or there is no such device.
    """

    def __init__(self, backbone: Backbone | None, *, given: Path | None = None, device: str = "cpu") -> None:
        if backbone is None and given is None:
            raise InputError("text needs a backbone or a file of text embeddings; give one")
        check_device(device)
        self.backbone = backbone
        self.given = given
        self.device = device
        self._kept: dict[str, Tensor] = {}
        self.dim = backbone.dim if backbone else None
        if given is not None:
            sentences, embeddings = read_text_embeddings(given, self.dim)
            self.dim = embeddings.shape[1]
            self.keep(sentences, embeddings)

    @cached_property
    def digest(self) -> str:
        """Digest of what decides an embedding: the file, or the model and its weights."""
        return remembered_sha256(self.given) if self.given else encoder_digest(self.backbone)

    @cached_property
    def encoder(self) -> Encoder:
        """The model, loaded now."""
        return Encoder(self.backbone, device=self.device)

    def keep(self, sentences: Sequence[str], embeddings: Tensor) -> None:
        """Keep the embeddings ``(P, d)`` of sentences that are asked for again and again."""
        self._kept.update(zip(sentences, embeddings.to(self.device), strict=True))

    def embed(self, sentences: Iterable[str], *, keep: bool = False) -> dict[str, Tensor]:
        """Embed distinct sentences together.

        Parameters
        ----------
        sentences : iterable of str
        keep : bool
            Whether to keep what is new: for sentences that do not belong to a query.

        Returns
        -------
        dict of str to Tensor of shape (d,)
            Raw float32 embeddings.

        Raises
        ------
        InputError
            The embeddings come from a file that lacks some.
        """
        wanted = list(dict.fromkeys(sentences))
        missing = [s for s in wanted if s not in self._kept]
        if missing and self.given:
            raise InputError(describe_missing(missing, self.given))
        new = (
            dict(zip(missing, self.encoder.encode_text(missing).to(self.device), strict=True))
            if missing
            else {}
        )
        if keep:
            self._kept.update(new)
        return {s: self._kept.get(s, new.get(s)) for s in wanted}

    def too_long(self, sentences: Sequence[str]) -> int:
        """Count the sentences that the model reads without their end; 0 where no model is used."""
        return 0 if self.given or not sentences else sum(self.encoder.too_long(sentences))


@dataclass(frozen=True)
class Truncation:
    """How many queries, and how many sentences made from them, are too long for the model, of how many."""

    queries: int = 0
    of_queries: int = 0
    sentences: int = 0
    of_sentences: int = 0

    def __add__(self, other: Truncation) -> Truncation:
        """Add the counts of other queries."""
        return Truncation(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def warn(self, stacklevel: int) -> None:
        """Warn, in one line, where anything is too long."""
        if not self.queries and not self.sentences:
            return
        made = f", and {self.sentences} of {self.of_sentences} sentences made from them"
        warnings.warn(
            f"{self.queries} of {self.of_queries} queries{made if self.of_sentences else ''} have more "
            f"tokens than the model reads; their ends were cut off",
            TruncatedTextWarning,
            stacklevel=stacklevel + 1,
        )
