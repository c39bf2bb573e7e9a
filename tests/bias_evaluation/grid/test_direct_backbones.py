"""Backbones without an entry: tags of open_clip, local folders and the hub, all with models saved here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from support.hub_models import CLIP, HALF, SIGLIP, put_in_cache, save_model, save_tokenizer, serve_hub

from bias_evaluation.datasets.pixels import pixel_settings
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.identity import encoder_digest
from bias_evaluation.grid.configs import get_backbone
from bias_evaluation.grid.direct_backbones import describe_direct
from bias_evaluation.weights.find import sae_file
from fair_search.backbones import find_backbone
from safe_io import hub
from safe_io.checkout import ROOT
from safe_io.errors import InputError

SHIPPED = ROOT / "config" / "backbones.yml"
TEXTS = ["a photo of a doctor", "a photo of a person " * 40]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny-clip", CLIP, **HALF)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    folder = save_model(tmp_path_factory.mktemp("models") / "tiny-siglip", SIGLIP, **HALF)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give an empty cache of the hub, and undo what finding out about the hub sets."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub._answers.cache_clear()
    yield tmp_path / "cache"
    hub._answers.cache_clear()


def test_a_tag_of_open_clip_is_described_by_its_name() -> None:
    found = get_backbone("ViT-B-32:laion2b_s34b_b79k", SHIPPED)
    assert (found.name, found.dim, found.quick_gelu) == ("ViT-B-32--laion2b_s34b_b79k", 512, False)
    assert found == find_backbone("ViT-B-32:laion2b_s34b_b79k")
    assert find_backbone("ViT-B-32:openai").quick_gelu
    siglip = get_backbone("ViT-B-16-SigLIP:webli", SHIPPED)
    assert pixel_settings(siglip) == HALF
    assert siglip.dim == 768


def test_a_tag_that_has_an_entry_is_that_entry() -> None:
    assert get_backbone("ViT-B-16:openai", SHIPPED) == get_backbone("ViT-B-16", SHIPPED)


def test_a_local_folder_gives_the_embeddings_of_open_clip(clip: Path) -> None:
    backbone = describe_direct(f"local-dir:{clip}")
    encoder = Encoder(backbone)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    image = Image.linear_gradient("L").resize((60, 40)).convert("RGB")
    pixels = transform(image)
    assert torch.equal(encoder.preprocess(image), pixels)
    with torch.inference_mode():
        expected = model.eval().encode_image(pixels[None])
        text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{clip}")(TEXTS))
    torch.testing.assert_close(encoder.encode_images(pixels[None]), expected)
    torch.testing.assert_close(encoder.encode_text(TEXTS), text)
    assert (backbone.name, backbone.dim) == ("tiny-clip", 16)


@pytest.mark.parametrize("name", ["ViT-B-32:openai", "hf-hub:org/tiny-clip", "local-dir"])
def test_error_lines_name_a_backbone_as_commands_take_it(
    name: str, clip: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"local-dir:{clip}" if name == "local-dir" else name
    with serve_hub({"org/tiny-clip": clip}) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        backbone = describe_direct(name)
    assert backbone.option == name
    assert f"--backbone {name} " in sae_file(ROOT, "default", backbone).make
    assert get_backbone("ViT-B-16", SHIPPED).option == "ViT-B-16"


def test_the_digest_is_of_the_model_and_not_of_its_place(clip: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(clip, tmp_path / "elsewhere")
    other = save_model(tmp_path / "other", CLIP, seed=1, **HALF)
    digests = [encoder_digest(describe_direct(f"local-dir:{folder}")) for folder in (clip, moved, other)]
    assert digests[0] == digests[1] != digests[2]


def test_siglip_reads_64_tokens_and_squashes(siglip: Path) -> None:
    encoder = Encoder(describe_direct(f"local-dir:{siglip}"))
    assert encoder._tokenize(TEXTS).shape == (2, 64)
    assert encoder.too_long(TEXTS) == [False, True]
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{siglip}")
    image = Image.linear_gradient("L").resize((60, 20)).convert("RGB")
    assert torch.equal(encoder.preprocess(image), transform(image))
    with torch.inference_mode():
        expected = model.eval().encode_text(encoder._tokenize(TEXTS))
    torch.testing.assert_close(encoder.encode_text(TEXTS), expected)


def dataset_of_images(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    table = pd.DataFrame({"file_path": [f"images/{i}.png" for i in range(3)], "group": ["a", "b", "a"]})
    table.to_feather(folder / "metadata.feather")
    return folder


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_model_in_the_hubs_cache_is_embedded_with_offline(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = f"org/tiny-{kind}"
    folder = request.getfixturevalue(kind)
    put_in_cache(tmp_path / "home" / "hub", model, folder)
    data = dataset_of_images(tmp_path / "data")
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "precompute_embeddings.py"), "--backbone", f"hf-hub:{model}"]
    options = ["--dataset-name", "own", "--dataset-path", str(data), "--workers", "0"]
    ran = subprocess.run([*command, *options], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    made = np.load(data / f"CLIP_org--tiny-{kind}_embeddings.npy")
    encoder = Encoder(describe_direct(f"local-dir:{folder}"))
    images = [Image.open(data / "images" / f"{i}.png") for i in range(3)]
    expected = encoder.encode_images(torch.stack([encoder.preprocess(image) for image in images]))
    np.testing.assert_allclose(made, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_download_is_the_model_that_the_hub_serves(
    clip: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_hub({"org/tiny-clip": clip}) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        found = describe_direct("hf-hub:org/tiny-clip")
    assert found.checkpoint.read_bytes() == (clip / "open_clip_model.safetensors").read_bytes()
    assert encoder_digest(found) == encoder_digest(describe_direct(f"local-dir:{clip}"))
    assert (found.name, found.open_clip) == ("org--tiny-clip", "hf-hub:org/tiny-clip")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("hf-hub:org/none", r"model 'org/none' of http://127.* does not exist, or is private"),
        ("hf-hub:org/gated", r"'org/gated' .* is gated: accept its terms .*hf auth login"),
        ("hf-hub:org/empty", r"has no file open_clip_config\.json: it is no model in open_clip's layout"),
        ("hf-hub:org/no-weights", r"has no file open_clip_pytorch_model\.bin"),
        ("hf-hub:../../etc", r"a model of the hub is named hf-hub:ORG/NAME"),
        ("hf-hub:", r"a model of the hub is named hf-hub:ORG/NAME"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    name: str, line: str, clip: Path, no_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no-weights").mkdir()
    shutil.copy(clip / "open_clip_config.json", tmp_path / "no-weights")
    served = {f"org/{part}": tmp_path / part for part in ("empty", "no-weights")}
    with serve_hub({**served, "org/gated": "GatedRepo"}) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(InputError, match=line) as error:
            describe_direct(name)
    assert "\n" not in str(error.value)


def test_without_a_connection_the_line_comes_at_once(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"does not answer.*not in the cache.*hf download org/x.*local-dir"):
        describe_direct("hf-hub:org/x")
    assert time.perf_counter() - start < 5


def test_folders_that_are_no_model_are_one_line(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder not found"):
        describe_direct(f"local-dir:{tmp_path / 'none'}")
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match=r"has no open_clip_config\.json"):
        describe_direct(f"local-dir:{tmp_path / 'plain'}")
    shutil.copy(clip / "open_clip_config.json", tmp_path / "plain")
    with pytest.raises(InputError, match=r"has no weights"):
        describe_direct(f"local-dir:{tmp_path / 'plain'}")
    image_only = {"model_cfg": {key: value for key, value in CLIP.items() if key != "text_cfg"}}
    (tmp_path / "plain" / "open_clip_config.json").write_text(json.dumps(image_only))
    shutil.copy(clip / "open_clip_model.safetensors", tmp_path / "plain")
    with pytest.raises(InputError, match=r"text_cfg"):
        describe_direct(f"local-dir:{tmp_path / 'plain'}")


def test_names_that_are_nothing_say_what_is_allowed() -> None:
    with pytest.raises(
        InputError, match=r"unknown backbone 'ViT-Z'.*MODEL:TAG of open_clip, hf-hub:ORG/NAME"
    ):
        get_backbone("ViT-Z", SHIPPED)
    with pytest.raises(InputError, match=r"unknown pretrained tag 'opnai'.*did you mean 'openai'"):
        get_backbone("ViT-B-32:opnai", SHIPPED)
    with pytest.raises(InputError, match=r"open_clip knows no model 'ViT-Z'"):
        get_backbone("ViT-Z:openai", SHIPPED)
    with pytest.raises(InputError, match=r"has its own weights: leave out 'openai'"):
        find_backbone(("hf-hub:org/x", "openai"))
