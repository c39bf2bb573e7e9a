"""PRISM's loss, and the training of many maps at once.

Symbols: M maps W (d, d), n samples, b samples of a batch, P positives and Q negatives of a sample,
s = P + Q its sentences, S distinct sentences, d embedding dimension, n(x) = x/‖x‖₂. Vectors are rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from debiasing_methods.linalg import unit

MARGIN = 0.6  # negatives may be this similar
_TINY = 1e-12  # keeps the direction of a zero vector finite


def prism_loss(mapped: Tensor, n_positives: int) -> Tensor:
    """Mean ``L_pos`` and ``L_neg`` of samples.

    Parameters
    ----------
    mapped : Tensor of shape (..., b, s, d)
        Mapped sentences of each sample, normalised: the positives, then the negatives.
    n_positives : int
        P.

    Returns
    -------
    Tensor of shape (..., 2)
        ``L_pos = mean of 1 − cos(p, n(m))`` over samples and positives p, where m is the mean of the sample's
        positives. The p are unit, so its mean over them is ``1 − ‖m‖``. ``L_neg = mean of max(0, cos − 0.6)``
        over samples and pairs of their negatives. The training minimises the sum.

    Notes
    -----
    Source: PRISM, Molahasani et al., ICCV 2025, arXiv:2507.08979: its latent-space debiasing
    loss.
    """
    positives, negatives = mapped[..., :n_positives, :], mapped[..., n_positives:, :]
    apart = 1 - torch.linalg.vector_norm(positives.mean(-2), dim=-1)
    i, j = torch.triu_indices(negatives.shape[-2], negatives.shape[-2], offset=1, device=mapped.device)
    close = ((negatives[..., i, :] * negatives[..., j, :]).sum(-1) - MARGIN).clamp_min(0).mean(-1)
    return torch.stack([apart.mean(-1), close.mean(-1)], dim=-1)


def loss_and_gradient(maps: Tensor, sentences: Tensor, n_positives: int) -> tuple[Tensor, Tensor]:
    """`prism_loss` of mapped sentences, and the gradient of ``L_pos + L_neg`` in the maps.

    Parameters
    ----------
    maps : Tensor of shape (M, d, d)
        W of each map.
    sentences : Tensor of shape (M, b, s, d)
        Each map's batch: normalised sentences of each sample, the positives, then the negatives.
    n_positives : int
        P.

    Returns
    -------
    losses : Tensor of shape (M, 2)
    gradient : Tensor of shape (M, d, d)

    Notes
    -----
    With ``x = W e``, ``y = n(x)`` and G = ∂L/∂y, the gradient is ``Σ (G − (G·y) y) eᵀ / ‖x‖``. Automatic
    differentiation gives the same in 15 to 30 % more processor time: beside the two products with W, it
    passes more often over the mapped sentences.
    """
    b, q = sentences.shape[1], sentences.shape[2] - n_positives
    e = sentences.flatten(1, 2)
    x = torch.bmm(e, maps.mT)
    lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(_TINY)
    y = x.div_(lengths).unflatten(1, (b, -1))
    losses = prism_loss(y, n_positives)

    g = torch.empty_like(y)
    mean = y[:, :, :n_positives].mean(2, keepdim=True)
    g[:, :, :n_positives] = -unit(mean) / (n_positives * b)  # ∂(1 − ‖m‖)/∂p = −n(m)/P
    negatives = y[:, :, n_positives:]
    too_close = (negatives @ negatives.mT > MARGIN).to(y.dtype)
    too_close.diagonal(dim1=-2, dim2=-1).zero_()
    g[:, :, n_positives:] = too_close @ negatives / (b * q * (q - 1) / 2)
    g -= (g * y).sum(-1, keepdim=True) * y  # lengthening x does not change y
    g = g.flatten(1, 2).div_(lengths)
    return losses, torch.bmm(g.mT, e)


def train_maps(
    initial: Tensor,
    embeddings: Tensor,
    positives: Tensor,
    negatives: Tensor,
    orders: Tensor,
    *,
    lr: float,
    batch_size: int = 64,
    wd: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Train maps of one shape together, each on its own samples.

    Parameters
    ----------
    initial : Tensor of shape (M, d, d)
        W of each map at the start; not changed.
    embeddings : Tensor of shape (S, d)
        Normalised sentence embeddings.
    positives, negatives : LongTensor of shape (M, n, P), (M, n, Q)
        Rows of `embeddings` that each sample uses.
    orders : LongTensor of shape (M, epochs, n)
        Order of the samples in each epoch.
    lr, batch_size, wd : float, int, float
        Learning rate and weight decay of Adam; samples a batch, of which the last may be short.

    Returns
    -------
    maps : Tensor of shape (M, d, d)
    losses : Tensor of shape (steps, M, 2)
        `prism_loss` of each step's batch, before the step.
    """
    maps = initial.clone()
    optimizer = torch.optim.Adam([maps], lr=lr, weight_decay=wd, fused=True)
    rows = torch.cat([positives, negatives], dim=2)
    losses = []
    for order in orders.unbind(1):
        for batch in order.split(batch_size, dim=1):
            chosen = rows.gather(1, batch[:, :, None].expand(-1, -1, rows.shape[2]))
            loss, maps.grad = loss_and_gradient(maps, embeddings[chosen], positives.shape[2])
            losses.append(loss)
            optimizer.step()
    maps.grad = None
    return maps, torch.stack(losses)


def overall_loss(w: Tensor, embeddings: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """`prism_loss` of one map on all its samples; each distinct sentence is mapped once.

    Parameters
    ----------
    w : Tensor of shape (d, d)
    embeddings : Tensor of shape (S, d)
        Normalised sentence embeddings.
    positives, negatives : LongTensor of shape (n, P), (n, Q)
        Rows of `embeddings`.

    Returns
    -------
    Tensor of shape (2,)
        ``L_pos``, ``L_neg``.
    """
    distinct, rows = torch.cat([positives, negatives], dim=1).unique(return_inverse=True)
    return prism_loss(unit(embeddings[distinct] @ w.T)[rows], positives.shape[1])
