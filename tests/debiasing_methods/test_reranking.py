"""Fair re-ranking against its definition (Geyik et al. 2019; Kong et al. 2023) and the oracle's lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.peers import PeerOracle

from debiasing_methods.reranking import ALGORITHMS, candidates, exact_shares, rerank, uniform_shares

QUOTAS = ALGORITHMS[:3]
SKEWED = {2: ("0.29", "0.71"), 7: ("0.4", *["0.1"] * 6)}


@pytest.fixture(scope="module")
def golden(peer_oracle: Callable[[str, int], PeerOracle]) -> dict[str, np.ndarray]:
    arrays = peer_oracle("rerank", 2).arrays
    typed = {name: array.astype(np.float64 if "score" in name else int) for name, array in arrays.items()}
    return type(arrays)(typed)


def _order(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[None]


def _shares(name: str, labels: np.ndarray, n: int) -> tuple[Fraction, ...]:
    if name == "data":
        return exact_shares(np.bincount(labels, minlength=n).tolist())
    return uniform_shares(n) if name == "uniform" else exact_shares(SKEWED[n])


def plain(
    order: list[int], labels: list[int], shares: tuple[Fraction, ...], k: int, algorithm: str
) -> list[int]:
    """Make one list by the definition, word for word."""
    left, result, counts = list(order), [], [0] * len(shares)
    for step in range(1, k + 1):
        best = {c: next((i for i in left if labels[i] == c), None) for c in range(len(shares))}
        there = [c for c in best if best[c] is not None]
        floor = [step * p.numerator // p.denominator for p in shares]
        ceiling = [-(-step * p.numerator // p.denominator) for p in shares]
        least = [c for c in there if counts[c] < floor[c]]
        most = [c for c in there if floor[c] <= counts[c] < ceiling[c]]
        if least:
            chosen = min(least, key=lambda c, best=best: left.index(best[c]))
        elif most:
            due = {c: Fraction(ceiling[c]) / shares[c] for c in most}
            if algorithm == "detgreedy":
                due = dict.fromkeys(due, 0)
            if algorithm == "detrelaxed":
                due = {c: math.ceil(rank) for c, rank in due.items()}
            chosen = min(most, key=lambda c, due=due, best=best: (due[c], left.index(best[c])))
        else:
            chosen = -1
        item = left[0] if chosen < 0 else best[chosen]
        result.append(item)
        left.remove(item)
        if labels[item] >= 0:
            counts[labels[item]] += 1
    return result


@pytest.mark.parametrize("algorithm", QUOTAS)
@pytest.mark.parametrize("k", [100, 500])
@pytest.mark.parametrize("shares", ["data", "uniform", "skewed"])
@pytest.mark.parametrize("n", [2, 7])
def test_the_oracles_lists(n, shares, k, algorithm, golden):
    labels = golden[f"{n}/labels"]
    found = rerank(_order(golden[f"{n}/scores"]), labels, _shares(shares, labels, n), k, algorithm)
    assert found.positions[0].tolist() == golden[f"{n}/{shares}/{k}/{algorithm}"].tolist()
    used_up = (n, shares, k) == (7, "skewed", 500)  # 193 images of the first class, 200 asked for
    assert found.fallbacks[0] == (8 if used_up else 0)
    expected = {
        (7, "data", 100, "detgreedy"): 1,
        (7, "data", 500, "detgreedy"): 12,
    }  # in one of them two classes
    assert found.below_floor[0] == (16 if used_up else expected.get((n, shares, k, algorithm), 0))
    assert not found.short.any()


@pytest.mark.parametrize("algorithm", QUOTAS)
@pytest.mark.parametrize("n", [2, 7])
def test_the_oracles_lists_of_predicted_labels(n, algorithm, golden):
    found = rerank(_order(golden[f"{n}/scores"]), golden[f"{n}/predicted"], uniform_shares(n), 100, algorithm)
    assert found.positions[0].tolist() == golden[f"{n}/uniform/100/{algorithm}_predicted"].tolist()


@pytest.mark.parametrize("k", [100, 500])
def test_the_oracles_lists_of_pbm(k, golden):
    order, shares = _order(golden["2/scores"]), uniform_shares(2)
    for name, labels in (
        ("pbm", golden["2/labels"]),
        ("pbm_predicted", golden["2/predicted"]),
        ("pbm_neutral", golden["2/labels_with_neutral"] - 1),
    ):
        found = rerank(order, labels, shares, k, "pbm").positions[0]
        assert found.tolist() == golden[f"2/{name}/{k}"].tolist()
    found = rerank(_order(golden["7/scores"]), golden["7/labels"], uniform_shares(7), k, "pbm")
    assert found.positions[0].tolist() == golden[f"7/pbm_definition/{k}"].tolist()


@pytest.mark.parametrize("algorithm", QUOTAS)
def test_the_oracles_hand_cases(algorithm, golden):
    labels = golden["hand/labels"]
    order = np.arange(len(labels))[None]
    thirds = uniform_shares(3)
    used_up = rerank(order, labels, thirds, 30, algorithm)
    assert used_up.positions[0].tolist() == golden[f"hand/exhausted/{algorithm}"].tolist()
    assert used_up.fallbacks[0] > 0


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_lists_are_those_of_the_definition(data):
    n_classes = data.draw(st.integers(1, 5))
    labels = data.draw(st.lists(st.integers(-1, n_classes - 1), min_size=1, max_size=40))
    order = data.draw(st.permutations(range(len(labels))))
    weights = data.draw(st.lists(st.integers(0, 9), min_size=n_classes, max_size=n_classes).filter(any))
    shares, k = exact_shares(weights), data.draw(st.integers(1, len(labels)))
    for algorithm in QUOTAS:
        found = rerank(np.array([order]), np.array(labels), shares, k, algorithm)
        assert found.positions[0].tolist() == plain(order, labels, shares, k, algorithm)


def _random_lists(
    n_classes: int, seed: int, n_lists: int = 20, n: int = 600
) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    order = np.stack([random.permutation(n) for _ in range(n_lists)])
    return order, np.arange(n) % n_classes


@pytest.mark.parametrize("algorithm", QUOTAS)
@pytest.mark.parametrize("n_classes", [2, 3, 4, 7])
def test_ceilings_hold_always_and_floors_where_they_are_promised(n_classes, algorithm):
    order, labels = _random_lists(n_classes, seed=n_classes)
    shares = exact_shares(np.random.default_rng(n_classes).integers(2, 9, n_classes).tolist())
    found = rerank(order, labels, shares, 80, algorithm)
    assert not found.above_ceiling.any()
    assert not found.fallbacks.any()
    if algorithm != "detgreedy" or n_classes <= 3:
        assert not found.below_floor.any()
        counts = np.stack([np.bincount(row, minlength=n_classes) for row in labels[found.positions]])
        wanted = 80 * np.array(shares, dtype=object)
        assert all(abs(float(each)) < 1 for each in (counts - wanted).ravel())


def test_detgreedy_misses_floors_from_four_classes_on_and_says_so():
    order, labels = _random_lists(4, seed=0, n_lists=60)
    found = rerank(order, labels, exact_shares([1, 2, 3, 4]), 80, "detgreedy")
    assert found.below_floor.any()


def test_floors_are_exact():
    """0.29 · 100 is 28.999… in floats; with 29 % the hundredth prefix holds 29 images."""
    labels = np.repeat([1, 0], 200)  # all of class 1 are better
    found = rerank(np.arange(400)[None], labels, exact_shares([0.29, 0.71]), 100, "detgreedy")
    assert np.bincount(labels[found.positions[0]]).tolist() == [29, 71]
    assert found.below_floor[0] == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestEveryAlgorithm:
    def test_names_of_images_do_not_matter(self, algorithm):
        order, labels = _random_lists(3, seed=1)
        renamed = np.random.default_rng(2).permutation(600)
        new_labels = np.empty_like(labels)
        new_labels[renamed] = labels
        found = rerank(order, labels, uniform_shares(3), 50, algorithm)
        again = rerank(renamed[order], new_labels, uniform_shares(3), 50, algorithm)
        assert (renamed[found.positions] == again.positions).all()

    def test_no_image_comes_twice_and_a_short_list_is_the_beginning_of_a_long_one(self, algorithm):
        order, labels = _random_lists(3, seed=3, n=90)
        long = rerank(order, labels, uniform_shares(3), 90, algorithm).positions
        assert (np.sort(long, axis=1) == np.arange(90)).all()
        for k in (1, 2, 31):
            short = rerank(order, labels, uniform_shares(3), k, algorithm).positions
            assert (short == long[:, :k]).all()

    def test_the_best_of_each_class_are_enough(self, algorithm):
        random = np.random.default_rng(4)
        scores = random.integers(0, 40, (6, 300)) / 8.0  # many are equal
        labels = np.where(random.random(300) < 0.1, -1, np.sort(random.integers(0, 3, 300)))
        few = candidates(scores, labels, 20)
        all_of_them = np.argsort(-scores, axis=1, kind="stable")
        assert few.shape == (6, 20 * len(set(labels)))
        found, expected = (rerank(o, labels, uniform_shares(3), 20, algorithm) for o in (few, all_of_them))
        assert (found.positions == expected.positions).all()

    def test_wrong_input_is_answered(self, algorithm):
        order, labels, shares = np.arange(6)[None], np.arange(6) % 2, uniform_shares(2)
        for k in (0, 7):
            with pytest.raises(ValueError, match=f"K = {k} images cannot be taken from lists of 6"):
                rerank(order, labels, shares, k, algorithm)
        with pytest.raises(ValueError, match="labels must be -1 or classes 0 to 1"):
            rerank(order, labels + 1, shares, 3, algorithm)
        with pytest.raises(ValueError, match="fractions of at least 0 with sum 1"):
            rerank(order, labels, (Fraction(1, 2), Fraction(1, 3)), 3, algorithm)
        with pytest.raises(ValueError, match=f"unknown algorithm '{algorithm}x'; choose from: detgreedy"):
            rerank(order, labels, shares, 3, f"{algorithm}x")


@pytest.mark.parametrize("algorithm", QUOTAS)
def test_with_one_class_wanted_its_images_come_first_and_only_then_others(algorithm):
    labels = np.array([1, 0, 1, 0, 1, 1])
    found = rerank(np.arange(6)[None], labels, exact_shares([1, 0]), 4, algorithm)
    assert found.positions[0].tolist() == [1, 3, 0, 2]
    assert found.fallbacks.tolist() == [2]


def test_pbm_alternates_drops_images_without_a_class_and_goes_on_when_one_is_used_up():
    labels = np.array([-1, 1, 1, 0, 1, 1, -1])
    found = rerank(np.arange(7)[None], labels, uniform_shares(2), 4, "pbm")
    assert found.positions[0].tolist() == [3, 1, 2, 4]
    assert found.fallbacks.tolist() == [1]
    best = rerank(np.arange(7)[None], labels, uniform_shares(2), 3, "pbm", start="best")
    assert best.positions[0].tolist() == [1, 3, 2]
    too_few = rerank(np.arange(7)[None], labels, uniform_shares(2), 6, "pbm")
    assert too_few.positions[0].tolist() == [3, 1, 2, 4, 5, -1]
    assert too_few.short.tolist() == [True]
    with pytest.raises(ValueError, match="pbm gives all classes the same share"):
        rerank(np.arange(7)[None], labels, exact_shares([1, 2]), 3, "pbm")


def test_shares_are_exact_fractions():
    assert exact_shares([0.29, 0.71]) == (Fraction(29, 100), Fraction(71, 100))
    assert exact_shares([3, 1]) == (Fraction(3, 4), Fraction(1, 4))
    for wrong, line in (([0, 0], "not all 0"), ([1, -1], "at least 0"), (["much"], "must be numbers")):
        with pytest.raises(ValueError, match=line):
            exact_shares(wrong)
    with pytest.raises(ValueError, match="must be numbers"):
        exact_shares([float("nan"), 1])
