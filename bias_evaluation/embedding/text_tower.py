"""Text embeddings of causal towers, computed on distinct tokens only.

In a tower with causal attention that pools at the end-of-text token, a token's hidden state depends on the
tokens before it alone. Two things follow: what comes after the pooled token (the padding) need not be
computed, and sentences with the same beginning share its hidden states. Sentences are therefore sorted by
their tokens and packed. A pack is one sequence that holds each distinct beginning once, with an attention
mask that lets a token see only its own sentence's beginning. The result is that of the padded batch, up to
the order of sums.

Symbols: P prompts, T context length, N tokens of a pack, d embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bias_evaluation.embedding.residuals import padded_text_residuals

# Larger packs share more, but attention within a pack grows with the square of its size.
PACK_TOKENS = 256
PADDED_BATCH = 256


class CausalTower(NamedTuple):
    """A text tower whose embeddings depend only on the tokens up to the pooled one.

    Attributes
    ----------
    module : nn.Module
        Holds the tower's parts under the names that open_clip gives them.
    eos_id : int or None
        The pooled token is the first with this id; None: the first with the highest id.
    """

    module: nn.Module
    eos_id: int | None

    def pooled_positions(self, tokens: Tensor) -> Tensor:
        """Position ``(P,)`` of the token that each row of ``(P, T)`` is pooled at."""
        return (tokens if self.eos_id is None else (tokens == self.eos_id).int()).argmax(dim=1)


def causal_tower(model: nn.Module) -> CausalTower | None:
    """Return the text tower of an open_clip model if leaving out the padding is exact, else None.

    It is exact if the attention mask is causal, and the pooled token is the first with the highest id or the
    first end-of-text token. It is not for bidirectional towers (SigLIP), towers with a class token behind the
    padding (CoCa), towers that pool at a fixed position, and towers of other libraries.
    """
    from open_clip import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    encode = type(model).encode_text
    if encode is CLIP.encode_text:
        tower, pooling, eos_id = model, model.text_pool_type, model.text_eos_id
    elif encode is CustomTextCLIP.encode_text and type(model.text) is TextTransformer:
        tower, pooling, eos_id = model.text, model.text.pool_type, model.text.eos_id
    else:
        return None
    if pooling not in ("argmax", "eos") or getattr(tower, "cls_emb", None) is not None:
        return None
    if not _is_causal(tower.attn_mask, len(tower.positional_embedding)):
        return None
    return CausalTower(tower, eos_id if pooling == "eos" else None)


def _is_causal(mask: Tensor | None, length: int) -> bool:
    """Whether an additive mask is 0 up to the diagonal and -inf above it."""
    if mask is None:
        return False
    causal = torch.full((length, length), -torch.inf, dtype=mask.dtype, device=mask.device).triu_(1)
    return torch.equal(mask, causal)


def encode_tokens(
    model: nn.Module, tokens: Tensor, device: str, *, progress: bool = False, residuals: bool = False
) -> Tensor:
    """Encode tokenized prompts.

    Parameters
    ----------
    model : nn.Module
        An open_clip model in evaluation mode.
    tokens : Tensor of shape (P, T), int64
        As the model's tokenizer gives them, on the CPU.
    device : str
        Where the model is.
    progress : bool
        Show a progress bar.
    residuals : bool
        Return what the last block gives at the pooled token, ``(P, w)``, and not the embeddings; for the
        towers that `residuals.text_head` takes.

    Returns
    -------
    Tensor of shape (P, d), float32, on the CPU
        Raw embeddings in the order of the prompts. Which prompts are encoded together changes an embedding by
        rounding only: in float32 by less than 1e-6 of its norm.
    """
    tower = causal_tower(model)
    if tower is None:
        parts = _padded(model, tokens, device, residuals)
    else:
        parts = _packed(tower, tokens, device, residuals)
    rows, embeddings = [], []
    with tqdm(total=len(tokens), desc="encoding text", unit="prompt", disable=not progress) as bar:
        for part_rows, part in parts:
            rows.append(part_rows)
            embeddings.append(part.float().cpu())
            bar.update(len(part_rows))
    return torch.cat(embeddings)[torch.cat(rows).argsort()]


def _padded(
    model: nn.Module, tokens: Tensor, device: str, residuals: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and their embeddings, from batches of the whole context length."""
    for rows in torch.arange(len(tokens)).split(PADDED_BATCH):
        batch = tokens[rows].to(device)
        yield rows, padded_text_residuals(model, batch) if residuals else model.encode_text(batch)


def _packed(
    tower: CausalTower, tokens: Tensor, device: str, residuals: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and their embeddings, from packs."""
    ends = tower.pooled_positions(tokens).tolist()
    sentences = [row[: end + 1] for row, end in zip(tokens.tolist(), ends, strict=True)]
    for pack in packs(sentences):
        at_the_end = _encode_pack(tower.module, pack, device)
        yield torch.tensor(pack.rows), at_the_end if residuals else _project(tower.module, at_the_end)


@dataclass
class Pack:
    """Sentences that are encoded together; each distinct beginning is there once.

    Attributes
    ----------
    tokens, positions : list of int
        Ids of the N tokens, and their positions in their sentences.
    beginnings : list of list of int
        For each token, where it and the tokens before it are in the pack.
    rows, ends : list of int
        The sentences, and where the last token of each is in the pack.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    beginnings: list[list[int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def add(self, row: int, sentence: list[int], shared: int) -> None:
        """Add a sentence whose first `shared` tokens are those of the sentence added before it."""
        beginning = self.beginnings[self.ends[-1]][:shared] if shared else []
        for position in range(shared, len(sentence)):
            beginning = [*beginning, len(self.tokens)]
            self.tokens.append(sentence[position])
            self.positions.append(position)
            self.beginnings.append(beginning)
        self.rows.append(row)
        self.ends.append(beginning[-1])

    def mask(self) -> Tensor:
        """Additive attention mask ``(N, N)``: 0 for a token and those before it, -inf elsewhere."""
        mask = np.full((len(self.tokens), len(self.tokens)), -np.inf, dtype=np.float32)
        for token, beginning in enumerate(self.beginnings):
            mask[token, beginning] = 0
        return torch.from_numpy(mask)


def packs(sentences: list[list[int]], size: int | None = None) -> Iterator[Pack]:
    """Pack tokenized sentences, none empty, into packs of at most `size` tokens (or one sentence).

    The default size is `PACK_TOKENS`.
    """
    size = PACK_TOKENS if size is None else size
    pack, before = Pack(), []
    for row in sorted(range(len(sentences)), key=sentences.__getitem__):
        sentence = sentences[row]
        shared = _shared_beginning(before, sentence)
        if pack.rows and len(pack.tokens) + len(sentence) - shared > size:
            yield pack
            pack, shared = Pack(), 0
        pack.add(row, sentence, shared)
        before = sentence
    if pack.rows:
        yield pack


def _shared_beginning(first: list[int], second: list[int]) -> int:
    """Count the tokens that two sentences begin with alike."""
    for count, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return count
    return min(len(first), len(second))


def _encode_pack(tower: nn.Module, pack: Pack, device: str) -> Tensor:
    """Residuals ``(len(pack.rows), w)``: open_clip's computation, on one sequence with the pack's mask."""
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(torch.tensor(pack.tokens, device=device)).to(dtype)
    x = x + tower.positional_embedding[torch.tensor(pack.positions, device=device)].to(dtype)
    x = tower.transformer(x[None], attn_mask=pack.mask().to(device))[0]
    return x[torch.tensor(pack.ends, device=device)]


def _project(tower: nn.Module, residuals: Tensor) -> Tensor:
    """Embeddings ``(n, d)`` of residuals ``(n, w)``."""
    x = tower.ln_final(residuals)
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection
