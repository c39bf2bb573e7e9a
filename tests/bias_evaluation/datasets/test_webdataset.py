"""Images and captions in tar files: the embeddings of unpacked files, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import precompute_embeddings
from bias_evaluation.datasets.metadata import METADATA, read_metadata
from bias_evaluation.datasets.webdataset import build_tar_metadata, expand_pattern, read_samples
from safe_io.errors import InputError, run_main

PER_TAR, TARS = 7, 3


def member(name: str, content: bytes = b"", **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def jpeg(random: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def tars(tmp_path: Path) -> str:
    """Write three tar files as img2dataset does, and the same images as files; gives the pattern."""
    random = np.random.default_rng(0)
    (tmp_path / "tars").mkdir()
    (tmp_path / "files" / "images" / "person").mkdir(parents=True)
    for number in range(TARS):
        members, rows = [], []
        for k in range(PER_TAR):
            key, content = f"{number:05d}{k:04d}", jpeg(random)
            facts = {"key": key, "status": "success", "width": 24, "caption": f"picture {k}", "exif": "{}"}
            members += [member(f"{key}.jpg", content), member(f"{key}.txt", f"picture {k} é".encode())]
            members += [member(f"{key}.json", json.dumps(facts).encode())]
            rows.append(facts | {"url": f"https://example.org/{key}"})
            (tmp_path / "files" / "images" / "person" / f"{key}.jpg").write_bytes(content)
        rows.append({"key": f"{number:05d}9999", "status": "failed_to_download"})
        write_tar(tmp_path / "tars" / f"{number:05d}.tar", members)
        pd.DataFrame(rows).to_parquet(tmp_path / "tars" / f"{number:05d}.parquet")
    return str(tmp_path / "tars" / "{00000..00002}.tar")


@pytest.fixture
def embed(tiny_clip: Path, tmp_path: Path) -> Callable[..., int]:
    entry = {"open_clip": str(tiny_clip / "tiny_test_clip.json"), "checkpoint": str(tiny_clip / "tiny.pt")}
    backbones = tmp_path / "config" / "backbones.yml"
    backbones.parent.mkdir()
    backbones.write_text(yaml.safe_dump({"tiny": {**entry, "dim": 8, "quick_gelu": True}}))

    def call(folder: str, *more: str) -> int:
        arguments = ["--backbone", "tiny", "--dataset-name", "lfw", "--dataset-path", str(tmp_path / folder)]
        arguments += ["--batch-size", "4", "--workers", "0", "--backbones-file", str(backbones), *more]
        return run_main(lambda: precompute_embeddings.main(arguments))

    return call


def test_tar_files_give_the_embeddings_of_their_unpacked_images(
    embed: Callable[..., int], tars: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed("files") == embed("out", "--webdataset", tars) == 0
    unpacked, packed = (tmp_path / name / "CLIP_tiny_embeddings.npy" for name in ("files", "out"))
    assert packed.read_bytes() == unpacked.read_bytes()
    assert not list((tmp_path / "out").rglob("*.jpg"))  # nothing is unpacked
    table = read_metadata(tmp_path / "out" / METADATA)
    assert table["key"].tolist() == [f"{n:05d}{k:04d}" for n in range(TARS) for k in range(PER_TAR)]
    assert table["file_path"][8] == "00001.tar/000010001.jpg"
    assert table["caption"][1] == "picture 1 é"  # the text member before the JSON's
    assert table["url"][1] == "https://example.org/000000001"
    assert table["width"].tolist() == [24] * len(table)
    capsys.readouterr()
    assert embed("out", "--webdataset", tars) == embed("out", "--webdataset", tars, "--workers", "2") == 0
    assert capsys.readouterr().out.count("kept ") == 2


def test_parts_of_tar_files_are_joined(embed: Callable[..., int], tars: str, tmp_path: Path) -> None:
    assert embed("out", "--webdataset", tars) == 0
    target = tmp_path / "out" / "CLIP_tiny_embeddings.npy"
    whole = target.read_bytes()
    target.unlink()
    for more in (["--shard", "0/2"], ["--shard", "1/2"], ["--join"]):
        assert embed("out", "--webdataset", tars, *more) == 0
    assert target.read_bytes() == whole


def test_without_parquet_the_json_members_are_the_metadata(tars: str, tmp_path: Path) -> None:
    for path in (tmp_path / "tars").glob("*.parquet"):
        path.unlink()
    table = build_tar_metadata(tars, tmp_path / "out")
    assert {"width", "status", "caption"} <= set(table)
    assert len(table) == TARS * PER_TAR


def test_other_tar_files_are_not_taken_for_these(tars: str, tmp_path: Path) -> None:
    build_tar_metadata(tars, tmp_path / "out")
    fewer = tars.replace("00002", "00001")
    with pytest.raises(InputError, match="was not made from these tar files"):
        build_tar_metadata(fewer, tmp_path / "out")
    assert len(build_tar_metadata(fewer, tmp_path / "out", rebuild=True)) == 2 * PER_TAR


def test_damaged_images_are_listed(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = jpeg(np.random.default_rng(0))
    tar = write_tar(tmp_path / "0.tar", [member("a.jpg", content), member("b.jpg", content[:50])])
    assert embed("out", "--webdataset", str(tar)) == 2
    assert "unreadable: " in capsys.readouterr().err
    assert embed("out", "--webdataset", str(tar), "--skip-unreadable") == 0
    assert read_metadata(tmp_path / "out" / METADATA)["key"].tolist() == ["a"]


def hostile() -> dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]]:
    image = member("a.jpg", b"x")
    huge = 1 << 40
    return {
        "symbolic link": (
            [member("a.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
            "'a.jpg' is a link",
        ),
        "hard link": ([image, member("b.jpg", type=tarfile.LNKTYPE, linkname="a.jpg")], "'b.jpg' is a link"),
        "device": ([member("a.jpg", type=tarfile.CHRTYPE)], "'a.jpg' is a link, device"),
        "upwards": ([member("../a.jpg", b"x")], r"'\.\./a.jpg' leads out"),
        "absolute": ([member("/a.jpg", b"x")], "'/a.jpg' leads out"),
        "huge image": ([member("a.jpg", size=huge)], f"has {huge} bytes; at most 67108864"),
        "huge text": ([image, member("a.txt", b"y" * ((1 << 20) + 1))], "has 1048577 bytes; at most 1048576"),
        "no text": ([image, member("a.txt", b"\xff\xfe")], "'a.txt' is not UTF-8"),
        "no JSON": ([image, member("a.json", b"[1]")], "'a.json' is not a JSON mapping"),
        "deep JSON": ([image, member("a.json", b'{"x":' + b"[" * 100_000)], "'a.json' is not a JSON mapping"),
        "no image": ([member("a.txt", b"x"), member("b.jpg", b"x")], "sample 'a' has no image"),
        "two images": ([image, member("a.png", b"x")], "sample 'a' has two images"),
        "twice": ([image, member("b.jpg", b"x"), member("a.jpg", b"x")], "sample 'a' do not stand together"),
    }


@pytest.mark.parametrize("what", hostile())
def test_hostile_and_odd_tar_files_are_one_line(what: str, tmp_path: Path) -> None:
    members, message = hostile()[what]
    path = tmp_path / "0.tar"
    if what == "huge image":  # a header alone
        path.write_bytes(members[0][0].tobuf() + b"\0" * 1024)
    else:
        write_tar(path, members)
    with pytest.raises(InputError, match=message):
        list(read_samples(path))


def test_metadata_cannot_redirect_to_other_bytes(tmp_path: Path) -> None:
    lies = {"tar": "../secret", "tar_offset": 0, "tar_size": 9, "file_path": "/etc/passwd", "key": "z"}
    members = [member("a.json", json.dumps(lies).encode()), member("a.jpg", b"x")]
    write_tar(tmp_path / "0.tar", members)
    pd.DataFrame([lies | {"key": "a"}]).to_parquet(tmp_path / "0.parquet")
    table = build_tar_metadata(str(tmp_path / "0.tar"), tmp_path / "out")
    assert table[["tar", "key", "file_path", "tar_size"]].values.tolist() == [
        ["0.tar", "a", "0.tar/a.jpg", 1]
    ]


@pytest.mark.parametrize("how", ["cut off", "cut at a member", "compressed", "no tar"])
def test_damaged_tar_files_are_one_line(how: str, tars: str, tmp_path: Path) -> None:
    path = tmp_path / "tars" / "00001.tar"
    content = path.read_bytes()
    if how == "compressed":
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(member("a.jpg")[0])
    else:
        kept = {"cut off": content[:5000], "cut at a member": content[: 3 * 512 * 4], "no tar": b"x" * 2000}[
            how
        ]
        path.write_bytes(kept)
    with pytest.raises(InputError, match=r"00001\.tar (is damaged|and 00001\.parquet do not name)"):
        build_tar_metadata(tars, tmp_path / "out")
    assert not (tmp_path / "out" / METADATA).exists()


def test_patterns(tars: str, tmp_path: Path) -> None:
    assert [path.name for path in expand_pattern(tars)] == ["00000.tar", "00001.tar", "00002.tar"]
    with pytest.raises(InputError, match=r"tar file not found: .*00003\.tar, and 1 more"):
        expand_pattern(tars.replace("00002", "00004"))
    with pytest.raises(InputError, match="give a file, or a range"):
        expand_pattern(tars.replace("{00000..00002}", "{00002..00000}"))
    assert expand_pattern(str(tmp_path / "tars" / "00001.tar"))[0].name == "00001.tar"
