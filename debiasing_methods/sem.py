"""Sparse Embedding Modulation: sem-i, sem-b and sem-bi (SEM, CVPR Findings 2026, arXiv:2603.19028).

Symbols: s latents; A (n, s) latents of the n diverse prompts, m₀ = med(A) their lower median; h the latents
that are modulated; F(v)_j = #{i : A_ij < v_j} / n; B_c latents of bias class c's prompts, m_c = med(B_c).
All text embeddings are raw.

The comparison of every row with every diverse prompt, an (rows × n × s) tensor when written down, is a
counting problem: the columns of A are sorted once, and each F is a binary search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from debiasing_methods.base import DebiasingMethod, QueryGroup, ReferenceImages
from debiasing_methods.linalg import lower_median, sort_rows
from debiasing_methods.sae import SparseAutoencoder


class Percentiles:
    """How far up a set of prompts each latent of a vector lies: F(v), by search in sorted columns."""

    def __init__(self, latents: Tensor) -> None:
        """Sort the latents ``(n, s)`` of the prompts once, latent by latent."""
        self.sorted = sort_rows(latents.T)  # (s, n)

    @property
    def n(self) -> int:
        """Number of prompts."""
        return self.sorted.shape[1]

    def median(self) -> Tensor:
        """Lower median of each latent, shape (s,)."""
        return self.sorted[:, (self.n - 1) // 2].clone()

    def count_below(self, values: Tensor) -> Tensor:
        """Count the prompts whose latent is strictly below each of `values` ``(rows, s)``; int64."""
        return torch.searchsorted(self.sorted, values.T.contiguous(), right=False).T

    def score(self, values: Tensor) -> Tensor:
        """F(v), and S_concept of a query's latents: the share of prompts strictly below (SEM, section 3).

        Parameters
        ----------
        values : Tensor of shape (rows, s)

        Returns
        -------
        Tensor of shape (rows, s)
            Between 0 and 1, in the dtype of `values`.
        """
        return self.count_below(values).to(values.dtype) / self.n


def bias_scores(diverse: Percentiles, bias_latents: Sequence[Tensor]) -> Tensor:
    """S_bias: how specifically each latent answers to one bias class.

    ``S_bias = max(0, max over c of min(g_c, r_c))``, of the scores of `class_scores` (SEM, arXiv:2603.19028,
    section 3).

    Parameters
    ----------
    diverse, bias_latents
        As for `class_scores`.

    Returns
    -------
    Tensor of shape (s,)
        Between 0 and 1. With a single bias class there is nothing to compare with: all zeros.
    """
    return class_scores(diverse, bias_latents).amax(0).clamp(min=0)


def class_scores(diverse: Percentiles, bias_latents: Sequence[Tensor]) -> Tensor:
    """How specifically each latent answers to each bias class: ``min(g_c, r_c)``.

    g_c = F(m_c) against the diverse prompts, r_c the same share against the prompts of all other bias classes
    together.

    Parameters
    ----------
    diverse : Percentiles
        Of the diverse prompts.
    bias_latents : sequence of Tensor of shape (n_c, s)
        Latents of each bias class's prompts.

    Returns
    -------
    Tensor of shape (C, s)
        Between 0 and 1.
    """
    classes = [Percentiles(latents) for latents in bias_latents]
    medians = torch.stack([c.median() for c in classes])  # (C, s)
    general = diverse.score(medians)
    below = torch.stack([c.count_below(medians) for c in classes])  # (C, C, s): prompts of c below m_c'
    own = torch.stack([below[c, c] for c in range(len(classes))])
    sizes = torch.tensor([c.n for c in classes], device=medians.device)
    others = (sizes.sum() - sizes).clamp(min=1)[:, None]
    relative = (below.sum(0) - own).to(medians.dtype) / others
    return torch.minimum(general, relative)


@dataclass(frozen=True, eq=False)
class Modulation:
    """What SEM does to the latents of some queries (s latents, Q queries).

    Attributes
    ----------
    latents : Tensor of shape (Q, s)
        h, as they are before.
    concept : Tensor of shape (Q, s)
        S_concept.
    bias : Tensor of shape (Q, s) or None
        S_bias of each query's group; None where the variant has none.
    weights : Tensor of shape (Q, s)
        w: below 1 a latent is turned down towards m₀, above 1 it is turned up.
    debiased : Tensor of shape (Q, s)
        ``w∘h + (1 − w)∘m₀``.
    """

    latents: Tensor
    concept: Tensor
    bias: Tensor | None
    weights: Tensor
    debiased: Tensor


class SparseEmbeddingModulation(DebiasingMethod):
    """What the three variants share: the SAE, the diverse prompts, and ``dec(w∘h + (1 − w)∘m₀)``.

    Parameters
    ----------
    sae : SparseAutoencoder
        Of the backbone's text embeddings.
    diverse : Tensor of shape (n, d)
        Raw embeddings of the diverse prompts, on the SAE's device.
    """

    weights = "sae"
    changes_text = True

    def __init__(self, *, sae: SparseAutoencoder, diverse: Tensor) -> None:
        if diverse.ndim != 2 or diverse.shape[0] == 0 or diverse.shape[1] != sae.dim:
            raise ValueError(
                f"diverse prompts of shape {tuple(diverse.shape)} do not go with an SAE of width {sae.dim}"
            )
        if sae.threshold > 0:
            raise ValueError(
                f"SEM takes all positive latents, but this autoencoder has a threshold "
                f"({sae.threshold:.3g}): it is one of DeBiasLens (--batch-topk)"
            )
        self.sae = sae
        self.diverse = Percentiles(sae.encode(diverse))
        self.neutral = self.diverse.median()  # m₀

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Modulate the latents of each query; the result is raw (on the scale of the text tower)."""
        debiased = self.sae.decode(self.modulate(groups).debiased)
        return [part.contiguous() for part in debiased.split([len(group.queries) for group in groups])]

    def modulate(self, groups: Sequence[QueryGroup]) -> Modulation:
        """Score, weigh and change the latents of the queries of all groups, in their order.

        Parameters
        ----------
        groups : sequence of QueryGroup
            Raw text embeddings.

        Returns
        -------
        Modulation

        Raises
        ------
        ValueError
            A group lacks a kind of prompt that the method needs.
        """
        self.check(groups)
        scores = self._bias_scores(groups)
        found = [self._latents(group) for group in groups]
        rows = [len(group.queries) for group in groups]
        h = torch.cat([latents for latents, _ in found])
        concept = self.diverse.score(torch.cat([latents for _, latents in found]))
        bias = torch.cat([b.expand(n, -1) for b, n in zip(scores, rows, strict=True)]) if scores else None
        w = self._weight(concept, bias)
        return Modulation(h, concept, bias, w, w * h + (1 - w) * self.neutral)

    def _bias_scores(self, groups: Sequence[QueryGroup]) -> list[Tensor]:
        """S_bias of each group, once for groups that share their bias prompts; nothing if not needed."""
        if "bias_prompts" not in self.needs:
            return []
        unique = {tuple(map(id, group.bias_prompts)): group.bias_prompts for group in groups}
        scores = {
            key: bias_scores(self.diverse, [self.sae.encode(p) for p in prompts])
            for key, prompts in unique.items()
        }
        return [scores[tuple(map(id, group.bias_prompts))] for group in groups]

    def _paraphrase_median(self, group: QueryGroup) -> Tensor:
        """Lower median of each query's paraphrases' latents, ``(Q, s)``."""
        return torch.stack([lower_median(self.sae.encode(p)) for p in group.paraphrases])

    def _latents(self, group: QueryGroup) -> tuple[Tensor, Tensor]:
        """Return the latents to modulate and the latents that say what the concept is, both ``(Q, s)``."""
        raise NotImplementedError

    def _weight(self, concept: Tensor, bias: Tensor | None) -> Tensor:
        """Return w, of S_concept ``(Q, s)`` and, where the variant has it, S_bias ``(Q, s)``."""
        raise NotImplementedError


class SemI(SparseEmbeddingModulation):
    """SEM_i: from the paraphrases alone; ``h = med(paraphrases)``, ``w = F(h)²``.

    Source: SEM, arXiv:2603.19028, bias-agnostic variant.

    Notes
    -----
    The query itself is not used, only its paraphrases. Latents that every sentence has fade to the neutral
    m₀; nothing is said about any bias.
    """

    name = "sem-i"
    display_name = "SEM_i"
    group = "input-prompts"
    needs = frozenset({"paraphrases", "diverse"})

    def _latents(self, group: QueryGroup) -> tuple[Tensor, Tensor]:
        h = self._paraphrase_median(group)
        return h, h

    def _weight(self, concept: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``w = S_concept²``."""
        return concept**2


class SemB(SparseEmbeddingModulation):
    """SEM_b: bias prompts; ``h`` the query's latents, ``w = (1 + F(h) − S_bias)²``.

    Source: SEM, arXiv:2603.19028, bias-prompts variant.

    Notes
    -----
    A latent is turned down where it is specific to a bias class (S_bias near 1) and up where the query
    stands out in it. It does not promise that the SAE separates bias from content.

    Where a group has `concepts`, F is taken of their latents in place of the queries' own: the published
    qualitative study scores the concept of "a female nurse" on "a nurse".
    """

    name = "sem-b"
    display_name = "SEM_b"
    group = "bias-prompts"
    needs = frozenset({"bias_prompts", "diverse"})

    def _latents(self, group: QueryGroup) -> tuple[Tensor, Tensor]:
        h = self.sae.encode(group.queries)
        return h, h if group.concepts is None else self.sae.encode(group.concepts)

    def _weight(self, concept: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``w = (1 + S_concept − S_bias)²``."""
        return (1 + concept - bias) ** 2


class SemBI(SemB):
    """SEM_bi: bias prompts and paraphrases; ``w = (1 + F(med of the paraphrases' latents) − S_bias)²``.

    The weight is SEM_b's, with S_concept of the paraphrases.

    Source: SEM, arXiv:2603.19028, full variant.
    """

    name = "sem-bi"
    display_name = "SEM_bi"
    group = "both-prompts"
    needs = frozenset({"paraphrases", "bias_prompts", "diverse"})

    def _latents(self, group: QueryGroup) -> tuple[Tensor, Tensor]:
        return self.sae.encode(group.queries), self._paraphrase_median(group)
