"""RankedLists from chunks of a memory map against a sort of all scores at once."""

import mmap

import numpy as np
import pytest
import torch

from debiasing_methods.base import IdentityTransform, ReferenceImages, Vanilla
from debiasing_methods.registry import METHODS
from fair_search import ranking
from fair_search.audit import AuditedMethod, make_scorers
from fair_search.ranking import Scorer, rank_images, read_chunks
from safe_io.errors import InputError
from safe_io.matrix_files import read_matrix

D = 8


def vanilla(queries):
    return {"vanilla": Scorer(Vanilla(), [queries[:2], queries[2:]], IdentityTransform())}


@pytest.fixture
def mapped(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(1000, D)).astype(np.float16)
    np.save(tmp_path / "images.npy", embeddings)
    return np.load(tmp_path / "images.npy", mmap_mode="r")


def brute_force(embeddings, queries, length, keep=None):
    images = np.array(embeddings, np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    scores = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ images.T
    if keep is not None:
        scores[:, ~keep] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :length]


@pytest.mark.parametrize("chunk_rows", [1, 7, 64, 1000, 5000])
def test_chunks_give_what_one_sort_gives(mapped, chunk_rows):
    queries = torch.from_numpy(np.random.default_rng(1).normal(size=(5, D)).astype(np.float32))
    found = rank_images(mapped, vanilla(queries), 50, chunk_rows=chunk_rows)["vanilla"]
    assert (found.rows == brute_force(mapped, queries.numpy(), 50)).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_rows_left_out_are_never_retrieved(mapped):
    queries = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
    keep = np.random.default_rng(2).random(1000) < 0.1
    length = int(keep.sum())
    found = rank_images(mapped, vanilla(queries), length, keep=keep, chunk_rows=100)["vanilla"].rows
    assert (found == brute_force(mapped, queries.numpy(), length, keep)).all()
    assert keep[found].all()


def test_scores_that_are_not_finite_are_refused_with_the_name_of_the_method(mapped):
    queries = torch.ones(3, D)
    queries[1, 0] = torch.nan
    with pytest.raises(
        InputError, match=r"vanilla: scores of 1 of 3 queries are NaN or infinite, .*: query 1"
    ):
        rank_images(mapped, vanilla(queries), 5)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_ranks_as_its_scores_say(search_world, name):
    debiaser = search_world.load(name)
    queries = ["A photo of a doctor.", "A photo of a nurse."]
    codes = np.unique(search_world.labels, return_inverse=True)[1]
    takes = debiaser.method.takes_labelled_images()
    reference = np.arange(20) if takes else np.empty(0, np.int64)
    classes, images = tuple(np.unique(search_world.labels)), torch.from_numpy(search_world.images[reference])
    folds = torch.arange(len(reference))[None]
    given = ReferenceImages(images, torch.from_numpy(codes[reference]), classes, folds)
    each = AuditedMethod(debiaser.method, debiaser.groups(queries))
    scorers, _ = make_scorers({name: each}, given if takes else None)
    found = rank_images(search_world.images, scorers, 5, chunk_rows=9)[name]
    labelled = (search_world.images[reference], search_world.labels[reference]) if len(reference) else None
    scores = debiaser.scores(search_world.images, queries, labelled).T
    expected = np.sort(scores, axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(found.scores, expected, atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(scores, found.rows, 1), expected, atol=2e-6)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_embedding_that_cannot_be_normalised(value):
    embeddings = np.ones((20, D), np.float32)
    embeddings[13] = value
    with pytest.raises(
        InputError,
        match=r"images.npy, rows 8 to 15: 1 of 8 rows is NaN, infinite .* the first: row 13",
    ):
        list(read_chunks(embeddings, 8, "images.npy"))


def test_lists_longer_than_what_there_is(mapped):
    with pytest.raises(ValueError, match="lists of 1001 images cannot be made from 1000"):
        rank_images(mapped, vanilla(torch.ones(3, D)), 1001)
    with pytest.raises(ValueError, match="keep has shape"):
        rank_images(mapped, vanilla(torch.ones(3, D)), 1, keep=np.ones(3, bool))


def pages_given_back(embeddings, monkeypatch):
    """How many chunks give their pages back."""
    given = []
    monkeypatch.setattr("fair_search.ranking.mmap.MADV_DONTNEED", 4, raising=False)

    class Map(mmap.mmap):
        def madvise(self, *_):
            given.append(1)

    monkeypatch.setattr("fair_search.ranking._read_only_map", lambda rows: real(rows) and Map(-1, 1))
    list(read_chunks(embeddings, 100))
    return len(given)


real = ranking._read_only_map


def test_pages_of_what_the_command_reads_are_given_back(mapped, tmp_path, monkeypatch):
    read = read_matrix(tmp_path / "images.npy", "images")
    assert read.mode == "c"
    assert pages_given_back(read, monkeypatch) == pages_given_back(mapped, monkeypatch) == 10
    assert (np.concatenate([chunk.numpy() for _, chunk in read_chunks(read, 64)]) == read).all()


def test_changes_of_a_map_that_are_not_in_the_file_stay(mapped, tmp_path):
    changed = np.load(tmp_path / "images.npy", mmap_mode="c")
    changed[:] = 1
    assert all((chunk == 1).all() for _, chunk in read_chunks(changed, 64))
