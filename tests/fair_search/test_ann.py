"""A FAISS index beside exact search (skipped where FAISS is not installed)."""

import sys

import numpy as np
import pytest
import torch

from debiasing_methods.base import QueryGroup, Vanilla
from debiasing_methods.projections import PrismMini
from fair_search.ann import build_index, check_index, open_index, search_index, set_parameters
from fair_search.audit import AuditedMethod, audit
from fair_search.audit_settings import AuditSettings
from fair_search.groups import Groups
from safe_io.errors import InputError

faiss = pytest.importorskip(
    "faiss", reason="faiss-cpu is not installed: the optional FAISS index is not tested"
)

N, D, Q = 3000, 16, 4
HOW = AuditSettings(ks=(10, 40), draws=5)


@pytest.fixture(scope="module")
def world():
    random = np.random.default_rng(0)
    images = random.normal(size=(N, D)).astype(np.float16)
    codes = random.integers(2, size=N)
    spurious = torch.eye(D)[:1]
    queries = [QueryGroup(torch.randn(1, D, generator=torch.Generator().manual_seed(i)), spurious=spurious)
               for i in range(Q)]  # fmt: skip
    return images, Groups("kind", ("a", "b"), codes), queries


def run(world, index, codes=None, methods=None):
    images, groups, queries = world
    groups = groups if codes is None else Groups("kind", groups.classes, codes)
    methods = methods or [Vanilla()]
    audited = {method.name: AuditedMethod(method, queries) for method in methods}
    return audit(images, groups, audited, [f"q{i}" for i in range(Q)], HOW, index=index)


def test_exact_index_moves_nothing(world):
    table = run(world, build_index(world[0], "Flat")).approximate
    assert (table["recall"] == 1).all()
    assert (table["shift"] == 0).all()
    assert set(table["k"]) == {10, 40}


def test_approximate_index_says_how_far_it_moves(world):
    found = run(world, build_index(world[0], "IVF64,Flat"))  # one of 64 cells is searched
    table = found.approximate.set_index(["metric", "k"])
    assert table.loc[("kl", 10), "recall"] < 0.9
    np.testing.assert_allclose(table["shift"], table["approximate"] - table["exact"], atol=1e-12)
    assert (table["largest_shift"].abs() >= table["shift"].abs() - 1e-12).all()
    assert table.loc[("overlap", 10), "approximate"] == table.loc[("kl", 10), "recall"]
    exact = found.table[(found.table["scope"] == "mean") & (found.table["method"] == "vanilla")]
    exact = exact.set_index(["metric", "k"])["value"]
    for key, row in table.iterrows():
        assert row["exact"] == pytest.approx(exact[key])
    index = build_index(world[0], "IVF64,Flat")
    set_parameters(index, "nprobe=64")
    assert (run(world, index).approximate["recall"] == 1).all()


def test_rows_left_out_are_not_found_through_the_index(world):
    codes = np.where(np.arange(N) < 2800, -1, world[1].codes)
    found = run(world, build_index(world[0], "Flat"), codes=codes)
    assert (found.approximate["recall"] == 1).all()


def test_index_does_not_serve_methods_that_change_images(world):
    found = run(world, build_index(world[0], "Flat"), methods=[Vanilla(), PrismMini()])
    assert set(found.approximate["method"]) == {"vanilla"}
    assert found.skipped_by_index == ("prism-mini",)
    with pytest.raises(InputError, match="no method can search through the index: prism-mini change"):
        run(world, build_index(world[0], "Flat"), methods=[PrismMini()])


def test_index_from_a_file(world, tmp_path):
    index = build_index(world[0], "Flat")
    faiss.write_index(index, str(tmp_path / "images.faiss"))
    opened = open_index(tmp_path / "images.faiss", N, D)
    queries = np.eye(D, dtype=np.float32)
    assert (search_index(opened, queries, 5) == search_index(index, queries, 5)).all()
    with pytest.raises(InputError, match=f"holds {N} vectors of width {D}, but the embeddings are {N - 1}"):
        open_index(tmp_path / "images.faiss", N - 1, D)


def test_bad_indices(world, tmp_path, monkeypatch):
    (tmp_path / "bad.faiss").write_bytes(b"no index")
    with pytest.raises(InputError, match="cannot be read as a FAISS index"):
        open_index(tmp_path / "bad.faiss", N, D)
    with pytest.raises(InputError, match="FAISS index not found"):
        open_index(tmp_path / "none.faiss", N, D)
    with pytest.raises(InputError, match="FAISS cannot make an index 'Nonsense'"):
        build_index(world[0], "Nonsense")
    with pytest.raises(InputError, match="does not take the parameters 'speed=3'"):
        set_parameters(build_index(world[0], "Flat"), "speed=3")
    with pytest.raises(InputError, match=r"finds only \d+ of 2000 images"):
        search_index(build_index(world[0], "IVF64,Flat"), np.eye(D, dtype=np.float32), 2000)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="pip install faiss-cpu"):
        build_index(world[0], "Flat")


def test_each_depth_is_searched_for_itself_and_no_more_than_needed(world, monkeypatch):
    asked = []

    class Watched:
        def __init__(self, index):
            self.index, self.ntotal = index, index.ntotal

        def search(self, queries, length):
            asked.append(length)
            return self.index.search(queries, length)

    run(world, Watched(build_index(world[0], "Flat")))
    assert asked == list(HOW.ks)


def test_ids_that_are_no_rows(world):
    index = faiss.index_factory(D, "IDMap,Flat", faiss.METRIC_INNER_PRODUCT)
    index.add_with_ids(world[0].astype(np.float32), np.arange(N) + 10**6)
    with pytest.raises(InputError, match=f"but it has {N} vectors: its ids must be the rows"):
        run(world, index)


@pytest.mark.parametrize(
    "factory", ["Flat", "IVF16,Flat", "HNSW16", "SQ8", "PQ8x4np", "IVF16,PQ8x4np", "IDMap,Flat"]
)
@pytest.mark.parametrize("metric", ["METRIC_INNER_PRODUCT", "METRIC_L2"])
def test_an_index_of_raw_or_permuted_rows_is_refused(world, factory, metric):
    """Its garbage would be reported as the effect of approximate search."""
    rows = world[0].astype(np.float32)
    unit_rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def made_of(vectors):
        index = faiss.index_factory(D, factory, getattr(faiss, metric))
        index.train(vectors)
        if factory.startswith("IDMap"):
            index.add_with_ids(vectors, np.arange(N))
        else:
            index.add(vectors)
        return index

    check_index(made_of(unit_rows), world[0], "x.faiss")
    permuted = made_of(unit_rows[np.random.default_rng(1).permutation(N)])
    with pytest.raises(InputError, match=r"x\.faiss does not hold the rows of the embeddings in their order"):
        check_index(permuted, world[0], "x.faiss")
    with pytest.raises(InputError, match=r"x\.faiss does not hold the rows"):
        check_index(made_of(np.roll(unit_rows, 1, axis=0)), world[0], "x.faiss")
    if factory != "IDMap,Flat":  # whose vectors cannot be read back
        with pytest.raises(InputError, match=r"x\.faiss holds vectors of length 3\.\d+, not of length 1"):
            check_index(made_of(rows), world[0], "x.faiss")


def test_equal_rows_of_an_index_are_in_any_order():
    rows = np.tile(np.eye(D, dtype=np.float32)[:1], (300, 1))
    check_index(build_index(rows, "Flat"), rows, "x.faiss")
