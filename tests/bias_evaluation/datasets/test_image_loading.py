"""One loader for a whole run: its order, its workers, killed runs, and images that cannot be read."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

import precompute_embeddings
from bias_evaluation.datasets import image_loading
from bias_evaluation.datasets.folder import embeddings_name
from bias_evaluation.datasets.image_loading import PIECE, ImageRows, read_batches
from bias_evaluation.datasets.metadata import METADATA, build_metadata, read_metadata
from bias_evaluation.embedding import image_embeddings as module
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.engines import usable_cores
from bias_evaluation.embedding.image_embeddings import embed_dataset, manifest_path
from bias_evaluation.embedding.shards import Shards, parts_folder
from bias_evaluation.grid.configs import Backbone
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main

N, SHARD, BATCH = 200, 24, 10  # the last shard has 8 rows; batches of a shard have 10, 10 and 4
TARGET = embeddings_name("tiny")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", SHARD)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make an LFW folder of 200 tiny PNG files."""
    images, random = tmp_path / "data" / "images" / "person", np.random.default_rng(0)
    images.mkdir(parents=True)
    for row in range(N):
        Image.fromarray(random.integers(0, 256, (17, 20, 3), dtype=np.uint8)).save(images / f"{row:03d}.png")
    return tmp_path / "data"


class RecordingEncoder(Encoder):
    """The tiny model, with the size of each batch that it was given."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.batches: list[int] = []

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return super().encode_images(images)


@pytest.fixture
def encoder(make_backbone: Callable[..., Backbone]) -> RecordingEncoder:
    return RecordingEncoder(make_backbone())


def run(encoder: Encoder, folder: Path, **options: Any) -> bytes:
    """Embed the folder; gives the bytes of the file."""
    defaults = {"batch_size": BATCH, "workers": 0, "progress": False}
    return embed_dataset(encoder, folder, build_metadata("lfw", folder), **defaults | options).read_bytes()


def image(folder: Path, row: int) -> Path:
    return folder / "images" / "person" / f"{row:03d}.png"


# --- one loader -------------------------------------------------------------------------------------------


def pid_and_threads(_: Image.Image) -> torch.Tensor:
    return torch.tensor([os.getpid(), torch.get_num_threads()])


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record the arguments of every loader that is made."""
    made: list[dict[str, Any]] = []

    def record(dataset: ImageRows, **options: Any) -> DataLoader:
        made.append(options)
        return DataLoader(dataset, **options)

    monkeypatch.setattr(image_loading, "DataLoader", record)
    return made


@pytest.mark.parametrize("workers", [0, 2])
def test_one_loader_serves_all_shards_in_order(
    encoder: RecordingEncoder,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    loaders: list[dict[str, Any]],
    workers: int,
) -> None:
    written: list[tuple[range, int]] = []
    write = Shards.write

    def record(self: Shards, rows: range, *rest: Any) -> None:
        written.append((rows, sum(encoder.batches)))
        write(self, rows, *rest)

    monkeypatch.setattr(Shards, "write", record)
    run(encoder, folder, workers=workers)
    assert [options["num_workers"] for options in loaders] == [workers]
    shards = [range(start, min(start + SHARD, N)) for start in range(0, N, SHARD)]
    assert written == [(rows, rows.stop) for rows in shards]  # each as soon as its own rows are there
    assert encoder.batches == [10, 10, 4] * 8 + [8]  # no batch reaches into the next shard


def test_workers_live_as_long_as_the_run_with_one_thread_each(folder: Path) -> None:
    paths = [str(image(folder, row).relative_to(folder)) for row in range(N)]
    batches = [range(start, start + 20) for start in range(0, N, 20)]
    read = list(read_batches(ImageRows(folder, paths, pid_and_threads), batches, workers=2))
    assert [batch.rows for batch in read] == [list(batch) for batch in batches]
    pids, threads = torch.cat([batch.images for batch in read]).T.tolist()
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert set(threads) == {1}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_prepare_a_whole_batch_and_little_more(
    folder: Path, loaders: list[dict[str, Any]], workers: int
) -> None:
    paths = [str(image(folder, row).relative_to(folder)) for row in range(N)]
    batches = [range(100), range(100, N)]
    list(read_batches(ImageRows(folder, paths, pid_and_threads), batches, workers=workers))
    [options] = loaders
    assert 100 <= options["prefetch_factor"] * workers * PIECE <= 100 + 2 * PIECE * workers


def test_few_images_need_few_workers(folder: Path, loaders: list[dict[str, Any]]) -> None:
    paths = [str(image(folder, row).relative_to(folder)) for row in range(3)]
    [batch] = read_batches(ImageRows(folder, paths, pid_and_threads), [range(3)], workers=4)
    assert batch.rows == [0, 1, 2]
    assert loaders[0]["num_workers"] == 1


def test_workers_that_do_not_inherit_the_model_load_the_same(encoder: RecordingEncoder, folder: Path) -> None:
    """Where processes are spawned (macOS, Windows), what a worker needs is sent to it."""
    paths = [str(image(folder, row).relative_to(folder)) for row in range(5)]
    images = ImageRows(folder, paths, encoder.preprocess)
    sent = pickle.loads(pickle.dumps(images))
    torch.testing.assert_close(sent[3][1], images[3][1], rtol=0, atol=0)
    pickle.dumps((image_loading._ignore_interrupts, image_loading._collate))


def test_images_are_put_on_the_device_that_is_asked_for(encoder: RecordingEncoder, folder: Path) -> None:
    paths = [str(image(folder, row).relative_to(folder)) for row in range(20)]
    images = ImageRows(folder, paths, encoder.preprocess)
    [batch] = read_batches(images, [range(20)], workers=0, device="meta")
    assert (batch.images.device.type, batch.images.shape) == ("meta", (20, 3, 16, 16))


@pytest.mark.parametrize(("batch_size", "workers"), [(BATCH, 1), (BATCH, 2), (BATCH, 3)])
def test_workers_do_not_change_a_bit(
    encoder: RecordingEncoder, folder: Path, batch_size: int, workers: int
) -> None:
    alone = run(encoder, folder, batch_size=batch_size)
    assert run(encoder, folder, batch_size=batch_size, workers=workers, overwrite=True) == alone


def test_rows_are_those_of_open_clip_whatever_the_batches(encoder: RecordingEncoder, folder: Path) -> None:
    images = [encoder.preprocess(Image.open(image(folder, row)).convert("RGB")) for row in range(N)]
    expected = Encoder.encode_images(encoder, torch.stack(images)).numpy()
    for batch_size in (1, PIECE, 17, SHARD, 1000):
        run(encoder, folder, batch_size=batch_size, overwrite=True)
        np.testing.assert_allclose(np.load(folder / TARGET), expected, rtol=1e-4, atol=1e-6)


def test_a_worker_that_is_ended_from_outside_is_one_clear_line(
    encoder: RecordingEncoder, folder: Path
) -> None:
    def end(_: Image.Image) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    encoder.preprocess = end
    with pytest.raises(InputError, match=r"a decoding process ended \(DataLoader worker .*fewer --workers"):
        run(encoder, folder, workers=1)
    assert not (folder / TARGET).exists()


def test_other_errors_are_not_taken_for_dead_workers(
    encoder: RecordingEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("wrong shape")

    monkeypatch.setattr(encoder, "encode_images", fail)
    with pytest.raises(RuntimeError, match="wrong shape"):
        run(encoder, folder)


def test_usable_cores_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7


# --- going on ---------------------------------------------------------------------------------------------


def test_only_missing_shards_are_read_and_encoded(
    encoder: RecordingEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(encoder, folder)
    (folder / TARGET).unlink()
    run_until(Shards, "join", encoder, folder)
    for row in (2 * SHARD, 8 * SHARD):  # the third, and the last, which is smaller
        (parts_folder(folder / TARGET) / f"{row:09d}.npy").unlink()
    read, load = [], ImageRows.__getitem__

    def record(self: ImageRows, row: int) -> Any:
        read.append(row)
        return load(self, row)

    monkeypatch.setattr(ImageRows, "__getitem__", record)
    encoder.batches.clear()
    assert run(encoder, folder) == undisturbed
    assert read == [*range(2 * SHARD, 3 * SHARD), *range(8 * SHARD, N)]
    assert encoder.batches == [10, 10, 4, 8]


def run_until(place: Any, name: str, encoder: Encoder, folder: Path) -> None:
    """Embed the folder; the run is interrupted where it calls a function for what concerns the final file."""

    def interrupt(*arguments: Any) -> Any:
        if name == "replace" and Path(arguments[1]).name != TARGET:
            return replace(*arguments)
        raise KeyboardInterrupt

    replace = Path.replace
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(place, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(encoder, folder)


@pytest.mark.parametrize(("place", "name"), [(module, "write_json"), (Shards, "discard"), (Path, "replace")])
def test_a_run_that_is_killed_as_it_finishes(
    encoder: RecordingEncoder, folder: Path, place: Any, name: str
) -> None:
    undisturbed = run(encoder, folder)
    (folder / TARGET).unlink()
    run_until(place, name, encoder, folder)
    encoder.batches.clear()
    assert run(encoder, folder) == undisturbed
    assert encoder.batches == []  # everything had been computed
    assert not parts_folder(folder / TARGET).exists()
    assert manifest_path(folder / TARGET).is_file()


@pytest.mark.parametrize("change", ["size", "no manifest"])
def test_shards_that_do_not_say_what_they_are_are_not_used(
    encoder: RecordingEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    run_until(Shards, "join", encoder, folder)
    if change == "size":
        monkeypatch.setattr(module, "SHARD_ROWS", 2 * SHARD)
    else:
        (parts_folder(folder / TARGET) / "manifest.json").unlink()
    encoder.batches.clear()
    run(encoder, folder)
    assert sum(encoder.batches) == N


# --- killed processes -------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
import precompute_embeddings
from bias_evaluation.embedding import image_embeddings as embeddings
from bias_evaluation.embedding import encoder
from safe_io.errors import run_main

embeddings.SHARD_ROWS = int(sys.argv.pop(1))
encode = encoder.Encoder.encode_images
encoder.Encoder.encode_images = lambda self, images: time.sleep(0.1) or encode(self, images)
sys.exit(run_main(precompute_embeddings.main))
"""


@pytest.fixture
def arguments(tiny_clip: Path, folder: Path, tmp_path: Path) -> list[str]:
    """Command line for the folder."""
    entry = {"open_clip": str(tiny_clip / "tiny_test_clip.json"), "checkpoint": str(tiny_clip / "tiny.pt")}
    backbones = tmp_path / "config" / "backbones.yml"
    backbones.parent.mkdir()
    backbones.write_text(yaml.safe_dump({"tiny": {**entry, "dim": 8, "quick_gelu": True}}))
    named = {"--backbone": "tiny", "--dataset-name": "lfw", "--dataset-path": str(folder)}
    named |= {"--batch-size": str(BATCH), "--backbones-file": str(backbones)}
    return [part for pair in named.items() for part in pair]


@pytest.fixture
def slow_process(arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command with two workers in a process of its own, slowly; gives it with two shards done."""
    command = [sys.executable, "-c", SCRIPT, str(SHARD), *arguments, "--workers", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests run in the background of a shell, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while len(finished(folder)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def finished(folder: Path) -> list[Path]:
    return sorted(parts_folder(folder / TARGET).glob("0*.npy"))


def check_that_it_goes_on(encoder: RecordingEncoder, folder: Path) -> None:
    """Check that a run from here gives the bytes of an undisturbed one, without doing its work again."""
    done = finished(folder)
    assert 2 <= len(done) < 9
    assert not (folder / TARGET).exists()
    went_on = run(encoder, folder, workers=2)
    assert sum(encoder.batches) == N - SHARD * len(done)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([TARGET, manifest_path(folder / TARGET).name, METADATA, "images"])
    assert run(encoder, folder, overwrite=True) == went_on


def test_kill_9(slow_process: subprocess.Popen[str], encoder: RecordingEncoder, folder: Path) -> None:
    slow_process.send_signal(signal.SIGKILL)
    assert slow_process.wait() == -signal.SIGKILL
    check_that_it_goes_on(encoder, folder)


def test_ctrl_c(slow_process: subprocess.Popen[str], encoder: RecordingEncoder, folder: Path) -> None:
    os.killpg(slow_process.pid, signal.SIGINT)  # as a terminal does: workers too
    _, stderr = slow_process.communicate()
    assert slow_process.returncode == 130
    assert "Traceback" not in stderr, stderr
    assert stderr.splitlines()[-1].startswith("interrupted: finished parts are kept"), stderr
    check_that_it_goes_on(encoder, folder)


# --- the command ------------------------------------------------------------------------------------------


def test_the_command_shows_images_per_second_and_time_left(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(lambda: precompute_embeddings.main([*arguments, "--workers", "0"])) == 0
    last = capsys.readouterr().err.split("\r")[-1]
    assert f"{TARGET}: 100%" in last
    assert "| 200/200 [" in last
    assert "<00:00, " in last
    assert " images/s]" in last


def test_embeddings_that_are_there_need_no_model(
    arguments: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main(lambda: precompute_embeddings.main([*arguments, "--workers", "0"])) == 0
    capsys.readouterr()
    monkeypatch.setattr("bias_evaluation.embedding.encoder.Encoder", None)
    assert run_main(lambda: precompute_embeddings.main(arguments)) == 0
    assert (
        capsys.readouterr().out == f"kept {folder / TARGET}: made from the same model, precision and images\n"
    )
    with pytest.raises(TypeError):
        precompute_embeddings.main([*arguments, "--overwrite"])


# --- unreadable images ------------------------------------------------------------------------------------

BROKEN = (5, *range(190, 200))  # one of many, then the end of a shard and the whole last one


@pytest.fixture
def broken(folder: Path) -> dict[int, bytes]:
    """Break eleven images; gives their contents."""
    contents = {row: image(folder, row).read_bytes() for row in BROKEN}
    for row in BROKEN:
        image(folder, row).write_bytes(contents[row][: row % 2 * 60])  # empty, or cut off
    return contents


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_of_the_last_shard_are_all_listed(
    encoder: RecordingEncoder,
    folder: Path,
    broken: dict[int, bytes],
    capsys: pytest.CaptureFixture[str],
    workers: int,
) -> None:
    with pytest.raises(InputError, match="11 of 200 images"):
        run(encoder, folder, workers=workers)
    listed = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in listed] == [str(image(folder, row)) for row in BROKEN]
    assert not (folder / TARGET).exists()
    assert sum(encoder.batches) == N - len(BROKEN)
    assert len(finished(folder)) == 9 - 3  # what held them is made again
    for row, content in broken.items():
        image(folder, row).write_bytes(content)
    encoder.batches.clear()
    mended = run(encoder, folder, workers=workers)
    assert encoder.batches == [10, 10, 4, 10, 10, 4, 8]
    assert mended == run(encoder, folder, overwrite=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_of_the_last_shard_are_left_out(
    encoder: RecordingEncoder, folder: Path, broken: dict[int, bytes], workers: int
) -> None:
    good = [row for row in range(N) if row not in broken]
    run(encoder, folder, workers=workers, skip_unreadable=True)
    kept = np.load(folder / TARGET)
    images = [encoder.preprocess(Image.open(image(folder, row)).convert("RGB")) for row in good]
    expected = Encoder.encode_images(encoder, torch.stack(images)).numpy()
    np.testing.assert_allclose(kept, expected, rtol=1e-4, atol=1e-6)
    names = read_metadata(folder / METADATA)["file_name"].tolist()
    assert names == [image(folder, row).name for row in good]
    record = json.loads((folder / "skipped_images.json").read_text())
    assert [entry["file_path"] for entry in record] == [f"images/person/{row:03d}.png" for row in BROKEN]
