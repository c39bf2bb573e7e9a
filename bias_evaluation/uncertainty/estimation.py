"""From image–text pairs to the curvature of both projections.

Symbols: n pairs, M rows of a class batch, p width of a tower's features, d embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bias_evaluation.datasets.folder import head_path
from bias_evaluation.datasets.metadata import METADATA, read_metadata, write_metadata
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.identity import encoder_digest
from bias_evaluation.embedding.image_embeddings import embed_dataset
from bias_evaluation.embedding.residuals import read_head
from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.uncertainty.factors import Factors, Tower
from bias_evaluation.uncertainty.pairs import sample_pairs
from debiasing_methods.encoder_head import EncoderHead
from debiasing_methods.linalg import unit
from debiasing_methods.uncertainty import TAU, best_precision, curvature
from safe_io.errors import as_input_error
from safe_io.files import sha256_json

CLASS_BATCH = 32_768
"""M of the published code; fewer pairs are one batch."""


@dataclass(frozen=True)
class Estimation:
    """What an estimate is, beside the model and the pairs.

    Attributes
    ----------
    n_pairs : int
        Most pairs that are drawn.
    class_batch : int or None
        M; None takes `CLASS_BATCH`, or all pairs if they are fewer.
    seed : int
        Of the draw.
    tau : float
        Pseudo-count τ.
    evidence : str
        What λ maximizes: 'published' or 'laplace'.
    batch_size, workers : int
        Images of a forward pass; processes that decode.
    skip_unreadable : bool
        Leave out pairs whose image cannot be read, instead of an error.
    """

    n_pairs: int = 10_000
    class_batch: int | None = None
    seed: int = 0
    tau: float = TAU
    evidence: str = "published"
    batch_size: int = 64
    workers: int = 0
    skip_unreadable: bool = False


def estimate(
    encoder: Encoder,
    folder: Path,
    pairs: pd.DataFrame,
    cache: Path,
    options: Estimation,
    say: Callable[[str], None] = print,
) -> Factors:
    """Encode a sample of pairs, and find the curvature of both projections and their prior precisions.

    Parameters
    ----------
    encoder : Encoder
    folder : pathlib.Path
        What the pairs' paths are relative to.
    pairs : pandas.DataFrame
        Columns `file_path` and `caption`.
    cache : pathlib.Path
        Folder for the residuals of the sample: a cut run continues there.
    options : Estimation
    say : callable
        Is told what is done, a line at a time.

    Raises
    ------
    InputError
        A tower has no residuals, images are unreadable, or there are fewer pairs than a class batch.
    """
    heads = {"image": encoder.image_head, "text": encoder.text_head}
    sample = sample_pairs(pairs, options.n_pairs, options.seed)
    identity = sha256_json([encoder_digest(encoder.backbone), *(sample[c].tolist() for c in sample)])
    features = _features(encoder, folder, sample, cache / f"pairs_{identity[:12]}", options, heads)
    n = len(features["text"])
    batch = min(CLASS_BATCH, n) if options.class_batch is None else options.class_batch
    say(f"{n} of {len(pairs)} pairs, in class batches of {batch}")
    scale = float(encoder.model.logit_scale.detach().exp())
    facts = {
        "model": encoder_digest(encoder.backbone),
        "backbone": encoder.backbone.name,
        "pairs": n // batch * batch,
        "class_batch": batch,
        "seed": options.seed,
        "pairs_digest": identity,
        "evidence": options.evidence,
    }
    units = {name: unit(features[name] @ heads[name].projection) for name in heads}
    towers = {}
    for name, other in (("image", "text"), ("text", "image")):
        say(f"curvature of the {name} projection {tuple(heads[name].projection.shape)}")
        towers[name] = _tower(heads[name], features[name], units[other], scale, batch, options)
    return Factors(towers["image"], towers["text"], scale, options.tau, facts)


def _features(
    encoder: Encoder,
    folder: Path,
    sample: pd.DataFrame,
    work: Path,
    options: Estimation,
    heads: dict[str, EncoderHead],
) -> dict[str, torch.Tensor]:
    """Features φ of both sides of the sample; what is encoded stays in the working folder."""
    work.mkdir(parents=True, exist_ok=True)
    if (work / METADATA).is_file():
        sample = read_metadata(work / METADATA)  # of an earlier run, which may have left out pairs
    else:
        write_metadata(work / METADATA, sample)
    images = embed_dataset(
        encoder,
        folder,
        sample,
        batch_size=options.batch_size,
        workers=options.workers,
        skip_unreadable=options.skip_unreadable,
        residuals=True,
        into=work,
    )
    sample = read_metadata(work / METADATA)
    text = TextStore(encoder.backbone, work, device=encoder.device, residuals=True)
    residuals = torch.from_numpy(np.load(images, allow_pickle=False))
    texts = text.embed(sample["caption"].tolist())
    return {"image": read_head(head_path(images)).features(residuals), "text": heads["text"].features(texts)}


def _tower(
    head: EncoderHead,
    features: torch.Tensor,
    others: torch.Tensor,
    scale: float,
    batch: int,
    options: Estimation,
) -> Tower:
    with as_input_error("--class-batch"):
        found = curvature(features, head.projection, others, scale, batch)
    return Tower(head, found, best_precision(found, head.projection, options.tau, options.evidence))
