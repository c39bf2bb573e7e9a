"""`load_debiaser`: from names and files to a `Debiaser`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.grid.configs import Backbone, load_methods, option_types
from bias_evaluation.grid.methods import find_method
from bias_evaluation.weights.build import build_method
from bias_evaluation.weights.find import sae_file
from bias_evaluation.weights.kinds import KINDS, SAE
from debiasing_methods.base import DebiasingMethod
from fair_search.backbones import BackboneLike, find_backbone
from fair_search.bias_files import BiasFile, BiasLike, load_bias
from fair_search.config_files import PROMPT_SET, checkout, config_folder
from fair_search.debiaser import ALL_QUERIES, Debiaser
from safe_io.documents import unknown
from safe_io.errors import InputError


def load_debiaser(
    method: str,
    backbone: BackboneLike | TextStore | None = None,
    bias: BiasLike | None = None,
    *,
    weights: str | Path | None = None,
    text_embeddings: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Debiaser:
    """Load a debiasing method for a backbone and a bias attribute.

    Parameters
    ----------
    method : str
        'orth-proj', 'sem-bi' …: a name of `debiasing_methods.registry.METHODS`.
    backbone : str, Backbone, (model, weights) or TextStore, optional
        As for `find_backbone`: a name of ``config/backbones.yml``; or a model of open_clip (or a model
        config, ``.json``) with a pretrained tag or the path of a checkpoint. Not needed where
        no text is encoded. A `TextStore` serves several methods with one loaded model.
    bias : str, path, mapping or BiasFile, optional
        As for `load_bias`: 'gender', 'race', 'age', or a file of your own. Not needed where the method needs
        no prompts.
    weights : path, optional
        Trained weights: the sparse autoencoder of the SEM methods (without it, the backbone's own is looked
        for), PRISM's map, ZSDebias's model.
    text_embeddings : path, optional
        ``.npz`` with `prompts` (P,) and raw `embeddings` (P, d): no model is loaded then.
    options : mapping, optional
        Options of the method, instead of those in ``config/methods.yml``.
    seed : int
        Seed of ZSDebias's noise.
    device : str
        'cpu' or 'cuda'; where a `TextStore` is given, its own device counts.

    Returns
    -------
    Debiaser

    Raises
    ------
    InputError
        A name is unknown, a file is missing or does not fit, or something that the method needs is not given.
    """
    cls = find_method(method)
    text = _text(backbone, text_embeddings, device)
    described = None if bias is None else load_bias(bias)
    plain = _options(method, described, options or {})
    needs = cls.needs_with(plain)
    if needs and described is None:
        raise InputError(f"{method} needs a bias file to make its prompts from; give one (bias, --bias)")
    if needs and text is None:
        raise InputError(f"{method} needs prompts: give a backbone, or text embeddings that hold them")
    built = build_method(
        cls,
        plain,
        where=method,
        weights=_trained(cls, text, weights),
        diverse=text.embed(described.diverse).to(text.device) if "diverse" in cls.needs else None,
        seed=seed,
    )
    params = {
        "method": method,
        "backbone": text.backbone and text.backbone.name if isinstance(backbone, TextStore) else backbone,
        "bias": bias if bias is None or isinstance(bias, (str, Path)) else described.attribute,
        "weights": weights,
        "text_embeddings": text_embeddings,
        "options": plain or None,
        "seed": seed if cls.random_images else None,
        "device": device,
    }
    return Debiaser(built, text=text, bias=described, device=text.device if text else device, params=params)


def _text(
    backbone: BackboneLike | TextStore | None, text_embeddings: str | Path | None, device: str
) -> TextStore | None:
    """Find out where embeddings of sentences come from; None where nothing says it."""
    if isinstance(backbone, TextStore):
        if text_embeddings is not None:
            raise InputError("give either a text store or a file of text embeddings, not both")
        return backbone
    if backbone is None and text_embeddings is None:
        return None
    found = None if backbone is None else find_backbone(backbone)
    return TextStore(found, given=None if text_embeddings is None else Path(text_embeddings), device=device)


def _options(method: str, bias: BiasFile | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Lay given options over those of the method file."""
    for name in given:
        if name not in option_types(method):
            raise unknown("option", name, list(option_types(method)), method)
    config = load_methods(config_folder() / "methods.yml")[method]
    return config.options_for(bias.attribute if bias else "") | dict(given)


def _trained(
    cls: type[DebiasingMethod],
    text: TextStore | None,
    weights: str | Path | None,
) -> Any:
    """Load the trained weights that a method's constructor takes; None for a method without."""
    if cls.weights is None:
        if weights is not None:
            raise InputError(f"{cls.name} has no trained weights; leave them out")
        return None
    backbone = text.backbone if text else None
    path, make = weights_file(cls.name, backbone, weights)
    if text is None:
        raise InputError(f"{cls.name} needs to know the width of its embeddings: give a backbone")
    trained = KINDS[cls.weights].load(path, dim=text.dim, make=make).to(text.device)
    return {ALL_QUERIES: trained} if KINDS[cls.weights].one_per_group else trained


def weights_file(
    method: str, backbone: Backbone | None, weights: str | Path | None
) -> tuple[Path | None, str]:
    """Find the weight file of a method, and the commands that make it.

    Parameters
    ----------
    method : str
    backbone : Backbone or None
    weights : path or None
        The file, where it is given.

    Returns
    -------
    path : pathlib.Path or None
        None for a method without weights.
    make : str
        For error lines.

    Raises
    ------
    InputError
        The file was not given and cannot be looked for.
    """
    kind = find_method(method).weights
    if kind is None:
        return None, ""
    if weights is not None:
        return Path(weights), f"see docs/methods/{method}.md"
    root = checkout()
    if kind == SAE.name and backbone is not None and root is not None:
        found = sae_file(root, PROMPT_SET, backbone)
        return found.path, found.make
    raise InputError(
        f"{method} needs {KINDS[kind].title}: give its file (weights, --weights); see "
        f"docs/methods/{method}.md"
    )
