"""DeBiasLens: neurons that fire for one group of the bias attribute alone, switched off.

Symbols: n samples, s latents of an SAE, C bias classes, a_ij activation of latent j for sample i, S_g samples
class g, τ share of a class that a latent must fire for, α share of the edited reconstruction in the result.

Source: An et al. 2026, arXiv:2602.24014, and the published code. Difference that we choose: a class's neurons
are ordered by their mean activation in that class (the published code takes the last class's for all).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from debiasing_methods.base import DebiasingMethod, QueryGroup, ReferenceImages
from debiasing_methods.sae import SparseAutoencoder

ALPHA, TAU = 0.6, 0.9
CHOICES = ("top1", "all", "none")


def group_neurons(activations: Tensor, labels: Tensor, n_classes: int, tau: float = TAU) -> list[Tensor]:
    r"""Find each class's own neurons: ``N_g = E_g \\ ∪_{h≠g} E_h``.

    Parameters
    ----------
    activations : Tensor of shape (n, s)
        a; not negative.
    labels : LongTensor of shape (n,)
        Class of each sample, 0 … n_classes − 1.
    n_classes : int
        C.
    tau : float
        τ, in (0, 1].

    Returns
    -------
    list of LongTensor
        For each class its latents, the highest mean activation in the class first (ties: lower index).

    Raises
    ------
    ValueError
        τ is out of its range, or a class has no sample.

    Notes
    -----
    ``E_g = {j : #{i ∈ g : a_ij ≠ 0} ≥ ⌊τ S_g⌋}``, the floor in exact arithmetic: τ counts as its shortest
    decimal (0.57 · 100 is 57, and not 56 as in floats).
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau must be above 0 and at most 1, got {tau}")
    sizes = torch.bincount(labels, minlength=n_classes)
    if (sizes == 0).any():
        raise ValueError(f"class {int((sizes == 0).nonzero()[0])} has no sample to find its neurons with")
    members = torch.nn.functional.one_hot(labels, n_classes).T.to(activations.dtype)  # (C, n)
    fires = members @ (activations != 0).to(activations.dtype)  # (C, s)
    least = torch.tensor([int(Fraction(str(tau)) * size) for size in sizes.tolist()], device=fires.device)
    often = fires >= least[:, None]
    own = often & (often.sum(dim=0) == 1)
    means = members @ activations / sizes[:, None].to(activations.dtype)
    order = means.argsort(dim=1, descending=True, stable=True)
    return [order[g][own[g][order[g]]] for g in range(n_classes)]


def choose_neurons(sets: Sequence[Tensor], choice: str = "top1") -> Tensor:
    """Choose the neurons Z to switch off.

    Parameters
    ----------
    sets : sequence of LongTensor
        Of `group_neurons`; a class may have none.
    choice : str
        'top1': the first of each class; 'all'; 'none': the control, which leaves the reconstruction alone.

    Returns
    -------
    LongTensor, ascending

    Raises
    ------
    ValueError
        Another choice, or no class has a neuron of its own.
    """
    if choice not in CHOICES:
        raise ValueError(f"neurons must be one of {', '.join(CHOICES)}, got '{choice}'")
    if choice == "none":
        return torch.empty(0, dtype=torch.long)
    if not any(len(neurons) for neurons in sets):
        raise ValueError("no latent fires for one class alone; choose another tau, or train a sparser SAE")
    chosen = torch.cat([neurons[:1] if choice == "top1" else neurons for neurons in sets])
    return chosen.unique()


def switch_off(x: Tensor, latents: Tensor, sae: SparseAutoencoder, neurons: Tensor, alpha: float) -> Tensor:
    """Mix vectors with their reconstruction without some neurons: ``α dec(z′) + (1 − α) x``.

    Parameters
    ----------
    x : Tensor of shape (n, d)
    latents : Tensor of shape (n, s)
        Their latents z.
    sae : SparseAutoencoder
    neurons : LongTensor
        Z: latents that z′ has as 0.
    alpha : float
        α; 0 leaves x as it is.
    """
    edited = latents.clone()
    edited[:, neurons.to(latents.device)] = 0
    return alpha * sae.decode(edited) + (1 - alpha) * x


class DeBiasLensEmbedding(DebiasingMethod):
    """DeBiasLens on the final text embedding, with SEM's sparse autoencoder: ours, after the paper's idea.

    The paper edits the residual stream in front of the last projection, with a sparse autoencoder trained
    there. Here the same is done to the query's embedding, ``q′ = α dec(h′) + (1 − α) q``, with latents h of
    all positive entries; the neurons are those that the bias prompts of one class activate.

    Parameters
    ----------
    sae : SparseAutoencoder
        Of the backbone's text embeddings.
    alpha : float
        α in [0, 1].
    tau : float
        τ in (0, 1].
    neurons : str
        'top1', 'all', or 'none': the control, reconstruction only (`DeBiasLensControl`).

    Notes
    -----
    What it does not promise: a latent that fires for one class's prompts alone need not carry the bias of
    queries that name no class. Compare with the control, which shows what the reconstruction alone changes.
    """

    name = "debiaslens-e"
    display_name = "DeBiasLens-e"
    group = "inside-encoder"
    needs = frozenset({"bias_prompts"})
    weights = "sae"
    changes_text = True

    def __init__(
        self, *, sae: SparseAutoencoder, alpha: float = ALPHA, tau: float = TAU, neurons: str = "top1"
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
        if not 0 < tau <= 1:
            raise ValueError(f"tau must be above 0 and at most 1, got {tau}")
        if neurons not in CHOICES:
            raise ValueError(f"neurons must be one of {', '.join(CHOICES)}, got '{neurons}'")
        self.sae, self.alpha, self.tau, self.neurons = sae, alpha, tau, neurons

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Switch the neurons off in the latents of each query; the result is raw."""
        self.check(groups)
        unique = {tuple(map(id, group.bias_prompts)): group.bias_prompts for group in groups}
        chosen = {key: self._choose(prompts) for key, prompts in unique.items()}
        return [
            switch_off(
                group.queries,
                self.sae.encode(group.queries),
                self.sae,
                chosen[tuple(map(id, group.bias_prompts))],
                self.alpha,
            )
            for group in groups
        ]

    def _choose(self, bias_prompts: Sequence[Tensor]) -> Tensor:
        """Choose Z by the latents of the bias prompts; the control needs none."""
        if self.neurons == "none":
            return choose_neurons([], "none")
        labels = torch.cat([torch.full((len(p),), g) for g, p in enumerate(bias_prompts)])
        activations = self.sae.encode(torch.cat(list(bias_prompts)))
        sets = group_neurons(activations, labels.to(activations.device), len(bias_prompts), self.tau)
        try:
            return choose_neurons(sets, self.neurons)
        except ValueError as error:
            sizes = ", ".join(str(len(prompts)) for prompts in bias_prompts)
            raise ValueError(f"{error} (tau {self.tau:g}; bias prompts per class: {sizes})") from None


class DeBiasLensControl(DeBiasLensEmbedding):
    """The control beside `DeBiasLensEmbedding`: the same mix with the reconstruction, no neuron switched off.

    What a result of DeBiasLens owes to the neurons is its difference from this one.

    Parameters
    ----------
    sae : SparseAutoencoder
    alpha : float
        α in [0, 1].
    """

    name = "debiaslens-e-control"
    display_name = "DeBiasLens-e, reconstruction only"
    needs = frozenset()

    def __init__(self, *, sae: SparseAutoencoder, alpha: float = ALPHA) -> None:
        super().__init__(sae=sae, alpha=alpha, neurons="none")
