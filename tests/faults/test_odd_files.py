"""Files as the world has them: repeated images, macOS's leftovers, names that are no text, closed streams."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from fault_world import World, call

import audit_bias
from bias_evaluation.datasets.image_loading import dead_workers_as_input_errors
from bias_evaluation.datasets.metadata import BUILDERS, build_metadata
from bias_evaluation.datasets.webdataset import read_samples
from fair_search.query_files import read_queries, read_table
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main
from safe_io.files import atomic_paths, write_json

# --- an image twice ---------------------------------------------------------------------------------------


def celeba(folder: Path, lines: list[str]) -> Path:
    (folder / "Anno").mkdir(parents=True)
    text = "\n".join([str(len(lines)), "Male Young", *lines])
    (folder / "Anno" / "list_attr_celeba.txt").write_text(text + "\n")
    return folder


def fairface(folder: Path, train: list[str], val: list[str]) -> Path:
    folder.mkdir(parents=True)
    for part, lines in (("train", train), ("val", val)):
        (folder / f"fairface_label_{part}.csv").write_text(
            "\n".join(["file,age,gender,race", *lines]) + "\n\n\n"
        )
    return folder


def test_an_image_with_contradicting_labels_is_refused_with_its_lines(tmp_path: Path) -> None:
    folder = celeba(tmp_path / "c", ["a.jpg 1 1", "b.jpg -1 1", "", "a.jpg -1 1"])
    text = folder / "Anno" / "list_attr_celeba.txt"
    text.write_text(text.read_text().replace("4\n", "3\n", 1))
    with pytest.raises(
        InputError, match=r"a\.jpg is listed twice, in line 3 with 'Male' 1 and in line 6 with -1"
    ):
        build_metadata("celeba", folder)
    folder = fairface(
        tmp_path / "f", ["x/1.jpg,3-9,Male,White"], ["x/2.jpg,3-9,Male,White", "x/1.jpg,3-9,Female,White"]
    )
    with pytest.raises(
        InputError, match=r"x/1\.jpg is listed twice, in line 2 with 'gender' Male and in line 3"
    ):
        build_metadata("fairface", folder)
    assert not list(tmp_path.rglob("metadata.feather"))


def test_an_image_that_is_listed_twice_alike_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = celeba(tmp_path / "c", ["a.jpg 1 1", "b.jpg -1 1", "a.jpg 1 1"])
    assert len(build_metadata("celeba", folder)) == 3
    assert "list 1 image(s) more than once, the first: Img/img_align_celeba/a.jpg" in capsys.readouterr().err


def test_facet_repeats_images_on_purpose() -> None:
    from bias_evaluation.datasets.metadata import _REPEATING

    assert set(_REPEATING) == {"facet"} <= set(BUILDERS)


def test_metadata_of_ones_own_with_contradicting_labels_is_refused(world: World) -> None:
    path = world.data / "metadata.feather"
    table = pd.read_feather(path)
    table.loc[1, "file_path"] = table.loc[0, "file_path"]  # red, then blue
    table.to_feather(path)
    code, err = call(world, "evaluate", "--settings", "shape_color", "--methods", "vanilla")
    assert code == 2
    assert (
        "0.png is there twice, in row 0 with color = 'red' and in row 1 with 'blue'; keep the right row"
        in err
    )


# --- columns and lines ------------------------------------------------------------------------------------


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = celeba(tmp_path / "c", ["a.jpg 1 1"])
    path = folder / "Anno" / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("Male Young", "Male Male"))
    with pytest.raises(InputError, match="line 2: the attribute 'Male' is there twice"):
        build_metadata("celeba", folder)
    folder = fairface(tmp_path / "f", ["a,3-9,Male,White"], ["b,3-9,Male,White"])
    path = folder / "fairface_label_train.csv"
    path.write_text(path.read_text().replace("file,age", "file,race"))
    with pytest.raises(InputError, match="line 1: the column 'race' is there twice"):
        build_metadata("fairface", folder)
    (tmp_path / "q.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(InputError, match="has the column 'a' twice; keep one of them"):
        read_table(tmp_path / "q.csv", "metadata")


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n", "\r\n\r\n", "\n  \n"])
def test_blank_lines_at_the_end_of_a_table_are_no_rows(tmp_path: Path, end: str) -> None:
    for name, separator in (("q.csv", ","), ("q.tsv", "\t")):
        path = tmp_path / name
        path.write_bytes(f"query{separator}label\na ball{separator}1\nan owl{separator}2{end}".encode())
        assert read_table(path, "metadata").to_dict("list") == {
            "query": ["a ball", "an owl"],
            "label": ["1", "2"],
        }
        assert read_queries(path, "query") == ["a ball", "an owl"]
    (tmp_path / "one.csv").write_bytes(f"query\na ball{end}".encode())
    assert read_queries(tmp_path / "one.csv") == ["a ball"]


def test_names_of_utkface_with_an_empty_field_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for name in (
        "25_0_0_2017.jpg",
        "25__0_2017.jpg",
        "_0_0_2017.jpg",
        "25_0__2017.jpg",
        "25_0_0_.jpg",
        "25_0_0.jpg",
    ):
        (tmp_path / "images" / name).write_bytes(b"")
    assert build_metadata("utkface", tmp_path)["file_name"].tolist() == ["25_0_0_2017.jpg"]
    assert "5 image(s) skipped" in capsys.readouterr().err


# --- tar files --------------------------------------------------------------------------------------------


def tar_of(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    return path


def test_what_macos_adds_to_tar_files_is_passed_over(tmp_path: Path) -> None:
    names = [
        "._a.jpg",
        "a.jpg",
        "a.txt",
        ".DS_Store",
        "x/._b.jpg",
        "x/.DS_Store",
        "x/b.png",
        ".jpg",
        "x/.txt",
    ]
    samples = list(read_samples(tar_of(tmp_path / "a.tar", *names)))
    assert [sample["key"] for sample in samples] == ["a", "x/b"]


@pytest.mark.parametrize("name", ["b\udcff.jpg", "\udce9/a.txt"])
def test_tar_members_whose_names_are_no_text_are_refused(tmp_path: Path, name: str) -> None:
    path = tar_of(tmp_path / "a.tar", "a.jpg", name)
    with pytest.raises(InputError, match=r"a\.tar: member: the name .* is not UTF-8 text; rename it"):
        list(read_samples(path))


# --- names and streams ------------------------------------------------------------------------------------


def test_images_whose_names_are_no_text_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (b"25_0_0_2017.jpg", b"26_0_0_\xe9.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path / "images") + b"/" + name)).write_bytes(b"")
    with pytest.raises(
        InputError, match=r"image in .*images: the name '26_0_0_.*' is not UTF-8 text; rename it"
    ):
        build_metadata("utkface", tmp_path)
    assert not (tmp_path / "metadata.feather").exists()


def run(arguments: list[str | bytes], **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, timeout=120, **options)


def test_arguments_that_are_no_text_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    done = run(["generate_splits.py", "--dataset-path", folder])
    assert done.returncode == 2
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("error: an argument is not UTF-8 text: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_in_a_poorer_encoding_is_no_failure(tmp_path: Path, encoding: str) -> None:
    script = (
        "import sys; from safe_io.errors import run_main; sys.exit(run_main(lambda: print('σ → é', 1) or 0))"
    )
    done = run(["-c", script], env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b" 1\n")
    assert done.stderr == b""


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "1>&- 2>&-"])
def test_closed_streams_are_no_failure(tmp_path: Path, closed: str) -> None:
    command = f"{sys.executable} generate_splits.py --dataset-path {tmp_path}/none {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stdout + done.stderr
    if "2>&-" in closed:
        assert done.stdout == b""  # what is meant for stderr does not go there


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
        "are out of shared memory. Please try to raise your shared memory limit.",
        "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to write to file "
        "</torch_1_2>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_1_2>: Success (0)",
        "unable to mmap 4096 bytes from file </torch_7>: Cannot allocate memory (12)",
    ],
)
def test_too_little_shared_memory_is_the_documented_line(message: str) -> None:
    line = r"fewer --workers \(0: none\) or a smaller --batch-size"
    with pytest.raises(InputError, match=line) as error, dead_workers_as_input_errors():
        raise RuntimeError(message)
    assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="something else"), dead_workers_as_input_errors():
        raise RuntimeError("something else")


# --- all or nothing ---------------------------------------------------------------------------------------


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path: Path) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]

    def write(*texts: str) -> None:
        with atomic_paths(*paths) as temporaries:
            for temporary, text in zip(temporaries, texts, strict=True):
                temporary.write_text(text, encoding="utf-8")

    with pytest.raises(UnicodeEncodeError):
        write("fine", "\ud800")
    assert list(tmp_path.iterdir()) == []
    write("fine", "fine")
    assert sorted(tmp_path.iterdir()) == paths


def test_an_audit_that_cannot_be_recorded_leaves_no_report(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of a group that is no text gets as far as the table that is written last."""
    arguments = [*world.arguments("audit"), "--title", "caf\udce9"]
    assert run_main(lambda: audit_bias.main(arguments)) == 2
    assert not (world.root / "made").exists() or list((world.root / "made").iterdir()) == []


def test_text_that_is_no_utf8_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(lambda: write_json(tmp_path / "a.json", {"a": "\ud800"}) or 0) == 2
    assert capsys.readouterr().err.startswith("error: text that is not valid UTF-8: ")
    assert list(tmp_path.iterdir()) == []
