"""The bootstrap of images from the tops of the lists alone, against a bootstrap of all images."""

import numpy as np
import pytest

from fair_search.bootstrap import _top_positions, image_draws, interval, list_length, query_draws

N, K, DRAWS = 400, 20, 1500


def world(seed=0):
    random = np.random.default_rng(seed)
    codes = random.choice(3, N, p=[0.5, 0.3, 0.2])
    scores = random.normal(size=(2, N)) + 0.5 * (codes == 1)
    return codes, scores


def shares_of_draws(codes, scores, length):
    rows = np.argsort(-scores, axis=1)[:, :length]
    found = []
    population = np.bincount(codes)
    for positions, counts in image_draws(rows, codes[rows], population, K, draws=DRAWS, seed=1):
        assert counts.sum() == N
        assert (np.diff(positions) >= 0).all()
        top = np.take_along_axis(codes[rows], positions, 1)
        found.append([(top == c).mean(1) for c in range(3)] + [np.full(2, counts[1] / N)])
    return np.array(found)  # (draws, 4, 2)


def test_draws_from_the_tops_are_those_of_all_images():
    codes, scores = world()
    random = np.random.default_rng(2)
    naive = []
    for _ in range(DRAWS):
        drawn = random.integers(N, size=N)
        top = [codes[drawn][np.argsort(-s[drawn], kind="stable")[:K]] for s in scores]
        naive.append([[(t == c).mean() for t in top] for c in range(3)] + [[(codes[drawn] == 1).mean()] * 2])
    naive = np.array(naive)
    ours = shares_of_draws(codes, scores, list_length(K, N))
    assert list_length(K, N) < N / 4
    np.testing.assert_allclose(ours.mean(0), naive.mean(0), atol=0.015)
    np.testing.assert_allclose(ours.std(0), naive.std(0), rtol=0.1)
    # both lists hold the same draw of an image: the correlation between queries is that of the naive one
    correlation = [np.corrcoef(draws[:, 1].T)[0, 1] for draws in (ours, naive)]
    assert correlation[0] == pytest.approx(correlation[1], abs=0.08)


def test_lists_that_hold_every_image():
    codes, scores = world()
    rows = np.argsort(-scores[:, :30], axis=1)
    draws = list(image_draws(rows, codes[rows], np.bincount(codes[:30]), 30, draws=20, seed=0))
    for positions, counts in draws:
        top = np.take_along_axis(codes[rows], positions, 1)
        assert (np.bincount(top[0], minlength=3) == counts).all()  # K = N: the list is the draw


def test_positions_repeat_as_often_as_drawn():
    times = np.array([[0, 2, 1, 3], [1, 1, 1, 1], [0, 0, 2, 0]])
    expected = [[1, 1, 2], [0, 1, 2], [2, 2, 2]]  # the last one is too short and repeats its last image
    assert _top_positions(times, 3).tolist() == expected


def test_same_seed_same_draws():
    codes, scores = world()
    rows = np.argsort(-scores, axis=1)[:, :60]

    def draw(seed):
        return [p for p, _ in image_draws(rows, codes[rows], np.bincount(codes), K, draws=5, seed=seed)]

    assert all((a == b).all() for a, b in zip(draw(3), draw(3), strict=True))
    assert any((a != b).any() for a, b in zip(draw(3), draw(4), strict=True))


def test_interval_is_centred_on_the_value_and_bounded():
    draws = np.random.default_rng(0).normal(0.5, 0.1, size=(4000, 2))  # all above the value, as KL's are
    low, high = interval(draws, np.array([0.1, 0.4]), (0.0, np.inf))
    np.testing.assert_allclose(low, [0.0, 0.4 - 0.196], atol=0.02)
    np.testing.assert_allclose(high, [0.296, 0.596], atol=0.02)


def test_query_draws():
    drawn = query_draws(5, draws=1000, seed=0)
    assert drawn.shape == (1000, 5)
    assert set(drawn.ravel()) == set(range(5))
