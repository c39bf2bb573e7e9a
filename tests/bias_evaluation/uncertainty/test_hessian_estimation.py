"""`hessian_estimation.py`: from pairs on disk to factors, against the definitions on the same features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

import hessian_estimation
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.grid.configs import get_backbone
from bias_evaluation.uncertainty.factors import read_factors
from bias_evaluation.uncertainty.pairs import read_pairs, sample_pairs
from debiasing_methods.linalg import unit
from debiasing_methods.uncertainty import best_precision, curvature
from safe_io.errors import InputError, run_main

N = 14
MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Save a tiny ViT with its backbone file, and a folder of captioned images."""
    (tmp_path / "tiny-hessian.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(tmp_path / "tiny-hessian.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-hessian").state_dict(), tmp_path / "vit.pt")
    entry = {
        "stem": "tiny",
        "open_clip": str(tmp_path / "tiny-hessian.json"),
        "checkpoint": str(tmp_path / "vit.pt"),
        "quick_gelu": False,
        "dim": 8,
    }
    (tmp_path / "backbones.yml").write_text(yaml.safe_dump({"tiny": entry}))
    folder, random = tmp_path / "pairs", np.random.default_rng(0)
    folder.mkdir()
    for i in range(N):
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"a picture of number {i}\n")
    return tmp_path


@pytest.fixture
def run(project: Path) -> Callable[..., int]:
    def call(*options: str, pairs: Path | None = None) -> int:
        argv = ["--backbone", "tiny", "--pairs", str(pairs or project / "pairs"), "--workers", "0"]
        argv += ["--backbones-file", str(project / "backbones.yml"), "--data-root", str(project / "data")]
        return run_main(lambda: hessian_estimation.main([*argv, *options]))

    return call


def _file(project: Path) -> Path:
    [path] = (project / "data" / "uncertainty").glob("*.npz")
    return path


def test_factors_are_those_of_the_pairs(project: Path, run: Callable[..., int]) -> None:
    assert run("--class-batch", "5") == 0
    found = read_factors(_file(project))
    backbone = get_backbone("tiny", project / "backbones.yml")
    found.check_made_for(backbone, _file(project))
    encoder = Encoder(backbone)
    sample = sample_pairs(read_pairs(project / "pairs")[1], N, 0)
    pixels = torch.stack([encoder.preprocess(Image.open(project / "pairs" / p)) for p in sample["file_path"]])
    images = encoder.encode_images(pixels, residuals=True)
    texts = encoder.encode_text(sample["caption"].tolist(), residuals=True)
    scale = float(encoder.model.logit_scale.detach().exp())
    sides = {"image": (encoder.image_head, images), "text": (encoder.text_head, texts)}
    for name, other in (("image", "text"), ("text", "image")):
        head, residuals = sides[name]
        others = unit(sides[other][0].embeddings(sides[other][1]))
        expected = curvature(head.features(residuals), head.projection, others, scale, 5)
        tower = getattr(found, name)
        torch.testing.assert_close(tower.curvature.a, expected.a, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(tower.curvature.b, expected.b, rtol=1e-3, atol=1e-6)
        assert tower.precision == pytest.approx(best_precision(tower.curvature, head.projection, 10.0))
        assert torch.equal(tower.head.weight, head.weight)
    assert found.facts["pairs"] == 10  # the last 4 are no full class batch
    assert (found.scale, found.tau) == (pytest.approx(scale), 10.0)


def test_a_table_and_a_folder_of_texts_are_the_same_pairs(project: Path, run: Callable[..., int]) -> None:
    assert run() == 0
    folder, pairs = read_pairs(project / "pairs")
    content, names = _file(project).read_bytes(), pairs["file_path"].tolist()
    assert (folder, names) == (project / "pairs", [f"{i:02d}.png" for i in range(N)])
    pairs.to_csv(project / "pairs" / "captions.csv", index=False)
    for source in (project / "pairs", project / "pairs" / "captions.csv"):
        pd.testing.assert_frame_equal(read_pairs(source)[1], pairs)
    assert run("--overwrite") == 0
    assert _file(project).read_bytes() == content


def test_what_is_there_is_kept_and_a_cut_run_continues(
    project: Path,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run() == 0
    content = _file(project).read_bytes()
    assert run() == 0
    assert "kept" in capsys.readouterr().out
    _file(project).unlink()
    monkeypatch.setattr(Encoder, "encode_images", None)  # what is encoded is not encoded again
    assert run() == 0
    assert _file(project).read_bytes() == content


def test_unreadable_images_are_named_or_left_out(
    project: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pairs" / "03.png").write_bytes(b"no image")
    assert run() == 2
    assert "1 of 14 images" in capsys.readouterr().err
    assert run("--skip-unreadable") == 0
    assert read_factors(_file(project)).facts["pairs"] == 13
    assert not (project / "pairs" / "metadata.feather").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class-batch", "15"], "--class-batch: 14 pairs are fewer than a class batch of 15"),
        (["--n-pairs", "0"], "--n-pairs must be at least 1, got 0"),
        (["--tau", "0"], "--tau must be above 0, got 0.0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range(
    options: list[str], message: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*options) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"


def test_pairs_that_cannot_be_used(project: Path) -> None:
    table = project / "mine.csv"
    cases = {
        "image,caption\na.png,x\n": r"lacks the column 'file_path'",
        "file_path,caption\n": "holds no pairs",
        "file_path,caption\na.png,x\nb.png,\n": "1 of 2 pairs have an empty caption, the first: pair 2",
    }
    for content, message in cases.items():
        table.write_text(content)
        with pytest.raises(InputError, match=message):
            read_pairs(table)
    (project / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pairs"):
        read_pairs(project / "empty")
    with pytest.raises(InputError, match="not found"):
        read_pairs(project / "nowhere")
    (project / "pairs" / "01.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"01\.txt is not text in UTF-8"):
        read_pairs(project / "pairs")


def test_factors_of_another_model_are_refused(
    project: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(project / "mine.npz")
    assert run("--output", output) == 0
    torch.manual_seed(1)
    torch.save(open_clip.create_model("tiny-hessian").state_dict(), project / "vit.pt")
    assert run("--output", output) == 2
    assert "was made for another model ('tiny')" in capsys.readouterr().err
    (project / "mine.npz").write_bytes(b"damaged")
    assert run("--output", output) == 2
    assert "mine.npz" in capsys.readouterr().err
