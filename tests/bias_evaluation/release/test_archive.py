"""Unpacking archives that somebody else made: what is refused, and that nothing is left behind."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bias_evaluation.release.archive import ArchiveError, Limits, unpack

Member = tuple[str | zipfile.ZipInfo, bytes]
GOOD: list[Member] = [("a.pth", b"first" * 300), ("folder/b.pth", bytes(range(256)) * 8)]


def archive(path: Path, members: list[Member], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        for name, data in members:
            target.writestr(name, data)
    return path


def run(path: Path, folder: Path, limits: Limits | None = None) -> tuple[list[Path], list[str]]:
    folder.mkdir()
    return unpack(path, folder, lambda name: name.endswith(".pth"), limits=limits, progress=False)


def refusal(path: Path, tmp_path: Path, limits: Limits | None = None) -> str:
    """One line of complaint; nothing is written but into the folder, and there nothing before the check."""
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(ArchiveError) as caught:
        run(path, tmp_path / "out", limits)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(p for p in tmp_path.rglob("*") if p != tmp_path / "out") == before
    return str(caught.value)


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (mode | 0o777) << 16
    return info


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_wanted_members_come_out_flat_and_whole(tmp_path: Path, method: int) -> None:
    members = [("folder/", b""), *GOOD, ("README.txt", b"hello"), ("__MACOSX/notes", b"x")]
    files, left_out = run(archive(tmp_path / "a.zip", members, method), tmp_path / "out")
    assert files == [tmp_path / "out" / "a.pth", tmp_path / "out" / "b.pth"]
    assert [path.read_bytes() for path in files] == [data for _, data in GOOD]
    assert left_out == ["README.txt", "__MACOSX/notes"]
    assert sorted((tmp_path / "out").iterdir()) == files


@pytest.mark.parametrize(
    "name",
    [
        "../a.pth",
        "folder/../../a.pth",
        "folder/..",
        "/tmp/a.pth",
        "//server/share/a.pth",
        "\\a.pth",
        "..\\a.pth",
        "folder\\..\\..\\a.pth",
        "C:\\a.pth",
        "C:a.pth",
    ],
)
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.zip", [*GOOD, (zipfile.ZipInfo(name), b"x")])
    assert "leads out of the folder" in refusal(path, tmp_path)


@pytest.mark.parametrize("name", ["a\nb.pth", "\x1b[2Ja.pth", "a\x07.pth", "./"])
def test_names_that_a_terminal_would_obey(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.zip", [*GOOD, (zipfile.ZipInfo(name), b"x")])
    assert "holds control characters, or nothing" in refusal(path, tmp_path)


def test_a_name_that_is_cut_at_a_null_character(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", [*GOOD, ("evilX.pth", b"x")])
    path.write_bytes(path.read_bytes().replace(b"evilX.pth", b"evil\0.pth"))
    assert "control characters" in refusal(path, tmp_path)


@pytest.mark.parametrize(
    ("mode", "what"),
    [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "a special file"), (stat.S_IFCHR, "a special file")],
)
def test_links_and_devices(tmp_path: Path, mode: int, what: str) -> None:
    path = archive(tmp_path / "a.zip", [*GOOD, (special("c.pth", mode), b"/etc/passwd")])
    assert f"'c.pth' is {what}" in refusal(path, tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a.pth", "A.PTH"])
def test_a_name_that_occurs_twice(tmp_path: Path, second: str) -> None:
    path = archive(tmp_path / "a.zip", [*GOOD, (second, b"other")])
    assert f"the name '{second}' occurs twice" in refusal(path, tmp_path)


def test_one_name_in_two_folders(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", [*GOOD, ("other/b.pth", b"other")])
    assert "two files of one name in different folders" in refusal(path, tmp_path)


def test_an_encrypted_member(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", GOOD)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = data.rindex(signature) + offset
        data[position : position + 2] = struct.pack("<H", 1)
    path.write_bytes(data)
    assert "'folder/b.pth' is encrypted" in refusal(path, tmp_path)


def test_an_unusual_compression(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", GOOD, zipfile.ZIP_LZMA)
    assert "compressed by method 14" in refusal(path, tmp_path)


def test_a_bomb_by_its_ratio(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", [*GOOD, ("c.pth", bytes(20 << 20))])
    assert "more than 100 times as much" in refusal(path, tmp_path)
    assert not (tmp_path / "out" / "a.pth").exists()


def test_a_bomb_by_members_that_share_their_bytes(tmp_path: Path) -> None:
    """Many directory entries for the same compressed bytes: each ratio is fine, their sum is not."""
    inner = archive(tmp_path / "a.zip", [("c00.pth", random.Random(0).randbytes(1 << 16))])
    data = inner.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry, end = data[start : data.index(b"PK\x05\x06")], data[data.index(b"PK\x05\x06") :]
    entries = b"".join(entry.replace(b"c00", f"{i:03d}".encode()) for i in range(500))
    end = end[:8] + struct.pack("<HHI", 500, 500, len(entries)) + end[16:]
    inner.write_bytes(data[:start] + entries + end)
    assert "more than 100 times as much" in refusal(inner, tmp_path)


def test_a_bomb_by_its_size(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", GOOD)
    total = sum(len(data) for _, data in GOOD)
    assert f"would unpack to {total} bytes; at most {total - 1}" in refusal(
        path, tmp_path, Limits(total_bytes=total - 1)
    )
    files, _ = run(path, tmp_path / "again", Limits(total_bytes=total))
    assert len(files) == 2


def test_too_many_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", GOOD)
    assert "has 2 members; at most 1 are allowed" in refusal(path, tmp_path, Limits(files=1))


def understate_size(data: bytes) -> bytes:
    """Make the directory say that the last member is one byte long."""
    position = data.rindex(b"PK\x01\x02") + 24
    return data[:position] + struct.pack("<I", 1) + data[position + 4 :]


def corrupt(data: bytes) -> bytes:
    """Change one byte of the first member's data."""
    position = len(zipfile.ZipFile(io.BytesIO(data)).infolist()[0].filename) + 30 + 5
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda data: data[: len(data) // 2], "not a complete zip archive (truncated?)"),
        (lambda data: data[:-30], "not a complete zip archive (truncated?)"),
        (lambda data: b"<html>please log in</html>", "not a complete zip archive (truncated?)"),
        (lambda data: b"", "not a complete zip archive (truncated?)"),
        (corrupt, "'a.pth' is damaged"),
        (understate_size, "'folder/b.pth' is damaged"),
    ],
)
def test_damaged_archives(
    tmp_path: Path, method: int, damage: Callable[[bytes], bytes], complaint: str
) -> None:
    path = archive(tmp_path / "a.zip", GOOD, method)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArchiveError) as caught:
        run(path, tmp_path / "out")
    assert complaint in str(caught.value)


def test_the_end_of_an_archive_inside_is_not_taken_for_the_end(tmp_path: Path) -> None:
    """Torch's weight files are zip files too, stored as they are."""
    inner = archive(tmp_path / "inner.zip", [("data.pth", b"x" * 100)]).read_bytes()
    path = archive(tmp_path / "a.zip", [("a.pth", inner), ("b.pth", b"y")], zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes()[:-60])
    assert zipfile.ZipFile(path).namelist() == ["data.pth"]
    assert "not a complete zip archive (truncated" in refusal(path, tmp_path)


def test_random_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """Whatever bytes change: the same content, or `ArchiveError`; and no name outside the folder."""
    good = archive(tmp_path / "a.zip", GOOD).read_bytes()
    generator = random.Random(1)
    refused = 0
    for number in range(300):
        data = bytearray(good)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path = tmp_path / "damaged.zip"
        path.write_bytes(data)
        try:
            files, _ = run(path, tmp_path / f"out{number}")
        except ArchiveError:
            refused += 1
            continue
        contents = {data for _, data in GOOD}
        assert all(file.read_bytes() in contents for file in files)
        assert all(file.parent == tmp_path / f"out{number}" for file in files)
    assert refused > 100
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.zip", "damaged.zip"]
