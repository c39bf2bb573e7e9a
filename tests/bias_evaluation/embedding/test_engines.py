"""Parts of a command's work and their joining, on the local engine; and clusters that cannot be reached."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.suite_world import World
from support.zsdebias_world import zsdebias_arguments

import main_eval
import precompute_embeddings
from bias_evaluation.embedding import engines
from bias_evaluation.embedding import image_embeddings as embeddings
from bias_evaluation.embedding.engines import Part, ray_session
from bias_evaluation.embedding.shards import parts_folder
from debiasing_methods import zsdebias_training
from safe_io.errors import InputError, run_main

N, SHARD = 40, 8


# --- parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 7, 20])
def test_parts_are_blocks_that_cover_everything_once(n: int) -> None:
    parts = [Part(k, 6).select(range(n)) for k in range(6)]
    assert [item for part in parts for item in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "0/0", "1", "a/b", "1/2/3", ""])
def test_what_is_no_part_is_one_line(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backbone", "x", "--dataset-name", "lfw", "--dataset-path", ".", f"--shard={shard}"]
    assert run_main(lambda: precompute_embeddings.main(arguments)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: --shard {shard}: give I/N")


def test_part_join_and_ray_exclude_each_other() -> None:
    arguments = ["--backbone", "x", "--dataset-name", "lfw", "--dataset-path", ".", "--shard", "0/2"]
    for more in (["--join"], ["--engine", "ray"]):
        with pytest.raises(InputError, match="exclude each other"):
            precompute_embeddings.main([*arguments, *more])


# --- embeddings -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embeddings, "SHARD_ROWS", SHARD)
    made, random = tmp_path / "data", np.random.default_rng(0)
    (made / "images" / "person").mkdir(parents=True)
    for i in range(N):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made / "images" / "person" / f"{i:03d}.png")
    return made


@pytest.fixture
def embed(tiny_clip: Path, folder: Path, tmp_path: Path) -> Callable[..., int]:
    """Run precompute_embeddings.py on the folder; gives its exit code."""
    entry = {"open_clip": str(tiny_clip / "tiny_test_clip.json"), "checkpoint": str(tiny_clip / "tiny.pt")}
    backbones = tmp_path / "config" / "backbones.yml"
    backbones.parent.mkdir()
    entries = {"tiny": {**entry, "dim": 8, "quick_gelu": True}}
    entries["other"] = entries["tiny"] | {"quick_gelu": False}
    backbones.write_text(yaml.safe_dump(entries))

    def call(*more: str) -> int:
        arguments = ["--backbone", "tiny", "--dataset-name", "lfw", "--dataset-path", str(folder)]
        arguments += ["--batch-size", "3", "--workers", "0", "--backbones-file", str(backbones), *more]
        return run_main(lambda: precompute_embeddings.main(arguments))

    return call


@pytest.fixture
def target(folder: Path) -> Path:
    return folder / "CLIP_tiny_embeddings.npy"


def test_parts_need_metadata_that_are_there(
    embed: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed("--shard", "0/2") == 2
    assert "run the command once with --metadata-only" in capsys.readouterr().err
    assert embed("--metadata-only") == 0
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["metadata.feather"]
    assert embed("--shard", "0/2", "--rebuild-metadata") == 2


def test_joined_parts_are_the_whole_run_to_the_last_bit(embed: Callable[..., int], target: Path) -> None:
    assert embed() == 0
    whole = target.read_bytes(), target.with_suffix(".manifest.json").read_bytes()
    target.unlink()
    for part in ("2/3", "0/3", "1/3"):
        assert embed("--shard", part) == 0
        assert not target.exists()
    assert embed("--join") == 0
    assert (target.read_bytes(), target.with_suffix(".manifest.json").read_bytes()) == whole
    assert not parts_folder(target).exists()


BREAKS = {
    "missing": ("1 of 5 shards are missing in .*, the first: rows 8 to 15", "000000008.npy"),
    "doubled": (r"000000016 \(copy\)\.npy is no shard of this run \(doubled", "000000016 (copy).npy"),
    "renamed": (r"000000008\.npy has a report of the rows \[16, 24\]", "000000008.npy"),
    "damaged": (r"000000008\.npy is damaged", "000000008.npy"),
    "another run": (r"000000008\.npy is of another run", "000000008.npy"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_shard_that_does_not_fit_is_one_line_and_the_others_are_kept(
    embed: Callable[..., int], target: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed("--metadata-only") == 0
    assert embed("--shard", "0/1") == 0
    parts = parts_folder(target)
    first, second = parts / "000000008.npy", parts / "000000016.npy"
    if what == "missing":
        first.unlink()
    elif what == "doubled":
        shutil.copy(second, parts / "000000016 (copy).npy")
    elif what == "renamed":
        for suffix in (".npy", ".json"):
            shutil.copy(second.with_suffix(suffix), first.with_suffix(suffix))
    elif what == "damaged":
        first.write_bytes(first.read_bytes()[:-1] + b"\0")
    else:
        report = json.loads(first.with_suffix(".json").read_text())
        first.with_suffix(".json").write_text(json.dumps(report | {"run": "x"}))
    before = sorted(path.name for path in parts.iterdir())
    capsys.readouterr()
    assert embed("--join") == 2
    [line] = capsys.readouterr().err.splitlines()
    message, name = BREAKS[what]

    assert re.search(message, line)
    assert sorted(path.name for path in parts.iterdir()) == before
    (parts / name).unlink(missing_ok=True)  # what the line says
    assert embed("--shard", "0/1") == embed("--join") == 0


def test_parts_of_another_run_are_not_mixed(
    embed: Callable[..., int],
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert embed("--metadata-only") == 0
    assert embed("--shard", "0/2") == 0
    kept = sorted(parts_folder(target).iterdir())
    monkeypatch.setattr(embeddings, "SHARD_ROWS", 2 * SHARD)
    for option in (["--shard", "1/2"], ["--join"]):
        assert embed(*option) == 2
        assert "holds shards of another run" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(parts_folder(target).iterdir()) == kept


def test_unreadable_images_of_parts_show_when_they_are_joined(
    embed: Callable[..., int], folder: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in (3, 30):
        (folder / "images" / "person" / f"{row:03d}.png").write_text("no image")
    assert embed("--metadata-only") == 0
    assert embed("--shard", "0/2") == embed("--shard", "1/2") == 0
    assert embed("--join", "--skip-unreadable") == 0
    assert len(np.load(target)) == N - 2
    assert capsys.readouterr().err.count("unreadable: ") == 2
    assert [entry["file_path"] for entry in json.loads((folder / "skipped_images.json").read_text())] == [
        f"images/person/{row:03d}.png" for row in (3, 30)
    ]


# --- results and trainings --------------------------------------------------------------------------------


def test_parts_of_the_suite_write_its_results(suite_world: World, tmp_path: Path) -> None:
    arguments = ["--config", str(suite_world.config), "--backbone", "beta", "gamma"]
    assert main_eval.main(arguments) == 0
    local = suite_world.results()
    suite_world.output.rename(tmp_path / "old")
    assert main_eval.main([*arguments, "--text-only"]) == 0
    assert not suite_world.output.exists()
    assert main_eval.main([*arguments, "--shard", "1/2"]) == 0
    assert {name.rsplit("clip-", 1)[1].split("_")[0] for name in suite_world.results()} == {"gamma"}
    with pytest.raises(InputError, match=r"15 of 30 results are not there, the first: .*clip-b_vanilla"):
        main_eval.main([*arguments, "--join"])
    assert main_eval.main([*arguments, "--shard", "0/2"]) == 0
    assert main_eval.main([*arguments, "--join"]) == 0
    assert suite_world.results() == local
    assert main_eval.main([*arguments, "--shard", "2/3", "--dry-run"]) == 0
    assert main_eval.main([*arguments, "--shard", "0/3"]) == 0  # of two places: nothing


def test_parts_of_zsdebias_are_its_seeds(zsdebias_project: Path, tmp_path: Path) -> None:
    arguments = zsdebias_arguments(zsdebias_project, "--seeds", 0, 1, "--output-dir", tmp_path / "models")
    assert zsdebias_training.main([*arguments, "--shard", "1/2"]) == 0
    assert [path.name for path in (tmp_path / "models").glob("*.pth")] == ["tiny_color_zsdebias_1.pth"]
    with pytest.raises(InputError, match=r"1 of 2 models are not there, the first: .*zsdebias_0\.pth"):
        zsdebias_training.main([*arguments, "--join"])
    assert zsdebias_training.main([*arguments, "--shard", "0/2"]) == 0
    assert zsdebias_training.main([*arguments, "--join"]) == 0


def test_every_command_has_the_options() -> None:
    for module in (precompute_embeddings, main_eval, zsdebias_training):
        assert {"--engine", "--shard", "--join"} <= set(module.build_parser()._option_string_actions)


# --- Ray that is not there --------------------------------------------------------------------------------


def test_without_ray_the_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install '\.\[ray\]'"), ray_session():
        pass


@pytest.mark.parametrize("listens", [False, True])
def test_an_unreachable_cluster_is_one_line_soon(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.data", reason="--engine ray needs the extra: pip install '.[ray]'")
    monkeypatch.setattr(engines, "_ANSWER_SECONDS", 3.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        started = time.monotonic()
        with pytest.raises(InputError, match=rf"RAY_ADDRESS={address}.* unset it"), ray_session():
            pass
    assert time.monotonic() - started < 20
