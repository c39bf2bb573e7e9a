"""Embedding a folder of images: the rows, interrupted runs, unreadable files, and what is never replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

import precompute_embeddings
from bias_evaluation.datasets.folder import embeddings_name
from bias_evaluation.datasets.metadata import METADATA, build_metadata, read_metadata, write_metadata
from bias_evaluation.embedding import image_embeddings as module
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.image_embeddings import embed_dataset, manifest_path
from bias_evaluation.grid.configs import Backbone
from safe_io.errors import InputError, run_main

N = 40
MODES = ("RGB", "L", "RGBA", "P")
TARGET = embeddings_name("tiny")


class CountingEncoder(Encoder):
    """The tiny model, with a count of the images that it has encoded; stops after `stop_after` of them."""

    seen = 0
    stop_after: int | None = None

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        if self.stop_after is not None and self.seen + len(images) > self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return super().encode_images(images)


@pytest.fixture
def encoder(make_backbone: Callable[..., Backbone]) -> CountingEncoder:
    return CountingEncoder(make_backbone())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a Portraits folder of 40 small PNG files in several modes."""
    made, random = tmp_path / "data", np.random.default_rng(0)
    (made / "images").mkdir(parents=True)
    names = [f"{i:02d}.png" for i in range(N)]
    for i, name in enumerate(names):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(MODES[i % len(MODES)]).save(made / "images" / name)
    columns = ("role", "trait", "hobby", "gender", "skin", "hair", "blond")
    table = pd.DataFrame({"file_name": names, **{c: [f"{c}{i % 2}" for i in range(N)] for c in columns}})
    table.to_csv(made / "labels.csv", index=False)
    return made


def run(encoder: Encoder, folder: Path, **options: Any) -> np.ndarray:
    """Embed the folder and read what was written."""
    metadata = build_metadata("portraits", folder)
    defaults = {"batch_size": 7, "workers": 0, "progress": False}
    target = embed_dataset(encoder, folder, metadata, **defaults | options)
    assert target == folder / TARGET
    return np.load(target, allow_pickle=False)


def direct(encoder: Encoder, folder: Path, rows: list[int] | None = None) -> np.ndarray:
    """Encode images one by one."""
    encoded = []
    for row in range(N) if rows is None else rows:
        image = Image.open(folder / "images" / f"{row:02d}.png").convert("RGB")
        encoded.append(encoder.encode_images(encoder.preprocess(image)[None])[0])
    return torch.stack(encoded).numpy()


def files(folder: Path) -> list[str]:
    """Names in the dataset folder beside its images."""
    return sorted(p.name for p in folder.iterdir() if p.name not in ("images", "labels.csv"))


# --- rows -------------------------------------------------------------------------------------------------


def test_rows_are_direct_encodings_in_the_order_of_the_metadata(
    encoder: CountingEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 16)
    embeddings = run(encoder, folder)
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (N, 8))
    np.testing.assert_allclose(embeddings, direct(encoder, folder), rtol=1e-4, atol=1e-6)
    assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).min() > 1e-3  # raw
    assert files(folder) == [manifest_path(folder / TARGET).name, TARGET, METADATA]


def test_batches_and_workers_do_not_matter(encoder: CountingEncoder, folder: Path) -> None:
    embeddings = run(encoder, folder, batch_size=N, workers=2)
    np.testing.assert_allclose(embeddings, direct(encoder, folder), rtol=1e-4, atol=1e-6)


def test_fp16_is_stored_as_float16(
    make_backbone: Callable[..., Backbone], encoder: CountingEncoder, folder: Path
) -> None:
    low = Encoder(make_backbone(), precision="fp16")
    embeddings = run(low, folder, precision="fp16")
    assert embeddings.dtype == np.float16
    np.testing.assert_allclose(embeddings, direct(encoder, folder), rtol=0, atol=0.02)
    assert json.loads(manifest_path(folder / TARGET).read_text())["precision"] == "fp16"


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def command(tiny_clip: Path, folder: Path, tmp_path: Path) -> Callable[..., int]:
    """Run precompute_embeddings.py on the folder; gives its exit code."""
    entry = {
        "open_clip": str(tiny_clip / "tiny_test_clip.json"),
        "checkpoint": str(tiny_clip / "tiny.pt"),
        "dim": 8,
        "quick_gelu": True,
        "openai_name": "Tiny/8",
    }
    backbones = tmp_path / "config" / "backbones.yml"
    backbones.parent.mkdir()
    backbones.write_text(yaml.safe_dump({"tiny": entry}))

    def call(*more: str, model: str = "tiny") -> int:
        arguments = ["--backbone", model, "--dataset-name", "portraits", "--dataset-path", str(folder)]
        arguments += ["--batch-size", "7", "--workers", "0", "--backbones-file", str(backbones), *more]
        return run_main(lambda: precompute_embeddings.main(arguments))

    return call


def test_the_command_makes_metadata_and_embeddings(
    command: Callable[..., int],
    encoder: CountingEncoder,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(model="Tiny/8") == 0
    assert f"wrote {folder / TARGET}" in capsys.readouterr().out
    np.testing.assert_allclose(np.load(folder / TARGET), direct(encoder, folder), rtol=1e-4, atol=1e-6)
    assert len(read_metadata(folder / METADATA)) == N


@pytest.mark.parametrize(
    ("more", "model", "expected"),
    [
        (["--batch-size", "0"], "tiny", "--batch-size must be at least 1"),
        (["--workers", "-1"], "tiny", "--workers at least 0"),
        ([], "huge", "unknown backbone 'huge'; choose from: tiny"),
        (["--backbones-file", "/nowhere.yml"], "tiny", "backbone file not found: /nowhere.yml"),
        (["--dataset-path", "/nowhere"], "tiny", "dataset folder not found: /nowhere"),
    ],
)
def test_the_command_refuses_in_one_line(
    command: Callable[..., int],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    model: str,
    expected: str,
) -> None:
    assert command(*more, model=model) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert files(folder) == []


def test_metadata_without_paths(encoder: CountingEncoder, folder: Path) -> None:
    with pytest.raises(InputError, match=r"metadata\.feather lacks the column 'file_path'; --rebuild"):
        embed_dataset(encoder, folder, pd.DataFrame({"x": [1]}), batch_size=1, workers=0)
    with pytest.raises(InputError, match=r"metadata\.feather has no rows"):
        embed_dataset(encoder, folder, pd.DataFrame({"file_path": []}), batch_size=1, workers=0)
    assert files(folder) == []


# --- interrupted runs -------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_from_its_shards(
    encoder: CountingEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 16)
    encoder.stop_after = 35  # two shards and a batch of the third
    with pytest.raises(KeyboardInterrupt):
        run(encoder, folder, batch_size=4)
    assert not (folder / TARGET).exists()
    encoder.stop_after, encoder.seen = None, 0
    embeddings = run(encoder, folder, batch_size=4)
    assert encoder.seen == N - 32  # the third shard alone
    np.testing.assert_allclose(embeddings, direct(encoder, folder), rtol=1e-4, atol=1e-6)
    assert files(folder) == [manifest_path(folder / TARGET).name, TARGET, METADATA]


def test_shards_of_another_run_are_not_used(
    encoder: CountingEncoder,
    make_backbone: Callable[..., Backbone],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 16)
    encoder.stop_after = 32
    with pytest.raises(KeyboardInterrupt):
        run(encoder, folder, batch_size=4)
    other = CountingEncoder(make_backbone(quick_gelu=False))
    embeddings = run(other, folder)
    assert other.seen == N
    np.testing.assert_allclose(embeddings, direct(other, folder), rtol=1e-4, atol=1e-6)


# --- unreadable images ------------------------------------------------------------------------------------

BROKEN = (3, 17, 39)


@pytest.fixture
def mend(folder: Path) -> Callable[[], None]:
    """Break three images, each in another way; gives what mends them."""
    paths = [folder / "images" / f"{row:02d}.png" for row in BROKEN]
    whole = [path.read_bytes() for path in paths]
    paths[0].write_text("no image")
    paths[1].write_bytes(whole[1][: len(whole[1]) // 2])
    paths[2].unlink()

    def call() -> None:
        for path, content in zip(paths, whole, strict=True):
            path.write_bytes(content)

    return call


def test_every_unreadable_image_is_listed_and_nothing_is_written(
    command: Callable[..., int],
    mend: Callable[[], None],
    encoder: CountingEncoder,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 16)
    assert command() == 2
    lines = capsys.readouterr().err.splitlines()
    listed = [line for line in lines if line.startswith("unreadable: ")]
    assert [line.split()[1] for line in listed] == [str(folder / f"images/{row:02d}.png") for row in BROKEN]
    assert all("Error: " in line for line in listed)  # with the reason
    assert "error: 3 of 40 images in " in lines[-1]
    assert "the first: images/03.png" in lines[-1]
    assert "--skip-unreadable" in lines[-1]
    assert [name for name in files(folder) if not name.startswith(".")] == [METADATA]
    assert len(read_metadata(folder / METADATA)) == N
    mend()
    np.testing.assert_allclose(run(encoder, folder), direct(encoder, folder), rtol=1e-4, atol=1e-6)


def test_only_shards_with_mended_images_are_made_again(
    mend: Callable[[], None], encoder: CountingEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 8)  # rows 3, 17 and 39 are in shards 0, 2 and 4 of five
    with pytest.raises(InputError, match="3 of 40 images"):
        run(encoder, folder)
    mend()
    encoder.seen = 0
    run(encoder, folder)
    assert encoder.seen == 24


def test_images_that_are_mended_after_a_kill_are_no_longer_unreadable(
    mend: Callable[[], None], encoder: CountingEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 8)
    encoder.stop_after = 20
    with pytest.raises(KeyboardInterrupt):
        run(encoder, folder)  # shard 0, with row 3, is done
    mend()
    encoder.stop_after = None
    embeddings = run(encoder, folder, skip_unreadable=True)
    np.testing.assert_allclose(embeddings, direct(encoder, folder), rtol=1e-4, atol=1e-6)
    assert len(read_metadata(folder / METADATA)) == N


def test_unreadable_images_before_a_kill_are_not_forgotten(
    mend: Callable[[], None], encoder: CountingEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 8)
    encoder.stop_after = 20
    with pytest.raises(KeyboardInterrupt):
        run(encoder, folder)
    encoder.stop_after = None
    with pytest.raises(InputError, match="3 of 40 images"):
        run(encoder, folder)


@pytest.mark.usefixtures("mend")
def test_skipped_rows_are_left_out_of_both_files_and_recorded(encoder: CountingEncoder, folder: Path) -> None:
    embeddings = run(encoder, folder, skip_unreadable=True)
    kept = [row for row in range(N) if row not in BROKEN]
    np.testing.assert_allclose(embeddings, direct(encoder, folder, kept), rtol=1e-4, atol=1e-6)
    metadata = read_metadata(folder / METADATA)
    assert metadata["file_name"].tolist() == [f"{row:02d}.png" for row in kept]
    assert metadata.index.tolist() == list(range(len(kept)))
    record = json.loads((folder / "skipped_images.json").read_text())
    assert [entry["file_path"] for entry in record] == [f"images/{row:02d}.png" for row in BROKEN]
    assert all(entry["reason"] for entry in record)
    encoder.seen = 0
    run(encoder, folder, skip_unreadable=True)  # done: the list of images is now the shorter one
    assert encoder.seen == 0


@pytest.mark.usefixtures("mend")
def test_rows_are_not_left_out_beside_embeddings_of_all_rows(encoder: CountingEncoder, folder: Path) -> None:
    other = folder / embeddings_name("RN50")
    np.save(other, np.ones((N, 3), np.float32))
    with pytest.raises(InputError, match=r"has embeddings made with all rows \(CLIP_RN50_embeddings\.npy\)"):
        run(encoder, folder, skip_unreadable=True)
    assert not (folder / TARGET).exists()
    assert not (folder / "skipped_images.json").exists()
    assert len(read_metadata(folder / METADATA)) == N


@pytest.mark.usefixtures("mend")
def test_rows_may_be_left_out_of_embeddings_that_are_replaced(encoder: CountingEncoder, folder: Path) -> None:
    np.save(folder / TARGET, np.ones((N, 8), np.float32))
    embeddings = run(encoder, folder, skip_unreadable=True, overwrite=True)
    assert embeddings.shape == (N - len(BROKEN), 8)
    assert len(read_metadata(folder / METADATA)) == N - len(BROKEN)


def test_no_readable_image_at_all(encoder: CountingEncoder, folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.write_text("no image")
    with pytest.raises(InputError, match=r"none of the 40 images in .* is readable"):
        run(encoder, folder, skip_unreadable=True)
    assert len(read_metadata(folder / METADATA)) == N
    assert not (folder / TARGET).exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_an_unusable_embedding_names_its_image(
    encoder: CountingEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 16)
    right, seen = encoder.encode_images, []

    def wrong_at_20(images: torch.Tensor) -> torch.Tensor:
        embeddings = right(images)
        if len(seen) <= 20 < len(seen) + len(images):
            embeddings = embeddings.clone()
            embeddings[20 - len(seen)] = value
        seen.extend(images)
        return embeddings

    monkeypatch.setattr(encoder, "encode_images", wrong_at_20)
    with pytest.raises(InputError, match=r"is NaN, infinite or all zero, the first: .*images/20\.png; check"):
        run(encoder, folder)
    assert not (folder / TARGET).exists()


# --- embeddings that are there ----------------------------------------------------------------------------


def test_the_same_embeddings_are_kept(encoder: CountingEncoder, folder: Path) -> None:
    run(encoder, folder)
    os.utime(folder / TARGET, (1, 1))
    encoder.seen = 0
    run(encoder, folder)
    assert encoder.seen == 0
    assert (folder / TARGET).stat().st_mtime == 1


def test_other_embeddings_are_refused_unless_overwritten(
    encoder: CountingEncoder, make_backbone: Callable[..., Backbone], folder: Path
) -> None:
    run(encoder, folder)
    before = (folder / TARGET).read_bytes()
    other = CountingEncoder(make_backbone(quick_gelu=False))
    encoder.seen = 0
    for one, options in ((other, {}), (encoder, {"precision": "fp16"})):
        with pytest.raises(InputError, match=r"exists and was not made from this model.*pass --overwrite"):
            run(one, folder, **options)
        assert one.seen == 0
    assert (folder / TARGET).read_bytes() == before
    np.testing.assert_allclose(
        run(other, folder, overwrite=True), direct(other, folder), rtol=1e-4, atol=1e-6
    )


def test_embeddings_from_elsewhere_are_refused(encoder: CountingEncoder, folder: Path) -> None:
    np.save(folder / TARGET, np.ones((N, 8), np.float32))  # no manifest: as the release has them
    with pytest.raises(InputError, match="or lacks its manifest"):
        run(encoder, folder)
    np.testing.assert_array_equal(np.load(folder / TARGET), 1)


def test_another_list_of_images_is_refused(encoder: CountingEncoder, folder: Path) -> None:
    run(encoder, folder)
    metadata = read_metadata(folder / METADATA).iloc[::-1].reset_index(drop=True)
    with pytest.raises(InputError, match="was not made from this model, precision and image list"):
        embed_dataset(encoder, folder, metadata, batch_size=8, workers=0, progress=False)


def test_a_run_that_read_the_metadata_before_another_left_images_out_says_so(
    encoder: CountingEncoder, folder: Path
) -> None:
    metadata = build_metadata("portraits", folder)
    write_metadata(folder / METADATA, metadata.iloc[1:].reset_index(drop=True))
    run(encoder, folder)
    with pytest.raises(InputError, match=r"another run has changed .*metadata.* run the command again"):
        embed_dataset(encoder, folder, metadata, batch_size=8, workers=0, progress=False)


def test_an_interrupted_overwrite_leaves_what_was_there(encoder: CountingEncoder, folder: Path) -> None:
    run(encoder, folder)
    before = (folder / TARGET).read_bytes()
    encoder.stop_after, encoder.seen = 10, 0
    with pytest.raises(KeyboardInterrupt):
        run(encoder, folder, overwrite=True)
    assert (folder / TARGET).read_bytes() == before
