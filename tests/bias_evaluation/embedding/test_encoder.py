"""The towers against open_clip itself, and the right activation."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from bias_evaluation.embedding import text_tower
from bias_evaluation.embedding.encoder import Encoder, check_device
from bias_evaluation.embedding.identity import encoder_digest
from bias_evaluation.grid.configs import Backbone, load_backbones
from safe_io.checkout import ROOT
from safe_io.errors import InputError

DIM = 8
PROMPTS = ["a photo of a thief", "a photo of a nurse", "an owl", "a very long sentence " * 9, ""]
SHIPPED = load_backbones(ROOT / "config" / "backbones.yml")
OPENAI = [b for b in SHIPPED.values() if b.pretrained == "openai"]

MakeBackbone = Callable[..., Backbone]


@pytest.fixture(scope="module")
def reference(make_backbone: MakeBackbone) -> nn.Module:
    """Build the tiny model with open_clip alone."""
    backbone = make_backbone()
    open_clip.add_model_config(backbone.open_clip)
    name = Path(backbone.open_clip).stem
    return open_clip.create_model(name, str(backbone.checkpoint), force_quick_gelu=True).eval()


# --- towers -----------------------------------------------------------------------------------------------


def test_text_is_open_clips_and_raw(
    make_backbone: MakeBackbone, reference: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tower, "PACK_TOKENS", 12)  # so that there are several packs
    tested = Encoder(make_backbone())
    embeddings = tested.encode_text(PROMPTS)
    assert not tested.model.training  # dropout, where a model has any, is off
    with torch.no_grad():
        tokens = open_clip.tokenize(PROMPTS, context_length=16)
        expected = reference.encode_text(tokens, normalize=False)
    assert (embeddings.dtype, embeddings.shape) == (torch.float32, (5, DIM))
    torch.testing.assert_close(embeddings, expected, rtol=1e-5, atol=1e-6)
    assert (embeddings.norm(dim=1) - 1).abs().min() > 1e-3  # not normalised


def test_images_are_open_clips_and_raw(make_backbone: MakeBackbone, reference: nn.Module) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    embeddings = Encoder(make_backbone()).encode_images(images)
    with torch.no_grad():
        expected = reference.encode_image(images, normalize=False)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, expected, rtol=1e-5, atol=1e-6)
    assert (embeddings.norm(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_is_close_and_comes_out_as_float32(
    make_backbone: MakeBackbone, reference: nn.Module, precision: str
) -> None:
    low = Encoder(make_backbone(), precision=precision)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    embeddings = low.encode_images(images)
    assert embeddings.dtype == low.encode_text(["a"]).dtype == torch.float32
    with torch.no_grad():
        exact = reference.encode_image(images, normalize=False)
    cosine = torch.nn.functional.cosine_similarity(embeddings, exact)
    assert cosine.min() > 0.995
    assert not torch.equal(embeddings, exact)


# --- activation -------------------------------------------------------------------------------------------


def _activations(model: nn.Module) -> tuple[int, int]:
    """Count the QuickGELUs and the ordinary GELUs of a model."""
    kinds = [type(module) for module in model.modules()]
    return kinds.count(QuickGELU), kinds.count(nn.GELU)


def test_the_built_model_has_the_activation_of_the_config(make_backbone: MakeBackbone) -> None:
    quick, plain = (Encoder(make_backbone(quick_gelu=flag)) for flag in (True, False))
    assert _activations(quick.model) == (2, 0)  # one block in each tower
    assert _activations(plain.model) == (0, 2)
    assert not torch.allclose(quick.encode_text(["a thief"]), plain.encode_text(["a thief"]), atol=1e-5)


def test_openai_weights_are_asked_for_with_quick_gelu() -> None:
    assert {b.name: b.quick_gelu for b in OPENAI} == {
        "ViT-B-16": True,
        "ViT-L-14@336px": True,
        "RN50": True,
        "RN101": True,
    }
    for backbone in OPENAI:
        assert open_clip.get_pretrained_cfg(backbone.open_clip, "openai")["quick_gelu"] is True


@pytest.fixture
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let open_clip build what it is asked for, but with random weights."""
    create = open_clip.create_model_and_transforms

    def untrained(name: str, *, pretrained: str, weights_only: bool, **options: Any) -> Any:
        assert pretrained == "openai"
        assert weights_only
        return create(name, pretrained=None, **options | {"require_pretrained": False})

    monkeypatch.setattr(open_clip, "create_model_and_transforms", untrained)


@pytest.mark.usefixtures("without_weights")
@pytest.mark.parametrize(("name", "blocks"), [("ViT-B-16", 12 + 12), ("RN50", 12)])
def test_shipped_backbones_are_built_with_quick_gelu(name: str, blocks: int) -> None:
    built = Encoder(SHIPPED[name])  # checks the width of the config as well
    assert _activations(built.model) == (blocks, 0)


@pytest.mark.usefixtures("without_weights")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"open_clip": "RN50", "quick_gelu": False},
            "the weights 'openai' were trained with QuickGELU, but its quick_gelu is false",
        ),
        (
            {"open_clip": "RN50-quickgelu", "quick_gelu": False},
            "the model 'RN50-quickgelu' has QuickGELU, but its quick_gelu is false",
        ),
        (
            {"open_clip": "ViT-B-32", "pretrained": "laion2b_s34b_b79k", "quick_gelu": True},
            "the weights 'laion2b_s34b_b79k' were trained without QuickGELU, but its quick_gelu is true",
        ),
    ],
)
def test_a_wrong_activation_is_refused(
    make_backbone: MakeBackbone, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError) as error:
        Encoder(make_backbone(**{"checkpoint": None, "pretrained": "openai"} | changes))
    assert str(error.value) == f"backbone 'tiny': {expected}"


# --- what cannot be loaded --------------------------------------------------------------------------------


def test_wrong_width(make_backbone: MakeBackbone) -> None:
    with pytest.raises(InputError, match=r"gives embeddings of width 8, but its 'dim' in the .* is 9"):
        Encoder(make_backbone(dim=9))


def test_missing_checkpoint(make_backbone: MakeBackbone, tmp_path: Path) -> None:
    backbone = make_backbone(checkpoint=tmp_path / "no.pt")
    with pytest.raises(InputError, match=r"checkpoint of backbone 'tiny' not found: .*no\.pt; put it there"):
        Encoder(backbone)


def test_unknown_model_and_tag(make_backbone: MakeBackbone) -> None:
    with pytest.raises(InputError, match=r"'tiny': open_clip knows no model 'ViT-Q-1'; .*list_models"):
        Encoder(make_backbone(open_clip="ViT-Q-1"))
    for tag in ("openay", "/tmp/weights.pt"):
        with pytest.raises(InputError, match=f"'tiny': unknown pretrained tag '{tag}'; choose from: openai"):
            Encoder(make_backbone(open_clip="RN50", checkpoint=None, pretrained=tag))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "model config of backbone 'tiny' not found: "),
        ("{", "model config of backbone 'tiny' is not valid JSON: "),
        ("[]", "a mapping is needed, found an empty list"),
        (json.dumps({"embed_dim": 8, "vision_cfg": {}}), "the key 'text_cfg' is missing"),
    ],
)
def test_wrong_model_config(
    make_backbone: MakeBackbone, tmp_path: Path, text: str | None, expected: str
) -> None:
    path = tmp_path / "broken_model.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as error:
        Encoder(make_backbone(open_clip=str(path)))
    assert expected in str(error.value)
    assert str(path) in str(error.value)


class Trap:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.filterwarnings("ignore")  # torch warns of what it then refuses
@pytest.mark.parametrize("kind", ["text", "cut", "pickle", "torch pickle", "another model"])
def test_unusable_checkpoint(make_backbone: MakeBackbone, tiny_clip: Path, tmp_path: Path, kind: str) -> None:
    path, trap = tmp_path / "x.pt", tmp_path / "trap"
    if kind == "torch pickle":
        torch.save({"x": Trap(trap)}, path)
    elif kind == "another model":
        state = torch.load(tiny_clip / "tiny.pt", weights_only=True)
        torch.save({k: v for k, v in state.items() if k != "text_projection"}, path)
    else:
        whole = (tiny_clip / "tiny.pt").read_bytes()
        content = {"text": b"no weights", "cut": whole[:1000], "pickle": pickle.dumps(Trap(trap))}
        path.write_bytes(content[kind])
    with pytest.raises(InputError, match=r"backbone 'tiny' cannot be loaded from .*x\.pt: "):
        Encoder(make_backbone(checkpoint=path))
    assert not trap.exists()


def test_a_gpu_that_is_not_there(make_backbone: MakeBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device("cpu")
    with pytest.raises(InputError, match="--device cuda: this machine has no GPU that torch can use"):
        Encoder(make_backbone(), device="cuda")


# --- digest -----------------------------------------------------------------------------------------------


def test_digest_says_what_decides_an_embedding(
    make_backbone: MakeBackbone, tiny_clip: Path, tmp_path: Path
) -> None:
    digest = encoder_digest(make_backbone())
    copy = tmp_path / "copy.pt"
    shutil.copy(tiny_clip / "tiny.pt", copy)
    config = tmp_path / "renamed.json"
    shutil.copy(tiny_clip / "tiny_test_clip.json", config)
    same = make_backbone(name="other", stem="o", sae="x.pth", checkpoint=copy, open_clip=str(config))
    assert encoder_digest(same) == digest
    copy.write_bytes(copy.read_bytes() + b"\0")
    assert encoder_digest(same) != digest
    assert encoder_digest(make_backbone(quick_gelu=False)) != digest
    config.write_text(config.read_text().replace("16", "32"))
    assert encoder_digest(make_backbone(open_clip=str(config))) != digest
    tags = [make_backbone(open_clip="RN50", checkpoint=None, pretrained=t) for t in ("openai", "cc12m")]
    assert encoder_digest(tags[0]) != encoder_digest(tags[1])
