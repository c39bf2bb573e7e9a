"""Raw text embeddings of one backbone: from a model loaded when needed, from disk, or from a file.

Symbols: P prompts, d embedding dimension. Embeddings are raw (not normalized) float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.embedding.encoder import Encoder, check_device
from bias_evaluation.embedding.identity import encoder_digest
from bias_evaluation.grid.configs import Backbone
from safe_io.arrays import check_matrix, existing, finite_rows, load_arrays
from safe_io.digests import remembered_sha256
from safe_io.errors import InputError
from safe_io.files import atomic_path
from safe_io.locks import claim, remove_abandoned

SHOW_PROGRESS_FROM = 256  # prompts


class TextStore:
    """Raw text embeddings of one backbone; each prompt is encoded once.

    Parameters
    ----------
    backbone : Backbone or None
        Its model is loaded when the first prompt has to be encoded. Not needed with `given`.
    cache_dir : pathlib.Path, optional
        Folder of the embeddings that are kept on disk; one file for each backbone and checkpoint. Without it
        they are kept in memory.
    device : str
        Where to encode what is new: 'cpu' or 'cuda'.
    given : pathlib.Path, optional
        A file that supplies the embeddings (``--text-embeddings``): arrays `prompts` (P,) and `embeddings`
        (P, d), raw. No model is loaded then, and a prompt that is not in it is an error.
    residuals : bool
        Keep what the last block of the text tower gives at the pooled token, ``(P, w)``, and not the
        embeddings (`Encoder.encode_text`); `dim` is then known when the first prompt is.

    Attributes
    ----------
    dim : int
        Width d.
    path : pathlib.Path or None
        File of the embeddings.

    Raises
    ------
    InputError
        There is neither a backbone nor a file, a file cannot be used, or there is no such device.
    """

    def __init__(
        self,
        backbone: Backbone | None,
        cache_dir: Path | None = None,
        *,
        device: str = "cpu",
        given: Path | None = None,
        residuals: bool = False,
    ) -> None:
        if backbone is None and given is None:
            raise InputError("text needs a backbone or a file of text embeddings; give one")
        check_device(device)
        self.backbone, self.given, self.device, self._residuals = backbone, given, device, residuals
        self.path = given
        if given is None and cache_dir is not None:
            suffix = "_residuals" if residuals else ""
            self.path = cache_dir / f"CLIP_{backbone.name}_{self.digest[:12]}{suffix}.npz"
            remove_abandoned(cache_dir)
        self.dim = backbone.dim if backbone and not residuals else None
        self._rows: dict[str, int] = {}
        self._embeddings = torch.empty(0, self.dim or 0)
        if given is not None:
            _ = self.digest  # before the file is read: what changes in between is stale the next time
        self._read()

    @cached_property
    def digest(self) -> str:
        """Digest of what decides an embedding: the given file, or the model and its weights."""
        if self.given is not None:
            return remembered_sha256(existing(self.given, "text embeddings"))
        return encoder_digest(self.backbone)

    @cached_property
    def encoder(self) -> Encoder:
        """The model; loaded now, and kept in memory."""
        return Encoder(self.backbone, device=self.device)

    def _read(self) -> None:
        """Take over what is on disk and not here yet; what is here has been written there before."""
        if self.path is None or not self.path.is_file():
            return
        prompts, embeddings = read_text_embeddings(self.path, self.dim)
        self.dim = embeddings.shape[1]
        new = [row for row, prompt in enumerate(prompts) if prompt not in self._rows]
        self._add([prompts[row] for row in new], embeddings[new])

    def _add(self, prompts: Sequence[str], embeddings: Tensor) -> None:
        start = len(self._rows)
        self._rows.update({prompt: start + i for i, prompt in enumerate(prompts)})
        self.dim = embeddings.shape[1] if self.dim is None else self.dim
        self._embeddings = torch.cat([self._embeddings.reshape(start, self.dim), embeddings])

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """Distinct prompts that are not there yet, in order."""
        return [p for p in dict.fromkeys(prompts) if p not in self._rows]

    def ensure(self, prompts: Iterable[str]) -> None:
        """Encode the prompts that are not there yet, together, and keep them.

        Raises
        ------
        InputError
            Some are missing and the embeddings come from a given file.
        """
        missing = self._missing(prompts)
        if not missing:
            return
        if self.path is None:
            self.keep(missing, self._encode(self.encoder, missing))
            return
        with claim(self.path, wait=True):  # another run may be writing the same file
            self._read()
            if missing := self.missing(missing):
                # The next run reads these from disk, and so does most of this one: no model stays in memory.
                encoder = Encoder(self.backbone, device=self.device)
                self.keep(missing, self._encode(encoder, missing, progress=len(missing) > SHOW_PROGRESS_FROM))

    def _encode(self, encoder: Encoder, prompts: Sequence[str], **options: bool) -> Tensor:
        return encoder.encode_text(prompts, **options, **({"residuals": True} if self._residuals else {}))

    def _missing(self, prompts: Iterable[str]) -> list[str]:
        """Find what has to be encoded; `InputError` if nothing can be."""
        missing = self.missing(prompts)
        if missing and self.given is not None:
            raise InputError(describe_missing(missing, self.given))
        return missing

    def keep(self, prompts: Sequence[str], embeddings: Tensor) -> None:
        """Add prompts that are not there yet, with their raw embeddings ``(P, d)``, here and on disk."""
        self._add(prompts, embeddings)
        if self.path is not None:
            write_text_embeddings(self.path, list(self._rows), self._embeddings)

    def embed(self, prompts: Sequence[str], *, keep: bool = True) -> Tensor:
        """Embed prompts, encoding together those that are not there yet.

        Parameters
        ----------
        prompts : sequence of str
            P prompts; may repeat.
        keep : bool
            Whether to keep what is new. False is for prompts that are not asked for again.

        Returns
        -------
        Tensor of shape (P, d), float32

        Raises
        ------
        InputError
            Some are missing and the embeddings come from a given file.
        """
        if keep:
            self.ensure(prompts)
        rows, embeddings = self._rows, self._embeddings
        if not keep and (missing := self._missing(prompts)):
            rows = rows | {prompt: len(rows) + i for i, prompt in enumerate(missing)}
            embeddings = torch.cat([embeddings, self._encode(self.encoder, missing)])
        return embeddings[[rows[p] for p in prompts]]

    def too_long(self, prompts: Sequence[str]) -> int:
        """Count the prompts that the model reads without their end; 0 if no model is used."""
        return 0 if self.given or not prompts else sum(self.encoder.too_long(prompts))


def describe_missing(missing: Sequence[str], path: Path) -> str:
    """One line that counts missing prompts and shows the first three."""
    shown = "; ".join(f"'{p}'" for p in missing[:3])
    return f"{len(missing)} prompt(s) have no embedding in {path}, the first: {shown}"


def read_text_embeddings(path: Path, dim: int | None = None) -> tuple[list[str], Tensor]:
    """Read text embeddings from a ``.npz`` file.

    Parameters
    ----------
    path : pathlib.Path
        Arrays `prompts` (P,), text, and `embeddings` (P, d), floating point, raw.
    dim : int, optional
        Width d that is needed; any by default.

    Returns
    -------
    prompts : list of str
    embeddings : Tensor of shape (P, d), float32

    Raises
    ------
    InputError
        The file is damaged, an array is missing or of the wrong kind, or values are not finite.
    """
    prompts, embeddings = load_arrays(path, "text embeddings", ("prompts", "embeddings"))
    if prompts.dtype.kind != "U" or prompts.ndim != 1 or embeddings.dtype.kind != "f":
        raise InputError(f"{path}: 'prompts' must be a list of texts and 'embeddings' a float matrix")
    check_matrix(embeddings, path, dim)
    if len(embeddings) != len(prompts):
        raise InputError(f"{path}: {len(prompts)} prompts, but {len(embeddings)} rows of embeddings")
    if len(set(prompts.tolist())) != len(prompts):
        raise InputError(f"{path}: a prompt appears in 'prompts' twice")
    return prompts.tolist(), finite_rows(embeddings, path)


def write_text_embeddings(path: Path, prompts: Sequence[str], embeddings: Tensor) -> None:
    """Write text embeddings in the form that `read_text_embeddings` reads, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, prompts=np.asarray(prompts), embeddings=embeddings.numpy())
