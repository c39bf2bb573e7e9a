"""Packed text encoding against open_clip's padded way, for every architecture that open_clip builds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from bias_evaluation.embedding import text_tower
from bias_evaluation.embedding.text_tower import causal_tower, encode_tokens, packs

WIDTH, DIM, VOCABULARY = 16, 8, 600
TINY_VISION = {"layers": 1, "width": 16, "head_width": 16, "patch_size": 16, "image_size": 16}
ROUNDING = 1e-6
CONFIGS = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
# Towers of the transformers library are not built from a config alone.
OURS = sorted(name for name, config in CONFIGS.items() if "hf_model_name" not in config["text_cfg"])


def _shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """Make a model small; what decides about padding is left as it is."""
    config = copy.deepcopy(config)
    config |= {"embed_dim": DIM}
    config["text_cfg"] |= {"width": WIDTH, "heads": 2, "layers": 2, "vocab_size": VOCABULARY}
    kept = {k: v for k, v in config["vision_cfg"].items() if k in ("output_tokens", "attentional_pool")}
    config["vision_cfg"] = TINY_VISION | kept
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"width": WIDTH, "heads": 2, "layers": 1, "vocab_size": VOCABULARY}
    return config


def _build(config: dict[str, Any], folder: Path, precision: str = "fp32") -> nn.Module:
    path = folder / "tiny-tower.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-tower", precision=precision).eval()
    for name, parameter in model.named_parameters():
        if "positional_embedding" in name:  # so that positions matter
            nn.init.normal_(parameter, std=0.02)
    return model


def _tokens(model: nn.Module, rows: int = 40) -> Tensor:
    """Sentences of all lengths that share beginnings, one of them without an end, one twice."""
    tower = getattr(model, "text", model)
    length = tower.context_length
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    end = max(getattr(tower, "eos_id", 2), 2) if _pooling(model) == "eos" else VOCABULARY - 1
    for row in range(rows):
        count = 2 + row % (length - 2)
        tokens[row, :count] = torch.randint(3, VOCABULARY - 2, (count,), generator=generator)
        tokens[row, : count // 2] = torch.arange(3, 3 + count // 2)
        tokens[row, count] = end
    tokens[0] = torch.randint(3, VOCABULARY - 2, (length,), generator=generator)
    tokens[-1] = tokens[7]
    return tokens[torch.randperm(rows, generator=generator)]


def _pooling(model: nn.Module) -> str:
    return getattr(model, "text_pool_type", None) or model.text.pool_type


@torch.inference_mode()
def _difference(model: nn.Module, tokens: Tensor) -> float:
    """Largest distance from the padded embedding, as a share of its norm."""
    padded = model.encode_text(tokens).float()
    ours = encode_tokens(model, tokens, "cpu")
    assert ours.shape == (len(tokens), DIM) or model.text.text_projection is None
    assert (ours.dtype, ours.device.type) == (torch.float32, "cpu")
    return float(((ours - padded).norm(dim=1) / padded.norm(dim=1)).max())


def _exact(config: dict[str, Any]) -> bool:
    """Whether the config describes a causal text tower that pools at the end-of-text token."""
    text = config["text_cfg"]
    causal = not text.get("no_causal_mask", False) and not text.get("embed_cls", False)
    return causal and text.get("pool_type", "argmax") in ("argmax", "eos")


@pytest.mark.parametrize("name", OURS)
def test_every_architecture_gives_the_padded_embeddings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tower, "PACK_TOKENS", 90)  # so that there are several packs
    model = _build(_shrunk(CONFIGS[name]), tmp_path)
    assert (causal_tower(model) is not None) == _exact(CONFIGS[name])
    assert _difference(model, _tokens(model)) < ROUNDING


def test_most_architectures_need_no_padding() -> None:
    exact = {name for name in OURS if _exact(CONFIGS[name])}
    assert {"ViT-B-16-quickgelu", "ViT-L-14-336-quickgelu", "RN50-quickgelu", "RN101-quickgelu"} <= exact
    assert {"ViT-B-16-SigLIP", "coca_ViT-B-32", "MobileCLIP-S1", "ViT-L-14-CLIPA"} <= set(OURS) - exact


@pytest.mark.parametrize(
    "text",
    [
        {"pool_type": "first"},
        {"pool_type": "last"},
        {"no_causal_mask": True},
        {"embed_cls": True},
        {"proj_bias": True},
        {"proj_type": "none"},
        {"pool_type": "eos", "eos_id": 5},
        {
            "qk_norm": True,
            "scale_heads": True,
            "scale_attn_inner": True,
            "scale_attn": True,
            "scale_fc": True,
        },
        {"ls_init_value": 0.1, "mlp_ratio": 2.0, "context_length": 300},
    ],
    ids=lambda text: "-".join(text),
)
def test_each_option_of_a_text_tower_gives_the_padded_embeddings(
    text: dict[str, Any], tmp_path: Path
) -> None:
    config = _shrunk(CONFIGS["EVA02-B-16"])
    config["text_cfg"] |= text
    model = _build(config, tmp_path)
    assert (causal_tower(model) is not None) == _exact(config)
    assert _difference(model, _tokens(model)) < ROUNDING


def test_a_mask_that_is_not_causal_keeps_the_padding(tmp_path: Path) -> None:
    model = _build(_shrunk(CONFIGS["ViT-B-16"]), tmp_path)
    assert causal_tower(model) is not None
    model.attn_mask[3, 5] = 0  # token 3 sees one behind it
    assert causal_tower(model) is None
    assert _difference(model, _tokens(model)) < ROUNDING


def test_an_encoding_of_another_class_keeps_the_padding(tmp_path: Path) -> None:
    model = _build(_shrunk(CONFIGS["ViT-B-16"]), tmp_path)

    class Negated(open_clip.CLIP):
        def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
            return -super().encode_text(text, normalize)

    model.__class__ = Negated
    assert causal_tower(model) is None
    assert _difference(model, _tokens(model)) < ROUNDING


@pytest.mark.parametrize(("precision", "epsilon"), [("fp16", 2**-10), ("bf16", 2**-7)])
@pytest.mark.parametrize("name", ["ViT-B-16-quickgelu", "EVA02-B-16", "MobileCLIP-S1"])
def test_low_precision_differs_by_its_own_rounding(
    name: str, precision: str, epsilon: float, tmp_path: Path
) -> None:
    model = _build(_shrunk(CONFIGS[name]), tmp_path, precision)
    assert _difference(model, _tokens(model)) < 2 * epsilon


@torch.inference_mode()
def test_neither_order_nor_company_changes_an_embedding(tmp_path: Path) -> None:
    model = _build(_shrunk(CONFIGS["ViT-B-16-quickgelu"]), tmp_path)
    tokens = _tokens(model)
    together = encode_tokens(model, tokens, "cpu")
    backwards = encode_tokens(model, tokens.flip(0), "cpu").flip(0)
    alone = torch.cat([encode_tokens(model, row[None], "cpu") for row in tokens])
    for other in (backwards, alone):
        assert ((other - together).norm(dim=1) / together.norm(dim=1)).max() < ROUNDING
    assert torch.pdist(together).max() > 0.1 * together.norm(dim=1).max()  # they do differ


def test_a_pack_holds_every_distinct_beginning_once() -> None:
    sentences = [[1, 2, 3], [1, 2, 4], [5], [1, 2, 3], [1, 2]]
    (pack,) = packs(sentences, 100)
    assert [sentences[row] for row in pack.rows] == sorted(sentences)
    assert pack.tokens == [1, 2, 3, 4, 5]
    assert pack.positions == [0, 1, 2, 2, 0]
    assert pack.ends == [1, 2, 2, 3, 4]
    seen = (pack.mask() == 0).int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_packs_hold_each_sentence_once_and_keep_to_the_size(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    sentences = [torch.randint(3, (n % 5 + 1,), generator=generator).tolist() for n in range(50)]
    found = []
    for pack in packs(sentences, size):
        assert len(pack.tokens) <= size or len(set(map(tuple, (sentences[r] for r in pack.rows)))) == 1
        for row, end in zip(pack.rows, pack.ends, strict=True):
            beginning = pack.beginnings[end]
            assert [pack.tokens[i] for i in beginning] == sentences[row]
            assert [pack.positions[i] for i in beginning] == list(range(len(sentences[row])))
            found.append(row)
    assert sorted(found) == list(range(50))
