"""Embeddings of another model, damaged towers and rows in another order: refused, never ranked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fault_world import COLORS, TINY_DIM, World, call

from bias_evaluation.datasets.folder import make_folds
from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.scoring.fold_scores import fold_scores
from bias_evaluation.weights.read import PRISM_MAP, save_sae
from debiasing_methods.base import QueryGroup, Vanilla
from debiasing_methods.registry import METHODS
from debiasing_methods.sae import SparseAutoencoder
from fair_search.ranking import Scorer, rank_images
from safe_io.notices import forget_notes

TOWERS = {"NaN": torch.nan, "infinite": torch.inf, "zero": 0.0}


def tree(root: Path) -> set[Path]:
    return set(root.rglob("*"))


def break_text_tower(world: World, value: float) -> None:
    state = torch.load(world.root / "tiny.pt", weights_only=True)
    state["text_projection"].fill_(value)
    torch.save(state, world.root / "tiny.pt")


def searching(world: World, method: str) -> list[str]:
    """Options of the search commands: text from the tiny model, and a method's weights."""
    weights = {"sae": world.root / "tiny_sae.pth", "prism": world.root / "tiny_map.pth"}
    ones = torch.ones(16, TINY_DIM)
    save_sae(
        weights["sae"], SparseAutoencoder(ones, torch.zeros(16), ones.T.contiguous(), torch.zeros(TINY_DIM))
    )
    torch.save({PRISM_MAP: torch.eye(TINY_DIM)}, weights["prism"])
    kind = METHODS[method].weights
    model = [
        "--backbone",
        str(world.root / "tiny_fault_clip.json"),
        "--checkpoint",
        str(world.root / "tiny.pt"),
    ]
    return [*model, *(["--weights", str(weights[kind])] if kind else [])]


def from_the_model(arguments: list[str], world: World, method: str, embeddings: Path) -> list[str]:
    """Change a command line: text from the tiny model, one method, images of the same width."""
    changed = [str(embeddings) if a == str(world.embeddings) else a for a in arguments]
    at = changed.index("--text-embeddings")
    del changed[at : at + 2]
    for option in ("--weights", "--methods", "--method"):
        if option in changed:
            at = changed.index(option)
            end = next((i for i in range(at + 1, len(changed)) if changed[i].startswith("--")), len(changed))
            del changed[at:end]
    return [*changed, *searching(world, method)]


@pytest.mark.parametrize("tower", TOWERS)
def test_a_text_tower_without_directions_is_refused_by_main_eval(world: World, tower: str) -> None:
    assert call(world, "encode")[0] == 0
    break_text_tower(world, TOWERS[tower])
    before = tree(world.root)
    code, err = call(world, "encode", "--overwrite")
    assert code == 2
    assert "error: text embeddings of backbone 'tiny': 1 of 1 rows is NaN, infinite or all zero" in err
    assert "the first: of 'a'; check its weights" in err
    assert tree(world.root) == before  # neither a cache of such text nor a result


@pytest.mark.parametrize("command", ["audit", "debias"])
@pytest.mark.parametrize("tower", TOWERS)
def test_a_text_tower_without_directions_is_refused_for_every_method(
    world: World, tower: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_text_tower(world, TOWERS[tower])
    rows = world.data / "CLIP_tiny_embeddings.npy"
    for method in METHODS:
        if METHODS[method].weights == "zsdebias":
            continue  # needs no text but the query, like vanilla
        arguments = from_the_model(world.arguments(command), world, method, rows)
        if command == "audit":
            if METHODS[method].weights:
                arguments[-1] = f"{method}={arguments[-1]}"
            arguments += ["--methods", method]
        else:
            arguments += ["--method", method]
            if not METHODS[method].takes_labelled_images():
                for option in ("--reference-embeddings", "--reference-metadata", "--reference-column"):
                    at = arguments.index(option)
                    del arguments[at : at + 2]
        monkeypatch.setattr(World, "arguments", lambda _self, _command, given=arguments: given)
        before = tree(world.root)
        code, err = call(world, command)
        monkeypatch.undo()
        assert code == 2, (method, err)
        assert "text embeddings of backbone 'tiny_fault_clip'" in err.splitlines()[-1], (method, err)
        assert tree(world.root) == before


def test_scores_that_are_not_finite_are_never_ranked() -> None:
    class Broken(Vanilla):
        def prepare_images(self, images: torch.Tensor) -> torch.Tensor:
            return images * torch.nan

    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    group = QueryGroup(torch.ones(1, 4))
    scores = fold_scores(
        Broken(), [group], StoredImages(rows, Path("x.npy")), make_folds(20, 2)[1], lambda: None
    )
    with pytest.raises(ValueError, match="NaN or infinite"):
        list(scores.top_rows(3))
    method = Broken()
    scorer = Scorer(method, method.debias_text([group]), method.image_transform([group]))
    with pytest.raises(ValueError, match="broken: scores of 1 of 1 queries are NaN or infinite"):
        rank_images(rows, {"broken": scorer}, 3)


# --- which model ------------------------------------------------------------------------------------------


@pytest.fixture
def embedded(world: World) -> World:
    """Embed the pictures with the tiny model; its evaluation dataset is theirs."""
    backbones = world.root / "config" / "backbones.yml"
    backbones.write_text(backbones.read_text().replace("quick_gelu: true", "quick_gelu: false"))
    assert call(world, "embed")[0] == 0
    metadata = pd.read_feather(world.pictures / "metadata.feather")
    half = np.repeat(["round", "square"], len(metadata) // 2)
    metadata["color"], metadata["shape"] = np.resize(COLORS, len(metadata)), half
    metadata.to_feather(world.pictures / "metadata.feather")
    for part, folds in zip(("train", "val"), make_folds(len(metadata), 2), strict=True):
        np.save(world.pictures / f"{part}_indices.npy", folds)
    text = (
        world.config.read_text()
        .replace("folder: Toy", "folder: Pictures")
        .replace("retrieval_k: 8", "retrieval_k: 4")
    )
    world.config.write_text(text)
    forget_notes()
    return world


def replace_checkpoint(world: World) -> None:
    """Train the model a little further, as it were."""
    state = torch.load(world.root / "tiny.pt", weights_only=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(
            {name: torch.randn_like(t) if t.is_floating_point() else t for name, t in state.items()},
            world.root / "tiny.pt",
        )


def audit_of_pictures(world: World) -> list[str]:
    """Audit the pictures with the tiny model."""
    arguments = from_the_model(
        world.arguments("audit"), world, "vanilla", world.pictures / "CLIP_tiny_embeddings.npy"
    )
    for option in ("--ids", "--id-column"):
        at = arguments.index(option)
        del arguments[at : at + 2]
    metadata = str(world.pictures / "metadata.feather")
    return [metadata if a == str(world.data / "metadata.feather") else a for a in arguments] + [
        "--methods",
        "vanilla",
        "orth-proj",
    ]


def debias_with_pictures(world: World) -> list[str]:
    """Debias with the pictures as reference images."""
    arguments = from_the_model(
        world.arguments("debias"), world, "bendvlm", world.pictures / "CLIP_tiny_embeddings.npy"
    )
    metadata = str(world.pictures / "metadata.feather")
    return [metadata if a == str(world.data / "metadata.feather") else a for a in arguments] + [
        "--method",
        "bendvlm",
    ]


def train_on_pictures(world: World) -> list[str]:
    """Train ZSDebias on the pictures."""
    arguments = [str(world.pictures) if a == str(world.data) else a for a in world.arguments("zsdebias")]
    return ["tiny" if a == "alpha" else a for a in arguments][: arguments.index("--text-embeddings")]


USERS = {
    "audit": audit_of_pictures,
    "debias": debias_with_pictures,
    "zsdebias": train_on_pictures,
    "encode": None,
}


def use(world: World, command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run a command that uses the pictures' embeddings."""
    if USERS[command] is not None:
        arguments = USERS[command](world)
        monkeypatch.setattr(World, "arguments", lambda _self, _command: arguments)
    return call(world, command)


@pytest.mark.parametrize("command", USERS)
def test_embeddings_of_the_models_own_are_taken_without_a_word(
    embedded: World, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, err = use(embedded, command, monkeypatch)
    assert code == 0, err
    assert "cannot be checked" not in err


@pytest.mark.parametrize("command", USERS)
def test_a_checkpoint_that_was_replaced_after_embedding_is_refused(
    embedded: World, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_checkpoint(embedded)
    code, err = use(embedded, command, monkeypatch)
    assert code == 2
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "CLIP_tiny_embeddings.npy was made by 'tiny' (tiny_fault_clip.json, tiny.pt, digest " in line
    assert "but the text is of 'tiny" in line


@pytest.mark.parametrize("command", ["audit", "debias", "encode"])
def test_metadata_in_another_order_is_refused_everywhere(
    embedded: World, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = embedded.pictures / "metadata.feather"
    pd.read_feather(path)[::-1].reset_index(drop=True).to_feather(path)
    code, err = use(embedded, command, monkeypatch)
    assert code == 2
    assert "metadata.feather lists other images, or in another order, than CLIP_tiny_embeddings.npy" in err


@pytest.mark.parametrize("command", USERS)
def test_embeddings_without_a_manifest_are_taken_with_one_line(
    embedded: World, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (embedded.pictures / "CLIP_tiny_embeddings.manifest.json").unlink()
    code, err = use(embedded, command, monkeypatch)
    assert code == 0, err
    assert err.count("cannot be checked: whether it was made by the model of the text (no manifest") == 1


def test_debiased_queries_of_another_model_are_refused(
    embedded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries that come as embeddings are compared by the manifests of both files."""
    arguments = debias_with_pictures(embedded)
    monkeypatch.setattr(World, "arguments", lambda _self, _command: arguments)
    assert call(embedded, "debias")[0] == 0
    monkeypatch.undo()
    queries = embedded.root / "made" / "queries.npy"
    rows = embedded.pictures / "CLIP_tiny_embeddings.npy"
    audit = [
        "--embeddings", rows, "--metadata", embedded.pictures / "metadata.feather", "--attribute", "color",
        "--queries", queries, "--methods", "vanilla", "--k", 3, "--draws", 3,
        "--output-dir", embedded.root / "audit",
    ]  # fmt: skip
    monkeypatch.setattr(World, "arguments", lambda _self, _command: [str(a) for a in audit])
    code, err = call(embedded, "audit")
    assert code == 0, err
    assert "cannot be checked" not in err
    manifest = rows.with_suffix(".manifest.json")
    facts = json.loads(manifest.read_text())
    facts["model"]["text_digest"] = "another"
    manifest.write_text(json.dumps(facts))
    code, err = call(embedded, "audit")
    assert code == 2
    assert "was made by 'tiny' (tiny_fault_clip.json, tiny.pt" in err
    assert "by another model ('tiny_fault_clip')" in err


def test_the_manifest_names_model_weights_and_pixel_settings(embedded: World) -> None:
    manifest = json.loads((embedded.pictures / "CLIP_tiny_embeddings.manifest.json").read_text())
    assert {k: manifest["model"][k] for k in ("name", "open_clip", "weights")} == {
        "name": "tiny", "open_clip": "tiny_fault_clip.json", "weights": "tiny.pt",
    }  # fmt: skip
    assert manifest["model"]["pixels"]["resize_mode"] == "shortest"
    assert len(manifest["model"]["digest"]) == 64


def test_other_pixel_settings_are_another_model(embedded: World) -> None:
    path = embedded.root / "config" / "backbones.yml"
    path.write_text(path.read_text().replace("tiny:\n", "tiny:\n  mean: [0.5, 0.5, 0.5]\n"))
    code, err = call(embedded, "encode")
    assert code == 2
    assert "(mean [0.48145466, 0.4578275, 0.40821073] then, [0.5, 0.5, 0.5] now)" in err
    code, err = call(embedded, "embed")
    assert code == 2
    assert "was not made from this model, precision and image list" in err


# --- files of whole numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_whole_numbers_in_safetensors_are_no_embeddings(
    world: World, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    rows = torch.from_numpy(np.load(world.embeddings))
    path = world.root / "rows.safetensors"
    save_file({"embeddings": (rows * 40).to(kind)}, path)
    for command in ("audit", "debias"):
        arguments = [str(path) if a == str(world.embeddings) else a for a in world.arguments(command)]
        monkeypatch.setattr(World, "arguments", lambda _self, _command, given=arguments: given)
        code, err = call(world, command)
        monkeypatch.undo()
        assert code == 2
        assert f"{path}: {str(kind).removeprefix('torch.')} of shape (60, 12); a float matrix" in err
