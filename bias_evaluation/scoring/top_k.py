"""Exact top-K: the best-scored images of each query, from one matrix of scores or block by block.

Of equal scores the lower row comes first, whatever the blocks are: rankings do not depend on block
sizes, devices or versions of torch. Scores that are NaN or infinite are refused: `torch.topk` would rank NaN
first.

Symbols: Q queries, n images of a block, K retrieved images.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_scores(scores: Tensor) -> None:
    """Raise `ValueError` unless all scores ``(Q, n)`` are finite; the line names the first such query."""
    if scores.numel() and not torch.isfinite(torch.stack(torch.aminmax(scores))).all():
        bad = ~torch.isfinite(scores).all(dim=1)
        raise ValueError(
            f"scores of {int(bad.sum())} of {len(bad)} queries are NaN or infinite, the first: query "
            f"{int(bad.nonzero()[0])}; check the method's options and weights"
        )


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the K best of each row of a matrix.

    Parameters
    ----------
    scores : Tensor of shape (Q, n)
        Any floating dtype.
    k : int
        K, at most n.

    Returns
    -------
    scores : Tensor of shape (Q, K)
        Best first.
    positions : Tensor of shape (Q, K), int64
        Along n; of equal scores the lower position comes first.

    Raises
    ------
    ValueError
        A score is NaN or infinite.
    """
    check_scores(scores)
    return _top_k(scores, k)


def _top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, at = torch.topk(scores, min(k + 1, scores.shape[1]), dim=1)
    equal = values[:, 1:] == values[:, :-1]
    values, at = values[:, :k].contiguous(), at[:, :k].contiguous()
    # topk takes any of the scores that equal the K-th: take the first ones
    for query in torch.nonzero(equal[:, k - 1 :].any(dim=1)).flatten().tolist():
        order = torch.sort(scores[query], descending=True, stable=True).indices[:k]
        values[query], at[query] = scores[query, order], order
    tied = torch.nonzero(equal.any(dim=1)).flatten()  # the order of all others is the only one
    if len(tied):
        positions, order = torch.sort(at[tied], dim=1)
        values[tied], order = torch.sort(values[tied].gather(1, order), dim=1, descending=True, stable=True)
        at[tied] = positions.gather(1, order)
    return values, at


class TopK:
    """The K best images of each query, from blocks of scores in ascending order of rows.

    Parameters
    ----------
    k : int
        K. While fewer images were added, there are as many.

    Attributes
    ----------
    scores : Tensor of shape (Q, K)
        Best first; on the device of the blocks.
    rows : Tensor of shape (Q, K), int64
        Of equal scores the lower row comes first.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.scores: Tensor | None = None
        self.rows: Tensor | None = None

    def add(self, scores: Tensor, rows: Tensor) -> None:
        """Take in a block of scores.

        Parameters
        ----------
        scores : Tensor of shape (Q, n)
        rows : Tensor of shape (n,), int64
            Ascending, and higher than all before.

        Raises
        ------
        ValueError
            A score is NaN or infinite.
        """
        check_scores(scores)
        rows = rows.expand(len(scores), -1)
        if self.scores is not None and self.rows is not None:
            if self.scores.shape[1] == self.k:  # later rows lose ties, so only a better score can enter
                better = (scores > self.scores[:, -1:]).any(dim=0)
                scores, rows = scores[:, better], rows[:, better]
            # Kept rows are lower and come first: of equal scores the lower position is the lower row.
            scores = torch.cat([self.scores, scores], dim=1)
            rows = torch.cat([self.rows, rows], dim=1)
        self.scores, positions = _top_k(scores, min(self.k, scores.shape[1]))
        self.rows = rows.gather(1, positions)
