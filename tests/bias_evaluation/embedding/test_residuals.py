"""Residuals of the last block: ``ln(v)W`` is the embedding, for every family of towers that has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import precompute_embeddings
from bias_evaluation.datasets.folder import embeddings_name, head_path, residuals_name
from bias_evaluation.datasets.metadata import METADATA, write_metadata
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.image_embeddings import embed_dataset
from bias_evaluation.embedding.residuals import image_head, image_residuals, read_head, text_head, write_head
from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.embedding.text_tower import encode_tokens
from bias_evaluation.grid.configs import Backbone
from debiasing_methods.debiaslens import switch_off
from debiasing_methods.sae import SparseAutoencoder
from safe_io.errors import InputError, run_main

VOCABULARY = 600
TEXT = {"context_length": 12, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2}
VIT = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none", "image_size": 32}
SIGLIP_TEXT = TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "openai": {"vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True},
    "laion": {"vision_cfg": VIT, "text_cfg": TEXT},
    "norm-after-pooling": {"vision_cfg": VIT | {"final_ln_after_pool": True}, "text_cfg": TEXT},
    "siglip-text": {"vision_cfg": VIT, "text_cfg": SIGLIP_TEXT, "custom_text": True},
    "class-token-text": {"vision_cfg": VIT, "text_cfg": TEXT | {"embed_cls": True}, "custom_text": True},
}
WITHOUT = {
    "resnet": ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "patch_size": None}, "ModifiedResNet"),
    "attention-pooling": (VIT | {"attentional_pool": True, "attn_pooler_heads": 2}, "VisionTransformer"),
    "mean-pooling": (VIT | {"pool_type": "avg"}, "VisionTransformer"),
}


def _build(folder: Path, **config: Any) -> nn.Module:
    path = folder / "tiny-residuals.json"
    path.write_text(json.dumps({"embed_dim": 8} | config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-residuals").eval()
    for name, parameter in model.named_parameters():
        if "ln_" in name or "norm" in name or name.endswith("text_projection.bias"):
            nn.init.normal_(parameter, mean=1.0, std=0.3)  # as trained ones are: not 1 and 0
    return model


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_the_heads_make_the_embeddings_from_the_residuals(family: str, tmp_path: Path) -> None:
    model = _build(tmp_path, **FAMILIES[family])
    pixels, tokens = torch.randn(5, 3, 16, 16), torch.zeros(6, 12, dtype=torch.long)
    for row in range(6):
        tokens[row, : row + 3] = torch.randint(3, VOCABULARY - 2, (row + 3,))
        tokens[row, row + 3] = VOCABULARY - 1
    before = model.encode_image(pixels), model.encode_text(tokens)
    images = image_head(model, family).embeddings(image_residuals(model, pixels))
    texts = text_head(model, family).embeddings(encode_tokens(model, tokens, "cpu", residuals=True))
    for found, expected in zip((images, texts), before, strict=True):
        assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert torch.equal(model.encode_image(pixels), before[0])  # the hooks are gone
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_tower_without_residuals_is_named(kind: str, tmp_path: Path) -> None:
    vision, tower = WITHOUT[kind]
    model = _build(tmp_path, vision_cfg=vision, text_cfg=TEXT)
    with pytest.raises(
        InputError, match=rf"backbone 'mine': its image tower \({tower}\) does not end in one"
    ):
        image_head(model, "mine")
    assert text_head(model, "mine").width == 16


def test_siglips_image_tower_has_none(tmp_path: Path) -> None:
    model = _build(tmp_path, vision_cfg=TIMM, text_cfg=SIGLIP_TEXT, custom_text=True)
    with pytest.raises(InputError, match=r"its image tower \(TimmModel\) does not end in one token"):
        image_head(model, "mine")


def test_a_head_survives_its_file(tmp_path: Path) -> None:
    for family in ("openai", "siglip-text"):
        head = text_head(_build(tmp_path, **FAMILIES[family]), family)
        write_head(tmp_path / "head.npz", head)
        read, v = read_head(tmp_path / "head.npz"), torch.randn(4, 16)
        assert torch.equal(read.embeddings(v), head.embeddings(v))
        assert (read.bias is None) == (family == "openai")
    (tmp_path / "head.npz").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"head\.npz"):
        read_head(tmp_path / "head.npz")


# --- files ------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder, random = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    for i in range(9):
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    table = pd.DataFrame({"file_path": [f"{i}.png" for i in range(9)]})
    write_metadata(folder / METADATA, table)
    return folder


@pytest.fixture
def vit(make_backbone: Callable[..., Backbone], tmp_path: Path) -> Backbone:
    """Save a tiny ViT as a backbone."""
    vision = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
    text = TEXT | {"context_length": 16, "vocab_size": 49408}
    model = _build(tmp_path, vision_cfg=vision, text_cfg=text)
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    changes = {"open_clip": str(tmp_path / "tiny-residuals.json"), "checkpoint": tmp_path / "vit.pt"}
    return make_backbone(**changes, quick_gelu=False)


def test_stored_residuals_make_the_stored_embeddings(dataset: Path, vit: Backbone) -> None:
    metadata, encoder = pd.read_feather(dataset / METADATA), Encoder(vit)
    options = {"batch_size": 4, "workers": 0, "progress": False}
    embed_dataset(encoder, dataset, metadata, **options)
    target = embed_dataset(encoder, dataset, metadata, residuals=True, **options)
    assert target == dataset / residuals_name("tiny")
    embeddings = np.load(dataset / embeddings_name("tiny"))
    made = read_head(head_path(target)).embeddings(torch.from_numpy(np.load(target))).numpy()
    np.testing.assert_allclose(made, embeddings, rtol=0, atol=1e-5 * np.abs(embeddings).max())
    content = target.read_bytes()
    assert embed_dataset(encoder, dataset, metadata, residuals=True, **options).read_bytes() == content
    with pytest.raises(InputError, match="was not made from this model"):
        embed_dataset(encoder, dataset, metadata[::-1], residuals=True, **options)


def test_text_residuals_are_kept_beside_the_embeddings(vit: Backbone, tmp_path: Path) -> None:
    prompts = ["a photo of a thief", "an owl", ""]
    text = TextStore(vit, tmp_path / "text").embed(prompts)
    store = TextStore(vit, tmp_path / "text", residuals=True)
    residuals = store.embed(prompts)
    head = Encoder(vit).text_head
    torch.testing.assert_close(head.embeddings(residuals), text, rtol=0, atol=1e-5 * float(text.abs().max()))
    again = TextStore(vit, tmp_path / "text", residuals=True)
    assert again.missing(prompts) == []
    assert torch.equal(again.embed(prompts), residuals)
    assert len(list((tmp_path / "text").glob("*_residuals.npz"))) == 1


def test_the_command_stores_both_and_keeps_them(
    dataset: Path, vit: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"stem": "tiny", "open_clip": vit.open_clip, "checkpoint": str(vit.checkpoint), "dim": 8}
    backbones = tmp_path / "backbones.yml"
    backbones.write_text(yaml.safe_dump({"tiny": entry | {"quick_gelu": False}}))
    arguments = [
        "--backbone",
        "tiny",
        "--dataset-name",
        "mine",
        "--dataset-path",
        str(dataset),
        "--workers",
        "0",
    ]
    arguments += ["--backbones-file", str(backbones)]
    assert precompute_embeddings.main(arguments) == 0
    assert not (dataset / residuals_name("tiny")).exists()
    assert precompute_embeddings.main([*arguments, "--residuals"]) == 0  # the embeddings are there already
    residuals = np.load(dataset / residuals_name("tiny"))
    made = read_head(head_path(dataset / residuals_name("tiny"))).embeddings(torch.from_numpy(residuals))
    stored = np.load(dataset / embeddings_name("tiny"))
    np.testing.assert_allclose(made.numpy(), stored, rtol=0, atol=1e-5 * np.abs(stored).max())
    capsys.readouterr()
    assert precompute_embeddings.main([*arguments, "--residuals"]) == 0
    assert capsys.readouterr().out.count("kept") == 2
    (dataset / "8.png").write_bytes(b"no image")
    arguments += ["--overwrite", "--skip-unreadable", "--residuals"]
    (dataset / embeddings_name("tiny")).unlink()
    assert precompute_embeddings.main(arguments) == 0
    assert len(np.load(dataset / residuals_name("tiny"))) == len(pd.read_feather(dataset / METADATA)) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "0/2"], "--residuals runs in one process"),
        (["--precision", "bf16"], "--residuals needs --precision fp32"),
    ],
)
def test_what_residuals_cannot_do(
    options: list[str], message: str, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--backbone", "ViT-B-16", "--dataset_name", "mine", "--dataset_path", str(dataset)]
    assert run_main(lambda: precompute_embeddings.main([*arguments, "--residuals", *options])) == 2
    assert message in capsys.readouterr().err


# --- an edit inside the encoder -----------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["image", "text"])
@torch.inference_mode()
def test_an_edit_of_every_token_is_that_of_the_pooled_one(side: str, tmp_path: Path) -> None:
    """DeBiasLens edits what the last block gives at every token; stored residuals need no second pass."""
    model = _build(tmp_path, **FAMILIES["openai"])
    generator = torch.Generator().manual_seed(0)
    encoder, decoder, center = (torch.randn(*s, generator=generator) for s in ((40, 16), (16, 40), (16,)))
    sae = SparseAutoencoder(encoder, torch.zeros(40), decoder / 40, center, threshold=0.5)

    def edit(v: torch.Tensor) -> torch.Tensor:
        rows = v.reshape(-1, 16)
        return switch_off(rows, sae.encode(rows), sae, torch.tensor([1, 7, 30]), 0.6).view_as(v)

    tower = model.visual.transformer if side == "image" else model.transformer
    tokens = torch.randint(3, VOCABULARY - 2, (4, 12), generator=generator)
    tokens[:, 8] = VOCABULARY - 1
    pixels = torch.randn(4, 3, 16, 16, generator=generator)
    encode = {"image": lambda: model.encode_image(pixels), "text": lambda: model.encode_text(tokens)}[side]
    plain = encode()
    handle = tower.resblocks[-1].register_forward_hook(lambda *given: edit(given[2]))
    try:
        hooked = encode()
    finally:
        handle.remove()
    if side == "image":
        head, v = image_head(model, "openai"), image_residuals(model, pixels)
    else:
        head, v = text_head(model, "openai"), encode_tokens(model, tokens, "cpu", residuals=True)
    torch.testing.assert_close(
        head.embeddings(edit(v)), hooked, rtol=0, atol=1e-5 * float(hooked.abs().max())
    )
    assert float((hooked - plain).abs().max()) > 1e-2 * float(plain.abs().max())
    assert torch.equal(encode(), plain)
