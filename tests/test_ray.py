"""The commands on a real local Ray of two cores: the same files as without it, also after a lost worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.suite_world import World
from support.zsdebias_world import zsdebias_arguments

import main_eval
from bias_evaluation.datasets.metadata import build_metadata
from bias_evaluation.embedding import image_embeddings as embedding
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.image_embeddings import embed_dataset
from bias_evaluation.embedding.shards import parts_folder
from bias_evaluation.grid.configs import Backbone
from debiasing_methods import zsdebias_training
from safe_io.errors import InputError

N, SHARD, BATCH = 60, 12, 5

pytest.importorskip("ray.data", reason="--engine ray needs the extra: pip install '.[ray]'")


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[Any]:
    """Start a Ray of two cores for this file; the commands find it connected."""
    import ray
    import torch

    from bias_evaluation.embedding.engines import ray_session

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("RAY_ADDRESS", raising=False)
        patched.setattr("bias_evaluation.embedding.engines.usable_cores", lambda: 2)
        with ray_session():
            yield ray
    torch.set_num_threads(threads)


# --- a worker is lost -------------------------------------------------------------------------------------


def descendants(pid: int) -> dict[int, str]:
    """Find the processes that a process and its own have started; pid → command line."""
    found, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            found[int(stat.parent.name)] = (stat.parent / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            continue
    mine = {pid}
    while more := {child for child, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return {child: line for child, line in found.items() if child in mine - {pid}}


@contextmanager
def one_worker_is_lost(title: str, when: Callable[[], bool] = lambda: True) -> Iterator[list[int]]:
    """End the first worker that does a named thing at a time; gives a list with its pid, once it is."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if not when():
                continue
            for pid, line in descendants(os.getpid()).items():
                if line.startswith(f"ray::{title}"):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


# --- embeddings -------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embedding, "SHARD_ROWS", SHARD)
    folder, random = tmp_path / "data", np.random.default_rng(0)
    (folder / "images" / "person").mkdir(parents=True)
    for i in range(N):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / "person" / f"{i:03d}.png")
    return folder


def embed(encoder: Encoder, folder: Path, **options: Any) -> bytes:
    options = {"batch_size": BATCH, "workers": 0, "progress": False} | options
    return embed_dataset(encoder, folder, build_metadata("lfw", folder), **options).read_bytes()


def slowed(encoder: Encoder, seconds: float) -> Encoder:
    """Let each image take some time."""
    preprocess = encoder.preprocess

    def slowly(image: Image.Image) -> Any:
        time.sleep(seconds)
        return preprocess(image)

    encoder.preprocess = slowly
    return encoder


def on_ray(backbone: Backbone) -> Any:
    from bias_evaluation.embedding.ray_embedding import ray_stream

    return ray_stream(backbone, device="cpu", precision="fp32")


def test_embeddings_are_the_local_ones_to_the_last_bit_though_a_worker_is_lost(
    make_backbone: Callable[..., Backbone],
    images: Path,
) -> None:
    backbone = make_backbone()
    local = embed(Encoder(backbone), images)
    target = images / "CLIP_tiny_embeddings.npy"

    def half_way() -> bool:
        return len(list(parts_folder(target).glob("0*.npy"))) >= 1

    with one_worker_is_lost("MapWorker(Map(_Model))", half_way) as lost:
        encoder = slowed(Encoder(backbone), 0.1)
        assert embed(encoder, images, stream=on_ray(backbone), overwrite=True) == local
    assert lost


def test_a_worker_with_other_weights_is_one_line_and_shards_are_kept(
    make_backbone: Callable[..., Backbone],
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import bias_evaluation.embedding.ray_embedding as module

    backbone = make_backbone()
    monkeypatch.setattr(embedding, "SHARD_ROWS", N - 10)
    interrupted = embed_dataset(
        Encoder(backbone),
        images,
        build_metadata("lfw", images),
        batch_size=BATCH,
        workers=0,
        progress=False,
        part=embedding.Part(0, 2),
    )
    kept = sorted(path.name for path in interrupted.glob("0*.npy"))
    monkeypatch.setattr(module, "encoder_digest", lambda _: "what the workers do not have")
    with pytest.raises(InputError, match=r"worker on .* weights of backbone 'tiny' are others"):
        embed(Encoder(backbone), images, stream=on_ray(backbone))
    missing = make_backbone(checkpoint=tmp_path / "nowhere.pt")
    monkeypatch.setattr(module, "encoder_digest", lambda _: "")
    with pytest.raises(InputError, match=r"worker on .* checkpoint of backbone 'tiny' not found: .*kept"):
        embed(Encoder(backbone), images, stream=on_ray(missing))
    assert sorted(path.name for path in interrupted.glob("0*.npy")) == kept != []


def test_an_image_that_ends_every_worker_is_one_line_and_shards_are_kept(
    make_backbone: Callable[..., Backbone],
    images: Path,
) -> None:
    backbone = make_backbone()
    encoder = Encoder(backbone)
    preprocess = encoder.preprocess

    def ends(image: Image.Image) -> Any:
        if image.getpixel((0, 0)) == (1, 2, 3):
            os._exit(1)
        return preprocess(image)

    poison = Image.open(images / "images" / "person" / f"{N - 1:03d}.png").convert("RGB")
    poison.putpixel((0, 0), (1, 2, 3))
    poison.save(images / "images" / "person" / f"{N - 1:03d}.png")
    encoder.preprocess = ends
    with pytest.raises(InputError, match="workers were lost again and again"):
        embed(encoder, images, stream=on_ray(backbone))
    kept = list(parts_folder(images / "CLIP_tiny_embeddings.npy").glob("0*.npy"))
    assert 0 < len(kept) < N // SHARD


# --- results and trainings --------------------------------------------------------------------------------


def test_results_are_the_local_ones_though_a_worker_is_lost(suite_world: World, tmp_path: Path) -> None:
    arguments = ["--config", str(suite_world.config), "--backbone", "beta", "gamma"]
    assert main_eval.main(arguments) == 0
    local = suite_world.results()
    assert len(local) == 2 * 3 * 5
    (suite_world.root / "data" / "text_embeddings").rename(tmp_path / "old_text")
    suite_world.output.rename(tmp_path / "old")
    with one_worker_is_lost("_run_call", lambda: suite_world.output.exists()) as lost:
        assert main_eval.main([*arguments, "--engine", "ray"]) == 0
    written = {name: content for name, content in suite_world.results().items() if name[0] != "."}
    assert written == local  # the lost worker may leave a temporary file
    assert lost


def test_a_failing_task_is_one_line_and_the_others_results_stay(suite_world: World) -> None:
    damaged = suite_world.data / "CLIP_gamma_embeddings.npy"
    rows = np.load(damaged)
    rows[3] = np.nan
    np.save(damaged, rows)
    arguments = ["--config", str(suite_world.config), "--backbone", "beta", "gamma", "--methods", "vanilla"]
    expected = r"1 of 2 tasks failed, the first: portraits gamma: .*: 1 of 120 rows is NaN"
    with pytest.raises(InputError, match=expected):
        main_eval.main([*arguments, "--engine", "ray"])
    assert [name.rsplit("clip-", 1)[1] for name in suite_world.results()] == ["b_vanilla.json"] * 3


def test_zsdebias_models_are_the_local_ones(
    zsdebias_project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = zsdebias_arguments(zsdebias_project, "--seeds", 0, 1, 2)
    assert zsdebias_training.main([*arguments, "--output-dir", str(tmp_path / "local")]) == 0
    capsys.readouterr()
    with one_worker_is_lost("_run_call") as lost:
        ray = [*arguments, "--output-dir", str(tmp_path / "ray"), "--engine", "ray"]
        assert zsdebias_training.main(ray) == 0
    assert lost
    assert capsys.readouterr().out.count("trained on") == 3
    assert contents(tmp_path / "ray") == contents(tmp_path / "local") != {}


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.iterdir() if path.suffix != ".png" and path.name[0] != "."]
    return {path.name: path.read_bytes() for path in paths}
