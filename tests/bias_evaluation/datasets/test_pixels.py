"""Pixel settings: a tag's own, what all tags of a model agree on, the entry's, a file's; all 196 pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image

from bias_evaluation.datasets.pixels import DEFAULT, pixel_settings
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.identity import encoder_digest, image_digest
from bias_evaluation.grid.configs import PIXEL_KEYS, Backbone, load_backbones
from safe_io.errors import InputError

MakeBackbone = Callable[..., Backbone]
PAIRS = open_clip.list_pretrained()


def of_tag(model: str, tag: str) -> dict[str, Any]:
    found = open_clip.get_pretrained_cfg(model, tag)
    return {key: list(found[key]) if isinstance(found[key], tuple) else found[key] for key in PIXEL_KEYS}


def test_defaults_are_open_clips() -> None:
    from dataclasses import asdict

    from open_clip.transform import PreprocessCfg

    found = asdict(PreprocessCfg())
    expected = {key: list(v) if isinstance(v := found[key], tuple) else v for key in PIXEL_KEYS}
    assert expected == DEFAULT


def test_a_local_checkpoint_of_every_model_gets_its_own_settings_or_must_say_them(
    make_backbone: MakeBackbone,
) -> None:
    different, ambiguous = 0, set()
    for model, tag in PAIRS:
        expected = of_tag(model, tag)
        different += expected != DEFAULT
        assert pixel_settings(make_backbone(open_clip=model, pretrained=tag, checkpoint=None)) == expected
        local = make_backbone(open_clip=model)
        try:
            found = pixel_settings(local)
        except InputError as error:
            ambiguous.add(model)
            keys = str(error).rpartition("give ")[2].partition(" in its entry")[0].split(" and ")
            entry = {key: tuple(v) if isinstance(v := expected[key], list) else v for key in keys}
            found = pixel_settings(make_backbone(open_clip=model, pixels=tuple(entry.items())))
        assert found == expected
    assert different > 50
    assert ambiguous == {"ViT-L-14", "ViT-H-14", "ViT-H-14-quickgelu"}


def test_a_file_beside_the_checkpoint_says_it(make_backbone: MakeBackbone, tmp_path: Path) -> None:
    checkpoint = tmp_path / "open_clip_model.safetensors"
    checkpoint.write_bytes(b"")
    settings = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash", "size": 224}
    document = {"model_cfg": {}, "preprocess_cfg": settings}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    found = pixel_settings(make_backbone(open_clip="ViT-L-14", checkpoint=checkpoint))
    assert found == {**DEFAULT, "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(InputError, match=r"open_clip_config\.json"):
        pixel_settings(make_backbone(open_clip="ViT-L-14", checkpoint=checkpoint))


def test_the_images_are_preprocessed_so_and_the_digest_says_it(make_backbone: MakeBackbone) -> None:
    picture = Image.linear_gradient("L").resize((40, 20)).convert("RGB")
    plain = make_backbone()
    changed = make_backbone(pixels=(("mean", (0.5, 0.5, 0.5)), ("resize_mode", "squash")))
    expected = open_clip.image_transform(16, is_train=False, **{**DEFAULT, **dict(changed.pixels)})
    assert torch.equal(Encoder(changed).preprocess(picture), expected(picture))
    assert not torch.equal(Encoder(plain).preprocess(picture), expected(picture))
    assert image_digest(plain) == encoder_digest(plain) == encoder_digest(changed)
    assert image_digest(changed) != encoder_digest(changed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mean: [0.5, 0.5]", "'mean' must be three numbers between 0 and 1"),
        ("std: [0, 0.5, 0.5]", "'std' must be three numbers between 0 and 1"),
        ("mean: [127, 127, 127]", "'mean' must be three numbers between 0 and 1"),
        ("interpolation: nearest", "unknown 'interpolation' 'nearest'; choose from: bicubic, bilinear"),
        ("resize_mode: crop", "unknown 'resize_mode' 'crop'; choose from: shortest, longest, squash"),
    ],
)
def test_wrong_settings_in_an_entry(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "config" / "backbones.yml"
    path.parent.mkdir()
    path.write_text(f"b: {{open_clip: RN50, checkpoint: x.pt, dim: 4, quick_gelu: true, {line}}}\n")
    with pytest.raises(InputError, match=message.replace("[", "\\[")):
        load_backbones(path)


# --- what open_clip passes over in silence ----------------------------------------------------------------


def test_every_pretrained_pair_can_be_given_one_quick_gelu(make_backbone: MakeBackbone) -> None:
    from bias_evaluation.embedding.open_clip_model import _check_activation

    for model, tag in PAIRS:
        taken = []
        for quick_gelu in (True, False):
            backbone = make_backbone(open_clip=model, pretrained=tag, checkpoint=None, quick_gelu=quick_gelu)
            try:
                _check_activation(backbone, model)
                taken.append(quick_gelu)
            except InputError:
                pass
        assert len(taken) == 1, (model, tag, taken)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_cfg": {"context_length": 24}}, "text position embedding num_pos from 16 to 24"),
        ({"text_cfg": {"context_length": 8}}, "text position embedding num_pos from 16 to 8"),
        ({"vision_cfg": {"image_size": 32}}, r"position embedding grid-size from \(2, 2\) to \(4, 4\)"),
    ],
)
def test_weights_of_another_image_size_or_context_length_are_refused_unless_asked_for(
    make_backbone: MakeBackbone, tiny_clip: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    document = json.loads((tiny_clip / "tiny_test_clip.json").read_text())
    for part, values in changes.items():
        document[part].update(values)
    path = tmp_path / f"resized_{next(iter(changes))}_{len(message)}.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"another image size or context length .*resizing {message}"):
        Encoder(make_backbone(open_clip=str(path)))
    Encoder(make_backbone(open_clip=str(path), resize_positions=True))


def test_a_tokenizer_of_a_missing_package_is_one_line(
    make_backbone: MakeBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_name: str) -> None:
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr(open_clip, "get_tokenizer", missing)
    with pytest.raises(
        InputError, match=r"needs the package transformers: pip install 'sem-debiasing\[hf\]'"
    ):
        Encoder(make_backbone())


class PaddedWithEnd:
    """A tokenizer of one token per word that ends and pads with the same token, as SigLIP's does."""

    context_length = 5

    def __call__(self, texts: list[str], context_length: int | None = None) -> torch.Tensor:
        length = context_length or self.context_length
        rows = [[sum(map(ord, word)) % 99 + 2 for word in text.split()][: length - 1] for text in texts]
        return torch.tensor([row + [1] * (length - len(row)) for row in rows])


class PaddedThenClass(PaddedWithEnd):
    """One that pads with 0 and ends with a class token, after the padding."""

    def __call__(self, texts: list[str], context_length: int | None = None) -> torch.Tensor:
        tokens = super().__call__(texts, context_length)
        tokens[tokens == 1] = 0
        tokens[:, -1] = 101
        return tokens


@pytest.mark.parametrize(
    "tokenizer", [PaddedWithEnd(), PaddedThenClass(), open_clip.SimpleTokenizer(context_length=6)]
)
def test_long_texts_are_counted_whatever_a_tokenizer_pads_with(
    make_backbone: MakeBackbone, tokenizer: Any
) -> None:
    encoder = Encoder(make_backbone())
    encoder._tokenize = tokenizer
    texts = ["", "red", "red blue green pink", "red blue green pink white", "red blue green pink white ! ! !"]
    assert encoder.too_long(texts) == [False, False, False, True, True]
