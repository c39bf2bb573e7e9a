"""Leakage: how well probes read the bias attribute from images, before and after a method.

"Debiased" and "not decodable" are two claims: a method may give fair rankings with images that say as much
about the attribute as before, and images may say little while rankings stay skewed.

Symbols: N images, n of them probed, d embedding dimension, C bias classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bias_evaluation.datasets.stored_images import StoredImages, chunks
from debiasing_methods.base import DebiasingMethod, ImageTransform
from debiasing_methods.linalg import unit


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are fitted.

    Attributes
    ----------
    most_images : int
        Images that are probed, drawn at random if there are more.
    folds : int
        Parts of a cross-validation, stratified by class: each image is scored once, by probes that were
        fitted to the other parts.
    hidden : int
        Units of the MLP's one hidden layer.
    max_iter : int
        Most iterations of the linear probe, and most epochs of the MLP.
    alpha : float
        Weight decay of the MLP. On planted attributes (1,500 images, d = 128) 10 reads as much as the linear
        probe of a direction, and most of a product of coordinates; 1e-4, and early stopping, read less.
    seed : int
        Of the draw, the parts and the MLP.
    """

    most_images: int = 5_000
    folds: int = 5
    hidden: int = 64
    max_iter: int = 200
    alpha: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class Leakage:
    """Accuracy of the attribute on held-out images.

    Attributes
    ----------
    linear, mlp : float
        Of a logistic regression, and of a network with one hidden layer.
    majority : float
        Of the answer that is always the most frequent class: what a probe reaches that reads nothing.
    n_images : int
        Images that were scored.
    """

    linear: float
    mlp: float
    majority: float
    n_images: int


def probe(images: np.ndarray, codes: np.ndarray, settings: ProbeSettings | None = None) -> Leakage:
    """Cross-validate both probes.

    Parameters
    ----------
    images : ndarray of shape (n, d)
        Standardised by the images that probes are fitted to.
    codes : ndarray of shape (n,), integer
        Class of each image; images of class −1 are left out.
    settings : ProbeSettings, optional

    Returns
    -------
    Leakage

    Raises
    ------
    ValueError
        There are fewer than two classes, a class has fewer images than there are folds, or an image is not
        finite.

    Notes
    -----
    Of n images an accuracy has a standard error of up to ``0.5 / √n``. That a probe fails does not show that
    nothing can be read, only that this probe cannot.
    """
    settings = settings or ProbeSettings()
    images, codes = _drawn(images, codes, settings)
    _check(images, codes, settings)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=settings.max_iter))
    mlp = make_pipeline(
        StandardScaler(),
        MLPClassifier(
            (settings.hidden,), alpha=settings.alpha, max_iter=settings.max_iter, random_state=settings.seed
        ),
    )
    parts = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # more iterations move accuracies by less than the split
        predicted = [cross_val_predict(each, images, codes, cv=parts) for each in (linear, mlp)]
    accuracies = [float((each == codes).mean()) for each in predicted]
    return Leakage(*accuracies, float(np.bincount(codes).max() / len(codes)), len(codes))


def method_leakage(
    method: DebiasingMethod,
    transform: ImageTransform,
    images: StoredImages,
    codes: np.ndarray,
    rows: np.ndarray,
    groups: Sequence[int] = (0,),
    settings: ProbeSettings | None = None,
) -> dict[str, Leakage]:
    """Probe a method's images: as the method returns them, and unit, as cosine search sees them.

    Parameters
    ----------
    method : DebiasingMethod
        Its `prepare_images` is applied first.
    transform : ImageTransform
        The method's; of a fold, for methods that fit images or draw noise.
    images : StoredImages
        N images.
    codes : ndarray of shape (N,), integer
        Bias class of every image.
    rows : ndarray of shape (n,), integer
        Images to probe: evaluation images of the transform's fold, which the method has not seen.
    groups : sequence of int
        Query groups whose images are probed, for transforms that differ by query; accuracies are their means.
    settings : ProbeSettings, optional

    Returns
    -------
    dict
        'returned' and 'unit' → `Leakage`.

    Raises
    ------
    ValueError
        As for `probe`.
    """
    settings = settings or ProbeSettings()
    rows, codes = _drawn(np.asarray(rows), codes[rows], settings)
    found: dict[str, list[Leakage]] = {"returned": [], "unit": []}
    for group in groups:
        edited = torch.cat(
            [_applied(method, transform, images, rows[part], group, part.start) for part in chunks(len(rows))]
        )
        normalized = unit(edited)
        found["unit"].append(probe(normalized.cpu().numpy(), codes, settings))
        same = torch.allclose(edited, normalized, rtol=0, atol=1e-6)
        found["returned"].append(found["unit"][-1] if same else probe(edited.cpu().numpy(), codes, settings))
    return {kind: _mean(each) for kind, each in found.items()}


def _applied(
    method: DebiasingMethod,
    transform: ImageTransform,
    images: StoredImages,
    rows: np.ndarray,
    group: int,
    first_row: int,
) -> torch.Tensor:
    chosen = torch.from_numpy(rows.astype(np.int64)).to(images.device)
    prepared = method.prepare_images(images.take(chosen, normalize=method.normalize))
    return transform.apply(prepared, group, first_row=first_row)


def _mean(each: Sequence[Leakage]) -> Leakage:
    linear, mlp = (float(np.mean([getattr(one, name) for one in each])) for name in ("linear", "mlp"))
    return Leakage(linear, mlp, each[0].majority, each[0].n_images)


def _drawn(values: np.ndarray, codes: np.ndarray, settings: ProbeSettings) -> tuple[np.ndarray, np.ndarray]:
    """Leave out what has no class, and draw at most `most_images` of the rest, in their order."""
    kept = np.flatnonzero(codes >= 0)
    if len(kept) > settings.most_images:
        random = np.random.default_rng(settings.seed)
        kept = np.sort(random.choice(kept, settings.most_images, replace=False))
    return values[kept], codes[kept]


def _check(images: np.ndarray, codes: np.ndarray, settings: ProbeSettings) -> None:
    classes, sizes = np.unique(codes, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"probes need images of at least two classes, found {len(classes)}")
    if sizes.min() < settings.folds:
        raise ValueError(
            f"class {classes[sizes.argmin()]} has {sizes.min()} of {len(codes)} images, too few to "
            f"cross-validate probes in {settings.folds} folds; probe more images"
        )
    if not np.isfinite(images).all():
        raise ValueError("an image is NaN or infinite, so that probes cannot be fitted")
