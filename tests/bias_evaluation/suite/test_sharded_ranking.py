"""Top-K over several files: that of one matrix, ties included, in memory that does not grow with N."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_evaluation.suite.metrics import class_shares, kl_divergence, max_skew
from bias_evaluation.suite.sharded_ranking import ShardedEmbeddings, retrieval_fairness, top_k
from safe_io.checkout import ROOT
from safe_io.errors import InputError


def save(folder: Path, matrix: np.ndarray, cuts: list[int]) -> ShardedEmbeddings:
    paths = []
    for k, part in enumerate(np.split(matrix, cuts)):
        paths.append(folder / f"{k:03d}.npy")
        np.save(paths[-1], part)
    return ShardedEmbeddings(paths)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    k=st.integers(1, 60),
    block=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_several_files_give_what_one_matrix_gives(
    tmp_path_factory: pytest.TempPathFactory, n: int, cuts: list[int], k: int, block: int, seed: int
) -> None:
    folder, k = tmp_path_factory.mktemp("shards"), min(k, n)
    random = np.random.default_rng(seed)
    # Few different rows of exact cosines, so that there are many ties.
    matrix = random.choice([-1.0, 1.0], (n, 4)).astype(np.float16)
    queries = torch.from_numpy(random.choice([-1.0, 1.0], (3, 4)).astype(np.float32))
    images = save(folder, matrix, sorted(min(cut, n) for cut in cuts))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ShardedEmbeddings.blocks, "__defaults__", (block,))
        scores, rows = top_k(queries, images, k)
    cosines = queries.numpy() @ matrix.T.astype(np.float32) / 4
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows.numpy(), expected)
    np.testing.assert_array_equal(scores.numpy(), np.take_along_axis(cosines, expected, 1))


def test_cuts_do_not_change_a_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(10_000, 24)).astype(np.float32)
    queries = torch.from_numpy(random.normal(size=(5, 24)).astype(np.float32))
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    one = top_k(queries, save(tmp_path / "one", matrix, []), 500)
    many = top_k(queries, save(tmp_path / "many", matrix, [1, 4000, 4096, 4097, 9999]), 500)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_fairness_is_that_of_the_metrics() -> None:
    random = np.random.default_rng(0)
    bias, rows = random.integers(0, 3, 300).astype(np.int8), random.integers(0, 300, (4, 20))
    found = retrieval_fairness(torch.from_numpy(rows), bias, ("a", "b", "c"))
    shares, prior = class_shares(bias[rows], 3), class_shares(bias, 3)
    np.testing.assert_allclose(found["kl"], kl_divergence(shares, prior), rtol=1e-12)
    np.testing.assert_allclose(found["max_skew"], max_skew(shares, prior), rtol=1e-12)
    with pytest.raises(InputError, match="bias class 'd' has no image"):
        retrieval_fairness(torch.from_numpy(rows), bias, ("a", "b", "c", "d"))


PEAK = """
import sys, torch
from pathlib import Path
from bias_evaluation.suite.sharded_ranking import ShardedEmbeddings, top_k
torch.set_num_threads(1)
images = ShardedEmbeddings([Path(p) for p in sys.argv[1:]])
top_k(torch.eye(3, 256), images, 50)
anonymous = [line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")]
print(int(anonymous[0]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    paths = []
    for k in range(12):  # 12 files of 16 MiB
        paths.append(tmp_path / f"{k}.npy")
        np.save(paths[-1], random.normal(size=(16_384, 256)).astype(np.float32))

    def anonymous_mebibytes(n: int) -> int:
        command = [sys.executable, "-c", PEAK, *map(str, paths[:n])]
        return int(
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()[0]
        )

    assert anonymous_mebibytes(12) - anonymous_mebibytes(1) < 40  # the files hold 176 MiB more


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    matrix = np.ones((6, 4), np.float32)
    images = save(tmp_path, matrix, [3])
    paths = [tmp_path / "000.npy", tmp_path / "001.npy"]
    with pytest.raises(InputError, match="given twice"):
        ShardedEmbeddings([*paths, paths[0]])
    with pytest.raises(InputError, match="at least one"):
        ShardedEmbeddings([])
    with pytest.raises(InputError, match=r"002\.npy; precompute"):
        ShardedEmbeddings([*paths, tmp_path / "002.npy"])
    np.save(tmp_path / "wide.npy", np.ones((2, 5), np.float32))
    with pytest.raises(InputError, match=r"wide\.npy has width 5, but the backbone has width 4"):
        ShardedEmbeddings([*paths, tmp_path / "wide.npy"])
    with pytest.raises(InputError, match="between 1 and 6"):
        top_k(torch.ones(1, 4), images, 7)
    with pytest.raises(InputError, match="do not go with width 4"):
        top_k(torch.ones(1, 5), images, 2)
    matrix[4] = 0
    with pytest.raises(InputError, match=r"NaN, infinite or all zero.* image 4"):
        top_k(torch.ones(1, 4), save(tmp_path, matrix, [3]), 2)
