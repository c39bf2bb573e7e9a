"""Which model made a file of embeddings, and whether it is the one that is used with them now.

Two models of one width give embeddings that go together in shape and in nothing else: every score is then
noise that looks like a result. The manifest beside embeddings says which model made them
(`model_facts`); whoever reads them for a backbone calls `check_made_by`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bias_evaluation.datasets.folder import read_manifest
from bias_evaluation.datasets.pixels import DEFAULT, pixel_settings
from bias_evaluation.grid.backbone import Backbone
from bias_evaluation.grid.direct_backbones import CONFIG, FOLDER, HUB
from safe_io.digests import remembered_sha256
from safe_io.documents import describe
from safe_io.errors import InputError
from safe_io.files import sha256_file, sha256_json
from safe_io.notices import note_once


def existing_checkpoint(backbone: Backbone) -> Path | None:
    """Return a backbone's local checkpoint, if it has one; `InputError` if that file is missing."""
    if backbone.checkpoint is not None and not backbone.checkpoint.is_file():
        raise InputError(
            f"checkpoint of backbone '{backbone.name}' not found: {backbone.checkpoint}; "
            f"put it there, or name another in the backbone file"
        )
    return backbone.checkpoint


def encoder_digest(backbone: Backbone) -> str:
    """Digest of what decides a text embedding: the architecture, and the checkpoint's bytes or the tag.

    Raises
    ------
    InputError
        The backbone's local checkpoint is missing.
    """
    model = Path(backbone.open_clip)
    weights = f"tag:{backbone.pretrained}"
    if checkpoint := existing_checkpoint(backbone):
        weights = remembered_sha256(checkpoint)
    name = sha256_file(model) if model.suffix == ".json" and model.is_file() else backbone.open_clip
    if checkpoint and backbone.open_clip.startswith((HUB, FOLDER)):
        name = sha256_file(checkpoint.parent / CONFIG)  # the same model wherever its folder is
    return sha256_json([name, weights, backbone.quick_gelu])


def image_digest(backbone: Backbone) -> str:
    """Digest of what decides an image embedding: `encoder_digest`, and pixel settings that are not implied.

    A tag implies its own; a local checkpoint's count unless they are open_clip's defaults.
    """
    digest = encoder_digest(backbone)
    if backbone.checkpoint is None and not backbone.pixels:
        return digest
    settings = pixel_settings(backbone)
    return digest if settings == DEFAULT else sha256_json([digest, settings])


def model_facts(backbone: Backbone) -> dict[str, Any]:
    """Describe a backbone's model for the manifest beside image embeddings; plain values."""
    weights = backbone.pretrained if backbone.checkpoint is None else backbone.checkpoint.name
    in_hub = backbone.open_clip.startswith(HUB)
    return {
        "name": backbone.name,
        "open_clip": backbone.open_clip if in_hub else Path(backbone.open_clip).name,
        "weights": weights,
        "quick_gelu": backbone.quick_gelu,
        "digest": image_digest(backbone),
        "text_digest": encoder_digest(backbone),
        "pixels": pixel_settings(backbone),
    }


def check_made_by(
    path: Path, backbone: Backbone | None, *, table: Path | None = None, queries: Path | None = None
) -> None:
    """Compare the model that made image embeddings with the one that makes the text.

    Parameters
    ----------
    path : pathlib.Path
        File of image embeddings; beside it, its manifest.
    backbone : Backbone or None
        Of the text; None if the text comes from a file that does not say.
    table : pathlib.Path, optional
        Metadata whose order could not be compared with that of the embeddings either
        (`bias_evaluation.datasets.folder.check_images`).
    queries : pathlib.Path, optional
        File of text embeddings, if queries come so; beside it the manifest that `debias_queries.py` writes.

    Raises
    ------
    InputError
        The manifest names another model, or other pixel settings of the same model.

    Notes
    -----
    Prints one line on stderr about what cannot be checked: the paper's release and files of one's own have no
    manifest that says it.
    """
    unchecked = [] if table is None else [f"whether the rows of {table} are in its order"]
    if why := _model_unchecked(path, backbone, queries):
        unchecked.insert(0, f"whether it was made by the model of the text ({why})")
    if unchecked:
        note_once(f"{path}: cannot be checked: {', and '.join(unchecked)}")


def _model_unchecked(path: Path, backbone: Backbone | None, queries: Path | None) -> str:
    """Compare the models; return why they cannot be compared, empty if they could."""
    made_by = read_manifest(path).get("model")
    if not isinstance(made_by, dict) or "digest" not in made_by:
        return "no manifest beside it names its model"
    if queries is not None:
        facts = read_manifest(queries)
        if (
            facts.get("text_digest") is None
            or not isinstance(facts.get("backbone"), dict)
            or "text_digest" not in made_by
        ):
            return f"nothing beside {queries} names the model of the queries"
        if facts["text_digest"] != made_by["text_digest"]:
            raise InputError(
                f"{path} was made by {_named(made_by)}, but the queries {queries} by another model "
                f"({describe(facts['backbone'].get('name'))}); their similarities mean nothing"
            )
        return ""
    if backbone is None:
        return "the text does not name its model"
    if backbone.checkpoint is not None and not backbone.checkpoint.is_file():
        return f"the checkpoint of backbone '{backbone.name}' is missing"
    if made_by["digest"] != image_digest(backbone):
        now = model_facts(backbone)
        raise InputError(
            f"{path} was made by {_named(made_by)}, but the text is of {_named(now)}"
            f"{_difference(made_by, now)}; their similarities mean nothing: name the backbone that the "
            f"embeddings are of, or make them again with precompute_embeddings.py --overwrite"
        )
    return ""


def _named(facts: dict[str, Any]) -> str:
    digest = str(facts.get("digest", ""))[:8]
    return f"'{facts.get('name')}' ({facts.get('open_clip')}, {facts.get('weights')}, digest {digest})"


def _difference(made_by: dict[str, Any], now: dict[str, Any]) -> str:
    """Name settings that differ, for a model whose weights may be the same."""
    before, after = ({"quick_gelu": facts.get("quick_gelu"), **_pixels(facts)} for facts in (made_by, now))
    changed = [key for key in after if before.get(key) != after[key]]
    shown = "; ".join(f"{key} {before.get(key)} then, {after[key]} now" for key in changed)
    return f" ({shown})" if shown else ""


def _pixels(facts: dict[str, Any]) -> dict[str, Any]:
    pixels = facts.get("pixels")
    return pixels if isinstance(pixels, dict) else {}
