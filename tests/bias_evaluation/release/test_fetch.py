"""Weight archives into the project: `download_release.py` and what it calls."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import download_release
from bias_evaluation.grid.configs import load_backbones
from bias_evaluation.release.fetch import Installed, install_archive
from bias_evaluation.release.files import BASE_URL, check_weight_file
from bias_evaluation.weights.kinds import KINDS
from bias_evaluation.weights.read import load_prism_map, load_sae, load_zsdebias
from safe_io.checkout import ROOT
from safe_io.errors import InputError
from safe_io.locks import claim

BACKBONES = load_backbones(ROOT / "config" / "backbones.yml")
SAE = "MSAE_small_4_8.pth"
PRISM = (
    "prism_clip={}_task=retrieval_setting=celeba_gray_hair_gender_epochs=1_num_bases=0_num_samples=100_seed=0_"
    "lr=0.01_batch_size=64_wd=0.0_init_weight=random.pth"
)


def as_bytes(weights: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def sae(d: int = 4, s: int = 8) -> dict[str, torch.Tensor]:
    return {
        "bpre": torch.arange(d) / 3,
        "encoder.weight": torch.ones(s, d),
        "encoder.bias": torch.zeros(s),
        "decoder.weight": torch.ones(d, s),
    }


def zsdebias(d: int = 4) -> dict[str, Any]:
    def network(part: str, out: int) -> dict[str, torch.Tensor]:
        shapes = {"0.weight": (d, d), "0.bias": (d,), "1.weight": (d,), "1.bias": (d,)}
        shapes |= {"4.weight": (out, d), "4.bias": (out,)}
        return {f"{part}.{name}": torch.ones(shape) for name, shape in shapes.items()}

    return {
        "encoder": network("encoder", 2 * d),
        "decoder": network("decoder", d),
        "args": {"bs": 1024, "clip_model": "x"},
        "epoch": 3,
        "val_loss": 0.5,
    }


class Evil:
    """Creates a file when it is unpickled by a reader that executes what it reads."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


GOOD = zipped({"sae_weights/": b"", f"sae_weights/{SAE}": as_bytes(sae()), "README.md": b"hello"})


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


INSTALLED = ["debiasing_methods/sae_weights/.release.json", f"debiasing_methods/sae_weights/{SAE}"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def install(root: Path, address: str, kind: str = "sae", **options: Any) -> Installed:
    options.setdefault("backbones", list(BACKBONES.values()))
    return install_archive(KINDS[kind], address, root, progress=False, **options)


def failure(root: Path, address: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        install(root, address, **options)
    return str(caught.value)


# --- good archives ------------------------------------------------------------------------------------------


def test_an_archive_from_a_server(server: Any, root: Path) -> None:
    server.serve(body=GOOD)
    done = install(root, server.url(), sha256=hashlib.sha256(GOOD).hexdigest().upper())
    assert done == Installed(1, 0, ("README.md",))
    assert tree(root) == INSTALLED
    assert load_sae(root / INSTALLED[1], dim=4).n_latents == 8


def test_an_archive_on_the_disk_is_only_read(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "my download.zip"
    path.write_bytes(GOOD)
    assert install(root, str(path)).new == 1
    assert tree(root) == INSTALLED
    assert path.read_bytes() == GOOD


def test_all_three_kinds_load_after_it(root: Path, tmp_path: Path) -> None:
    archives = {
        "sae": {SAE: as_bytes(sae())},
        "prism": {
            PRISM.format("small"): as_bytes({"transformer.weight": torch.eye(4)}),
            PRISM.format("other"): as_bytes({"transformer.weight": torch.eye(6)}),
        },
        "zsdebias": {"small_human_zsdebias_0.pth": as_bytes(zsdebias())},
    }
    for kind, members in archives.items():
        (tmp_path / f"{kind}_weights.zip").write_bytes(zipped(members))
    assert download_release.main(["--base-url", str(tmp_path), "--to", str(root)]) == 0
    folder = root / "debiasing_methods"
    assert load_sae(folder / "sae_weights" / SAE, dim=4).dim == 4
    assert load_prism_map(folder / "prism_weights" / PRISM.format("other"), dim=6).shape == (6, 6)
    assert load_zsdebias(folder / "zsdebias_weights" / "small_human_zsdebias_0.pth", dim=4).dim == 4


def test_a_second_run_asks_nobody(server: Any, root: Path) -> None:
    server.serve(body=GOOD)
    install(root, server.url())
    assert install(root, server.url()) == Installed(0, 1)
    assert install(root, server.url(), sha256=hashlib.sha256(GOOD).hexdigest()) == Installed(0, 1)
    assert len(server.requests) == 1


@pytest.mark.parametrize("harm", ["remove", "change"])
def test_files_that_were_harmed_are_noticed(server: Any, root: Path, harm: str) -> None:
    server.serve(body=GOOD)
    install(root, server.url())
    path = root / INSTALLED[1]
    whole = path.read_bytes()
    path.unlink() if harm == "remove" else path.write_bytes(whole[:-1] + b"x")
    if harm == "remove":
        assert install(root, server.url()) == Installed(1, 0, ("README.md",))
    else:
        assert "1 file(s) that differ from the archive's" in failure(root, server.url())
        assert install(root, server.url(), overwrite=True).new == 1
    assert path.read_bytes() == whole


def test_another_address_or_checksum_is_fetched(server: Any, root: Path) -> None:
    server.serve(body=GOOD)
    server.serve("/other.zip", GOOD)
    install(root, server.url())
    assert install(root, server.url("/other.zip")) == Installed(0, 1, ("README.md",))
    assert "is expected" in failure(root, server.url("/other.zip"), sha256="0" * 64)
    assert len(server.requests) == 3


def test_an_interrupted_transfer_goes_on(server: Any, root: Path) -> None:
    server.serve(body=GOOD, cuts=[1000, 0, 0, 0])
    assert "run the same command again" in failure(root, server.url())
    work = "debiasing_methods/sae_weights/.download/sae_weights.zip.partial"
    assert tree(root) == [work, f"{work}.json"]
    assert install(root, server.url()).new == 1
    assert server.sent == len(GOOD)
    assert tree(root) == INSTALLED


# --- files that are there -----------------------------------------------------------------------------------


def test_a_file_that_differs_stays_unless_told_otherwise(server: Any, root: Path) -> None:
    server.serve(body=GOOD)
    path = root / INSTALLED[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"my own")
    message = failure(root, server.url())
    assert f"1 file(s) that differ from the archive's, the first: {SAE}; nothing was changed" in message
    assert "--overwrite" in message
    assert path.read_bytes() == b"my own"
    done = install(root, server.url(), overwrite=True)
    assert done.new == 1
    assert server.sent == len(GOOD) + 1  # the download was kept, and confirmed by one byte
    assert load_sae(path, dim=4).dim == 4
    assert tree(root) == INSTALLED


def test_the_same_file_stays_as_it_is(server: Any, root: Path) -> None:
    server.serve(body=GOOD)
    path = root / INSTALLED[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(zipfile.ZipFile(io.BytesIO(GOOD)).read(f"sae_weights/{SAE}"))
    before = path.stat().st_mtime_ns
    assert install(root, server.url()) == Installed(0, 1, ("README.md",))
    assert path.stat().st_mtime_ns == before


def test_one_that_differs_keeps_all_others_out(server: Any, root: Path) -> None:
    server.serve(body=zipped({SAE: as_bytes(sae()), "MSAE_a.pth": as_bytes(sae(6))}))
    path = root / INSTALLED[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"my own")
    failure(root, server.url())
    assert [name for name in tree(root) if ".download" not in name] == [INSTALLED[1]]


# --- archives that are refused, and a clean disk ------------------------------------------------------------


def link() -> bytes:
    info = zipfile.ZipInfo("MSAE_link.pth")
    info.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
        archive.writestr(SAE, as_bytes(sae()))
    return buffer.getvalue()


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(SAE, as_bytes(sae()))
        archive.writestr("MSAE_zeros.pth", bytes(8 << 20))
    return buffer.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped({SAE: as_bytes(sae())}))
    data[6] = 1
    data[data.rindex(b"PK\x01\x02") + 8] = 1
    return bytes(data)


def deflated(data: bytes) -> bytes:
    """Compress the parts of a torch file, as torch itself never does."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    return buffer.getvalue()


NOT_FINITE = sae() | {"bpre": torch.tensor([0.0, float("nan"), 0.0, 0.0])}
SPREAD = sae() | {"encoder.weight": torch.zeros(1, 1).expand(1 << 20, 1 << 20)}
REFUSED = {
    "truncated": (GOOD[:-50], "not a complete zip archive"),
    "a web page": (b"<html>Sign in</html>", "not a complete zip archive"),
    "outside": (zipped({SAE: as_bytes(sae()), "../MSAE_x.pth": b""}), "leads out of the folder"),
    "absolute": (zipped({SAE: as_bytes(sae()), "/tmp/MSAE_x.pth": b""}), "leads out of the folder"),
    "link": (link(), "is a link"),
    "bomb": (bomb(), "more than 100 times as much"),
    "two of one name": (zipped({SAE: as_bytes(sae()), f"b/{SAE}": b""}), "two files of one name"),
    "encrypted": (encrypted(), "is encrypted"),
    "nothing of the kind": (
        zipped({"notes.txt": b"", "._MSAE_x.pth": b""}),
        "holds no sae weights; it has: notes",
    ),
    "empty": (zipped({}), "holds no sae weights; it has: nothing"),
    "not weights": (zipped({SAE: b"no weights"}), "is not loaded (nothing in it was executed)"),
    "another architecture": (
        zipped({SAE: as_bytes({"weight": torch.ones(2)})}),
        "has no tensor 'encoder.weight'",
    ),
    "shapes that do not fit": (
        zipped({SAE: as_bytes(sae() | {"bpre": torch.ones(5)})}),
        "needs encoder.bias",
    ),
    "not finite": (zipped({SAE: as_bytes(NOT_FINITE)}), "'bpre' holds NaN or infinite values"),
    "spread out": (zipped({SAE: as_bytes(SPREAD)}), "is not stored number by number"),
    "sparse": (
        zipped({SAE: as_bytes(sae() | {"bpre": torch.eye(4).to_sparse()})}),
        "not stored number by number",
    ),
    "a list": (zipped({SAE: as_bytes([1, 2])}), "holds a list, not a dict"),
    "weights that unpack": (
        zipped({SAE: deflated(as_bytes(sae(64, 512)))}),
        "weight files are not compressed",
    ),
    "wrong width": (
        zipped({"MSAE_ViT-B-16_512_16384_256x512_reverse.pth": as_bytes(sae(6))}),
        "has width 6, but ViT-B-16, which its name states, has width 512",
    ),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("way", ["server", "disk"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_archives_change_nothing(
    server: Any, root: Path, tmp_path: Path, case: str, way: str
) -> None:
    body, complaint = REFUSED[case]
    path = root / "debiasing_methods" / "sae_weights" / "MSAE_mine.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    address = server.url()
    if way == "server":
        server.serve(body=body)
    else:
        address = str(tmp_path / "archive.zip")
        Path(address).write_bytes(body)
    message = failure(root, address)
    assert complaint in message
    assert tree(root) == ["debiasing_methods/sae_weights/MSAE_mine.pth"]
    assert not (path.parent / ".download").exists()
    if way == "disk":
        assert Path(address).read_bytes() == body


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_weights_is_not_executed(server: Any, root: Path, tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "executed"
    weights = sae() | {"extra": Evil(marker)}
    data = pickle.dumps(weights) if legacy else as_bytes(weights)
    server.serve(body=zipped({SAE: data}))
    message = failure(root, server.url())
    assert "nothing in it was executed" in message or "cannot be read as weights" in message
    assert not marker.exists()
    assert tree(root) == []
    torch.load(io.BytesIO(as_bytes(weights)), weights_only=False)  # it would have been, by a careless reader
    assert marker.exists()


def test_a_wrong_checksum(server: Any, root: Path) -> None:
    server.serve(body=GOOD)
    message = failure(root, server.url(), sha256="ab" * 32)
    assert f"has the SHA-256 {hashlib.sha256(GOOD).hexdigest()}, but {'ab' * 32} is expected" in message
    assert tree(root) == []
    assert not (root / "debiasing_methods" / "sae_weights").exists()


@pytest.mark.parametrize("length", [10, len(GOOD) - 10])
def test_a_declared_length_that_is_too_short(server: Any, root: Path, length: int) -> None:
    server.serve(body=GOOD, length=length)
    assert "not a complete zip archive" in failure(root, server.url())
    assert tree(root) == []


def test_a_missing_archive(server: Any, root: Path, tmp_path: Path) -> None:
    assert "the server answers 404" in failure(root, server.url("/absent.zip"))
    assert "is neither an http(s):// address nor a local file" in failure(root, str(tmp_path / "absent.zip"))
    assert "is neither an http(s):// address nor a local file" in failure(root, "ftp://x/sae_weights.zip")
    assert tree(root) == []
    assert not (root / "debiasing_methods" / "sae_weights").exists()


def test_what_a_killed_run_left_does_not_stand_in_the_way(server: Any, root: Path) -> None:
    server.serve(body=GOOD)
    work = root / "debiasing_methods" / "sae_weights" / ".download"
    (work / "unpacked").mkdir(parents=True)
    (work / "unpacked" / SAE).write_bytes(b"half")
    (work / ".partial-x.json").write_bytes(b"{")
    (work / "sae_weights.zip").write_bytes(b"complete, it seems, but nobody knows what it is")
    assert install(root, server.url()).new == 1
    assert tree(root) == INSTALLED


def test_two_runs_at_once(server: Any, root: Path) -> None:
    server.serve(body=GOOD)
    with claim(root / "download_release"):
        assert "another download_release.py is at work" in failure(root, server.url())
    assert install(root, server.url()).new == 1


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to tell files apart")
def test_a_full_disk_leaves_the_old_state(server: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third file cannot be written: no file of the archive appears, the download is kept."""
    server.serve(body=zipped({f"MSAE_{i}.pth": as_bytes(sae()) for i in range(3)}))
    real = os.fsync
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if Path(f"/proc/self/fd/{handle}").readlink().name == "MSAE_2.pth":
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        install(root, server.url())
    monkeypatch.undo()
    work = "debiasing_methods/sae_weights/.download/sae_weights.zip"
    assert tree(root) == [work, f"{work}.partial.json"]
    assert len(calls) > 2


def test_widths_are_checked_for_the_backbone_that_a_name_states(tmp_path: Path) -> None:
    names = {
        "sae": "MSAE_RN50_1024_16384_512x1024_reverse.pth",
        "prism": PRISM.format("ViT-L-14@336px"),
        "zsdebias": "RN101_animal_zsdebias_2.pth",
    }
    found = [KINDS[kind].backbone(name, BACKBONES.values()) for kind, name in names.items()]
    assert [backbone and backbone.name for backbone in found] == ["RN50", "ViT-L-14@336px", "RN101"]
    assert KINDS["prism"].backbone(PRISM.format("ViT-L-14"), BACKBONES.values()) is None
    path = tmp_path / names["prism"]
    path.write_bytes(as_bytes({"transformer.weight": torch.ones(768, 767)}))
    with pytest.raises(InputError, match=r"is \(768, 767\); PRISM needs a square matrix"):
        check_weight_file(KINDS["prism"], path, found[1])


# --- the command --------------------------------------------------------------------------------------------


def test_the_address_is_that_of_the_release() -> None:
    assert BASE_URL == "https://github.com/mardgui/SEM/releases/download/v1.0"
    names = [kind.archive for kind in KINDS.values()]
    assert names == ["sae_weights.zip", "prism_weights.zip", "zsdebias_weights.zip"]


def test_one_archive_that_fails_does_not_stop_the_others(
    server: Any, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve("/sae_weights.zip", GOOD)
    server.serve("/v2/z.zip", zipped({"small_animal_zsdebias_1.pth": as_bytes(zsdebias())}))
    argv = [
        "--base-url",
        server.url("/"),
        "--to",
        str(root),
        "--source",
        f"zsdebias={server.url('/v2/z.zip')}",
    ]
    assert download_release.main(argv) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: prism: {server.url('/prism_weights.zip')}: the server answers 404")
    assert captured.out.splitlines() == [
        "sae: 1 file(s) installed in debiasing_methods/sae_weights, 0 there already",
        "sae: left out 1 other member(s), the first: README.md",
        "zsdebias: 1 file(s) installed in debiasing_methods/zsdebias_weights, 0 there already",
    ]


def test_only_some(server: Any, root: Path) -> None:
    server.serve("/sae_weights.zip", GOOD)
    digest = hashlib.sha256(GOOD).hexdigest()
    argv = ["--base-url", server.url(""), "--to", str(root), "--only", "sae", "--sha256", f"sae={digest}"]
    assert download_release.main(argv) == 0
    assert tree(root) == INSTALLED


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--source", "sea=x.zip"], "--source: unknown archive 'sea'; choose from: sae, prism, zsdebias"),
        (["--source", "sae"], "--source sae: NAME=VALUE is needed"),
        (["--sha256", "sae="], "--sha256 sae=: NAME=VALUE is needed"),
        (["--source", "sae=a", "--source", "sae=b"], "--source: 'sae' is given twice"),
        (["--sha256", "sae=1234"], "--sha256 sae: 64 hexadecimal digits are needed, found '1234'"),
        (["--timeout", "0"], "--timeout must be positive, got 0"),
        (["--timeout", "nan"], "--timeout must be positive, got nan"),
    ],
)
def test_bad_options(root: Path, arguments: list[str], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        download_release.main(["--to", str(root), *arguments])
    assert complaint in str(caught.value)
    assert tree(root) == []


def test_a_project_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sae_weights.zip").write_bytes(GOOD)
    argv = ["--base-url", str(tmp_path), "--to", str(tmp_path / "absent"), "--only", "sae"]
    assert download_release.main(argv) == 2
    assert "error: sae: project folder not found" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()


def test_a_run_that_is_killed_is_taken_up(server: Any, root: Path) -> None:
    """SIGKILL while bytes come: no file under a final name, and the next run fetches the rest only."""
    body = zipped({SAE: as_bytes(sae(64, 4096))})
    server.serve("/sae_weights.zip", body, slow=True)
    command = [sys.executable, str(ROOT / "download_release.py"), "--base-url", server.url("")]
    command += ["--to", str(root), "--only", "sae"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    partial = root / "debiasing_methods" / "sae_weights" / ".download" / "sae_weights.zip.partial"
    deadline = time.monotonic() + 60
    while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert [
        path.name for path in partial.parent.iterdir() if not path.name.startswith("sae_weights.zip.p")
    ] == []
    kept = partial.stat().st_size
    assert 0 < kept < len(body)
    server.files["/sae_weights.zip"].slow = False
    assert download_release.main(command[2:]) == 0
    assert server.requests[-1]["Range"] == f"bytes={kept}-"
    assert tree(root) == INSTALLED
