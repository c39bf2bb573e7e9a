"""How well an SAE reconstructs embeddings, level by level.

Symbols: n rows x, x̂ their reconstruction, d embedding dimension, s latents, k a level. All is measured on raw
embeddings with the weights as they are saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from debiasing_methods.chunks import ROWS
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.training.sae import nested_reconstructions


def reconstruction_quality(
    sae: SparseAutoencoder, embeddings: Tensor, levels: Sequence[int], *, progress: bool = False
) -> tuple[dict[str, Any], Tensor]:
    """Measure an SAE on embeddings.

    Parameters
    ----------
    sae : SparseAutoencoder
        On the device of the embeddings.
    embeddings : Tensor of shape (n, d), float32
        Raw embeddings.
    levels : sequence of int
        Ascending, at most s. Level s, which is what inference uses (all positive latents), is always
        measured.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    quality : dict
        ``rows``, and ``levels``: for each level ``level``, ``cosine`` (mean of cos(x, x̂)), ``fvu`` =
        ``Σ‖x − x̂‖² / Σ‖x − mean‖²`` (None where all rows are the same) and ``l0`` (mean number of latents
        in use).
    positive : Tensor of shape (s,), int64
        Number of rows in which each latent is positive; 0 on the training rows means a dead latent.
    """
    levels = [*levels] if levels[-1] == sae.n_latents else [*levels, sae.n_latents]
    dictionary = sae.decoder_weight.T.contiguous()
    bounds = torch.tensor(levels, device=embeddings.device)
    totals = torch.zeros(3, len(levels), dtype=torch.float64, device=embeddings.device)
    positive = torch.zeros(sae.n_latents, dtype=torch.int64, device=embeddings.device)
    for x in tqdm(embeddings.split(ROWS), desc="measuring", leave=False, disable=not progress):
        latents = sae.encode(x)
        found = nested_reconstructions(latents, dictionary, levels) + sae.pre_bias  # (rows, L, d)
        active = latents > 0
        positive += active.sum(0)
        totals[0] += functional.cosine_similarity(found, x[:, None], dim=2).sum(0, dtype=torch.float64)
        totals[1] += (found - x[:, None]).square().sum((0, 2), dtype=torch.float64)
        totals[2] += torch.minimum(active.sum(1)[:, None], bounds).sum(0)
    n = len(embeddings)
    wide = embeddings.to(torch.float64)
    variance = (wide - wide.mean(0)).square().sum().item()
    rows = [
        {
            "level": level,
            "cosine": cosine / n,
            "fvu": error / variance if variance > 0 else None,
            "l0": used / n,
        }
        for level, (cosine, error, used) in zip(levels, totals.T.tolist(), strict=True)
    ]
    return {"rows": n, "levels": rows}, positive


def format_report(report: dict[str, Any]) -> str:
    """Render a report (see `debiasing_methods.sae_training.run_training`) as a small table.

    Parameters
    ----------
    report : dict
        With ``training``, ``held_out`` (or None), ``dead_latents`` and ``config``.

    Returns
    -------
    str
        Lines without a final newline.
    """
    parts = [(name.replace("_", " "), report[name]) for name in ("training", "held_out") if report[name]]
    s = report["config"]["n_latents"]
    titles = [f"{name}: {part['rows']} rows" for name, part in parts]
    lines = [
        " " * 12 + "".join(f" | {title:<28}" for title in titles),
        f"{'level':>12}" + f" | {'cosine':>8} {'FVU':>9} {'L0':>9}" * len(parts),
    ]
    for i, level in enumerate(row["level"] for row in report["training"]["levels"]):
        cells = "".join(_cells(part["levels"][i]) for _, part in parts)
        lines.append(f"{'all latents' if level == s else level:>12}{cells}")
    dead = report["dead_latents"]
    lines.append(f"dead latents (never positive on the training rows): {dead} of {s} ({dead / s:.1%})")
    return "\n".join(line.rstrip() for line in lines)


def _cells(row: dict[str, Any]) -> str:
    fvu = "–" if row["fvu"] is None else f"{row['fvu']:.5f}"
    return f" | {row['cosine']:8.4f} {fvu:>9} {row['l0']:9.1f}"
