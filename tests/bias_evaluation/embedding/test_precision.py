"""Precisions of the model and of the file, for a transformer and for a ResNet, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image

import precompute_embeddings
from bias_evaluation.datasets.folder import embeddings_name
from bias_evaluation.datasets.metadata import build_metadata
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.image_embeddings import embed_dataset
from bias_evaluation.embedding.text_store import TextStore, read_text_embeddings
from bias_evaluation.grid.configs import Backbone
from safe_io.errors import InputError, run_main

N, DIM = 12, 8
RESNET = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a model config and a checkpoint of a small ResNet, as RN50 and RN101 are built."""
    folder = tmp_path_factory.mktemp("tiny_resnet")
    config, checkpoint = folder / "tiny_test_resnet.json", folder / "resnet.pt"
    config.write_text(json.dumps(RESNET))
    open_clip.add_model_config(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(config.stem).state_dict(), checkpoint)
    return config, checkpoint


@pytest.fixture(params=["transformer", "resnet"])
def backbone(request: pytest.FixtureRequest, make_backbone: Callable[..., Backbone]) -> Backbone:
    if request.param == "transformer":
        return make_backbone()
    config, checkpoint = request.getfixturevalue("resnet")
    return make_backbone(open_clip=str(config), checkpoint=checkpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images, random = tmp_path / "data" / "images" / "person", np.random.default_rng(0)
    images.mkdir(parents=True)
    for row in range(N):
        Image.fromarray(random.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(images / f"{row:02d}.png")
    return tmp_path / "data"


@pytest.fixture
def arguments(backbone: Backbone, folder: Path, tmp_path: Path) -> list[str]:
    """Command line for the folder."""
    entry = {"open_clip": backbone.open_clip, "checkpoint": str(backbone.checkpoint)}
    backbones = tmp_path / "config" / "backbones.yml"
    backbones.parent.mkdir()
    backbones.write_text(yaml.safe_dump({"tiny": {**entry, "dim": DIM, "quick_gelu": True}}))
    named = {"--backbone": "tiny", "--dataset-name": "lfw", "--dataset-path": str(folder)}
    named |= {"--batch-size": "5", "--workers": "0", "--backbones-file": str(backbones)}
    return [part for pair in named.items() for part in pair]


@pytest.mark.parametrize(
    ("precision", "stored", "cosine"),
    [("fp32", np.float32, 1 - 1e-6), ("fp16", np.float16, 1 - 1e-4), ("bf16", np.float16, 1 - 2e-3)],
)
def test_every_precision_works_on_a_cpu(
    arguments: list[str],
    backbone: Backbone,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    stored: type,
    cosine: float,
) -> None:
    assert run_main(lambda: precompute_embeddings.main([*arguments, "--precision", precision])) == 0
    embeddings = np.load(folder / embeddings_name("tiny"), allow_pickle=False)
    assert (embeddings.dtype, embeddings.shape) == (stored, (N, DIM))
    exact = exact_embeddings(backbone, folder)
    similar = torch.nn.functional.cosine_similarity(torch.from_numpy(embeddings).float(), exact)
    assert similar.min() > cosine
    if precision != "fp32":  # the model itself computes in it, not the last step alone
        assert not np.array_equal(embeddings, exact.numpy().astype(stored))
    assert ("warning: fp16 is slow on most CPUs" in capsys.readouterr().err) is (precision == "fp16")


def exact_embeddings(backbone: Backbone, folder: Path) -> torch.Tensor:
    """Encode with open_clip alone, in float32."""
    model, _, preprocess = open_clip.create_model_and_transforms(
        Path(backbone.open_clip).stem, str(backbone.checkpoint), force_quick_gelu=True
    )
    paths = sorted((folder / "images" / "person").iterdir())
    with torch.inference_mode():
        images = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in paths])
        return model.eval().encode_image(images)


def test_another_precision_is_another_file(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(lambda: precompute_embeddings.main([*arguments, "--precision", "bf16"])) == 0
    assert run_main(lambda: precompute_embeddings.main([*arguments, "--precision", "fp32"])) == 2
    assert "was not made from this model, precision and image list" in capsys.readouterr().err
    more = ["--precision", "fp32", "--overwrite"]
    assert run_main(lambda: precompute_embeddings.main([*arguments, *more])) == 0
    assert np.load(folder / embeddings_name("tiny")).dtype == np.float32


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_float16_cannot_hold_is_an_error_not_infinity(
    backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    encoder = Encoder(backbone, precision=precision)
    large = torch.ones(5, DIM)
    large[3, 2] = 7e4  # finite as float32 and bfloat16
    monkeypatch.setattr(encoder, "encode_images", lambda images: large[: len(images)])
    with pytest.raises(InputError, match=r"1 of 5 rows is NaN, infinite .*, the first: .*03\.png; check"):
        embed_dataset(
            encoder,
            folder,
            build_metadata("lfw", folder),
            batch_size=5,
            workers=0,
            precision=precision,
            progress=False,
        )
    assert not (folder / embeddings_name("tiny")).exists()


def test_text_is_float32_on_disk(backbone: Backbone, tmp_path: Path) -> None:
    store = TextStore(backbone, tmp_path / "cache")
    embeddings = store.embed(["a photo of a nurse", "an owl"])
    [path] = (tmp_path / "cache").iterdir()
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["embeddings"].dtype == np.float32
    torch.testing.assert_close(read_text_embeddings(path, DIM)[1], embeddings, rtol=0, atol=0)
