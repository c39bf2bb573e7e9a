"""Text that is encoded once, kept on disk or in memory, or given as a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bias_evaluation.embedding import text_store
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.text_store import TextStore, read_text_embeddings, write_text_embeddings
from bias_evaluation.grid.configs import Backbone
from safe_io.errors import InputError

DIM = 8

MakeBackbone = Callable[..., Backbone]


# --- text that is encoded once ----------------------------------------------------------------------------


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record every encoder that is made: the list of prompts that it was given (without its self-test)."""
    record: list[list[str]] = []

    class Recorded(Encoder):
        def __init__(self, *args: Any, **options: Any) -> None:
            self.seen: list[str] = []
            super().__init__(*args, **options)
            self.seen.clear()
            record.append(self.seen)

        def encode_text(self, prompts: Any, **options: Any) -> torch.Tensor:
            self.seen += prompts
            return super().encode_text(prompts, **options)

    monkeypatch.setattr(text_store, "Encoder", Recorded)
    return record


def test_each_prompt_is_encoded_once_and_kept(
    make_backbone: MakeBackbone, tmp_path: Path, built: list[list[str]]
) -> None:
    store = TextStore(make_backbone(), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()  # nothing is written before there is something to keep
    assert store.missing(["b", "a", "b"]) == ["b", "a"]
    first = store.embed(["a", "b", "a"])
    assert built == [["a", "b"]]
    torch.testing.assert_close(first, Encoder(make_backbone()).encode_text(["a", "b", "a"]))
    torch.testing.assert_close(store.embed(["b"]), first[1:2], rtol=0, atol=0)
    assert len(built) == 1
    store.ensure(["c", "a", "d", "c"])
    assert built == [["a", "b"], ["c", "d"]]
    again = TextStore(make_backbone(), tmp_path / "cache")
    assert again.missing(["a", "b", "c", "d", "e"]) == ["e"]
    torch.testing.assert_close(again.embed(["b", "a"]), first[[1, 0]], rtol=0, atol=0)
    assert len(built) == 2
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [f"CLIP_tiny_{again.digest[:12]}.npz"]


def test_no_prompt_needs_no_model(
    make_backbone: MakeBackbone, tmp_path: Path, built: list[list[str]]
) -> None:
    store = TextStore(make_backbone(), tmp_path)
    store.ensure([])
    assert store.embed([]).shape == (0, DIM)
    assert built == []


def test_another_checkpoint_has_a_file_of_its_own(
    make_backbone: MakeBackbone,
    tiny_clip: Path,
    save_tiny_clip: Callable[..., None],
    tmp_path: Path,
    built: list[list[str]],
) -> None:
    cache, checkpoint = tmp_path / "cache", tmp_path / "mine.pt"
    shutil.copy(tiny_clip / "tiny.pt", checkpoint)
    before = TextStore(make_backbone(checkpoint=checkpoint), cache).embed(["a"])
    save_tiny_clip(tmp_path / "retrained_test_clip.json", checkpoint, seed=1)  # the same path, other weights
    after = TextStore(make_backbone(checkpoint=checkpoint), cache).embed(["a"])
    assert not torch.allclose(before, after)
    assert len(built) == 2
    assert len(list(cache.iterdir())) == 2
    torch.testing.assert_close(TextStore(make_backbone(), cache).embed(["a"]), before, rtol=0, atol=0)
    assert len(built) == 2


# --- text embeddings that are given -----------------------------------------------------------------------


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Write a file of three prompts as a user would make it."""
    embeddings = np.arange(24, dtype=np.float16).reshape(3, DIM) + 1
    return save_npz(tmp_path / "text.npz", prompts=np.array(["a", "b", "c"]), embeddings=embeddings)


def test_given_embeddings_need_no_model(
    make_backbone: MakeBackbone, given: Path, tmp_path: Path, built: list[list[str]]
) -> None:
    backbone = make_backbone(checkpoint=tmp_path / "no.pt")  # not even the checkpoint
    store = TextStore(backbone, tmp_path / "cache", given=given)
    expected = torch.tensor([[17.0, 18, 19, 20, 21, 22, 23, 24], [1, 2, 3, 4, 5, 6, 7, 8]])
    torch.testing.assert_close(store.embed(["c", "a"]), expected, rtol=0, atol=0)
    assert built == []
    assert list(tmp_path.iterdir()) == [given]


def test_missing_prompts_are_counted_and_three_are_shown(
    make_backbone: MakeBackbone, given: Path, tmp_path: Path
) -> None:
    before = given.read_bytes()
    store = TextStore(make_backbone(), tmp_path / "cache", given=given)
    with pytest.raises(InputError) as error:
        store.embed(["z1", "a", "z2", "z1", "z3", "z4"])
    assert str(error.value) == f"4 prompt(s) have no embedding in {given}, the first: 'z1'; 'z2'; 'z3'"
    assert given.read_bytes() == before
    assert list(tmp_path.iterdir()) == [given]


def test_digest_of_given_embeddings_is_that_of_the_file(
    make_backbone: MakeBackbone, given: Path, tmp_path: Path
) -> None:
    first = TextStore(make_backbone(), tmp_path, given=given).digest
    save_npz(given, prompts=np.array(["a"]), embeddings=np.ones((1, DIM), np.float32))
    assert TextStore(make_backbone(), tmp_path, given=given).digest != first


ONES = np.ones((2, DIM), np.float32)
TWO = np.array(["a", "b"])
WRONG_FILES: dict[str, tuple[dict[str, Any] | bytes | None, str]] = {
    "missing": (None, "text embeddings not found: "),
    "text": (b"prompts", "text embeddings cannot be read: "),
    "empty": (b"", "text embeddings cannot be read: "),
    "cut": (b"PK\x03\x04 and no more", "text embeddings cannot be read: "),
    "no prompts": (
        {"embeddings": ONES},
        "has no array 'prompts'; it must hold prompts and embeddings, and it holds: embeddings",
    ),
    "no embeddings": ({"prompts": TWO}, "has no array 'embeddings'; it must hold prompts and embeddings"),
    "objects": ({"prompts": TWO.astype(object), "embeddings": ONES}, "text embeddings cannot be read: "),
    "numbers as prompts": ({"prompts": np.arange(2), "embeddings": ONES}, "'prompts' must be a list of text"),
    "matrix of prompts": ({"prompts": TWO[None], "embeddings": ONES}, "'prompts' must be a list of texts"),
    "whole numbers": ({"prompts": TWO, "embeddings": ONES.astype(int)}, "'embeddings' a float matrix"),
    "another width": (
        {"prompts": TWO, "embeddings": ONES[:, :5]},
        "float32 of shape (2, 5); a float matrix (rows, 8) is needed",
    ),
    "too few rows": (
        {"prompts": TWO, "embeddings": ONES[:1]},
        "2 prompts, but 1 rows of embeddings",
    ),
    "prompt twice": (
        {"prompts": np.array(["a", "a"]), "embeddings": ONES},
        "a prompt appears in 'prompts' twice",
    ),
    "NaN": (
        {"prompts": TWO, "embeddings": ONES * [[1], [np.nan]]},
        "1 of 2 rows is NaN, infinite or all zero, the first: row 1",
    ),
}


@pytest.mark.parametrize(("content", "expected"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_wrong_text_embeddings(
    make_backbone: MakeBackbone, tmp_path: Path, content: dict[str, Any] | bytes | None, expected: str
) -> None:
    path = tmp_path / "text.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_npz(path, **content)
    with pytest.raises(InputError) as error:
        TextStore(make_backbone(), tmp_path / "cache", given=path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)


def test_text_embeddings_survive_the_disk(tmp_path: Path) -> None:
    prompts, embeddings = ["ä photo", "a" * 300, "x\ny"], torch.randn(3, DIM)
    write_text_embeddings(tmp_path / "x.npz", prompts, embeddings)
    read, again = read_text_embeddings(tmp_path / "x.npz", DIM)
    assert read == prompts
    torch.testing.assert_close(again, embeddings, rtol=0, atol=0)


# --- text that is kept in memory --------------------------------------------------------------------------


def test_without_a_folder_the_model_is_loaded_once_and_nothing_is_written(
    make_backbone: MakeBackbone, tmp_path: Path, built: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = TextStore(make_backbone())
    assert built == []
    fixed = store.embed(["a", "b"])
    query = store.embed(["q", "a", "q"], keep=False)
    torch.testing.assert_close(query[[0, 2]], Encoder(make_backbone()).encode_text(["q"]).repeat(2, 1))
    torch.testing.assert_close(query[1], fixed[0], rtol=0, atol=0)
    assert store.missing(["a", "b", "q"]) == ["q"]
    assert built[0] == ["a", "b", "q"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_to_be_kept_is_not_on_disk_either(make_backbone: MakeBackbone, tmp_path: Path) -> None:
    store = TextStore(make_backbone(), tmp_path / "cache")
    store.embed(["q"], keep=False)
    assert not (tmp_path / "cache").exists()


def test_a_given_file_says_its_width(given: Path) -> None:
    store = TextStore(None, given=given)
    assert (store.dim, store.embed(["b"], keep=False).shape) == (DIM, (1, DIM))
    assert store.too_long(["a" * 999]) == 0
    with pytest.raises(InputError, match="have no embedding in"):
        store.embed(["z"], keep=False)


def test_neither_a_backbone_nor_a_file() -> None:
    with pytest.raises(InputError, match="give one"):
        TextStore(None)


def test_a_missing_checkpoint_shows_before_anything_is_written(
    make_backbone: MakeBackbone, tmp_path: Path
) -> None:
    backbone = make_backbone(checkpoint=tmp_path / "no.pt")
    with pytest.raises(InputError, match=r"checkpoint of backbone 'tiny' not found: .*no\.pt"):
        TextStore(backbone, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []
