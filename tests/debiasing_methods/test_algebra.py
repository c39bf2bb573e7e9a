"""Properties of the algebra that the methods rest on, on drawn shapes, ranks and scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from debiasing_methods.base import QueryGroup
from debiasing_methods.bend import equalize
from debiasing_methods.chunks import ROWS
from debiasing_methods.linalg import lower_median, remove_span, span_basis, unit
from debiasing_methods.prism import Prism
from debiasing_methods.projections import PrismMini, calibrate, pairs_within
from debiasing_methods.roboshot import RoboShot, difference_basis
from debiasing_methods.zsdebias import NOISE_BLOCK_ROWS, noise

drawn = settings(deadline=None, max_examples=60)

seeds = st.integers(0, 2**32 - 1)
dims = st.integers(8, 32)
dtypes = st.sampled_from([torch.float32, torch.float64])


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


@st.composite
def row_sets(draw_from: st.DrawFn) -> tuple[Tensor, int]:
    """Rows of a known rank: some random, the others combinations, copies or zeros; of any scale."""
    d, rank = draw_from(dims), draw_from(st.integers(1, 6))
    extra, seed = draw_from(st.integers(0, 5)), draw_from(seeds)
    independent = draw(seed, rank, d)
    weights = draw(seed + 1, extra, rank) * draw_from(st.sampled_from([0.0, 1.0, 10.0]))
    rows = torch.cat([independent, weights @ independent, independent[:1]])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))
    return rows[order] * 10.0 ** draw_from(st.integers(-6, 6)), rank


class TestProjector:
    @drawn
    @given(row_sets(), seeds)
    def test_it_is_an_orthogonal_projector_on_the_complement_of_all_rows(self, rows_and_rank, seed):
        rows, rank = rows_and_rank
        basis = span_basis(rows)
        assert len(basis) == rank
        torch.testing.assert_close(basis @ basis.T, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-12)
        projector = remove_span(torch.eye(rows.shape[1], dtype=torch.float64), basis)
        torch.testing.assert_close(projector @ projector, projector, rtol=0, atol=1e-12)
        torch.testing.assert_close(projector, projector.T, rtol=0, atol=1e-12)
        assert (projector @ unit(rows).T).abs().max() < 1e-9
        x = draw(seed, 3, rows.shape[1])
        torch.testing.assert_close(remove_span(x, basis), x @ projector, rtol=0, atol=1e-12)

    @drawn
    @given(row_sets(), seeds)
    def test_what_is_orthogonal_already_stays(self, rows_and_rank, seed):
        basis = span_basis(rows_and_rank[0])
        x = remove_span(draw(seed, 4, basis.shape[1]), basis)
        torch.testing.assert_close(remove_span(x, basis), x, rtol=0, atol=1e-12)

    @drawn
    @given(dims, seeds)
    def test_of_nothing_and_of_zeros_the_span_is_empty(self, d, seed):
        x = draw(seed, 2, d)
        for rows in (torch.empty(0, d), torch.zeros(3, d)):
            basis = span_basis(rows)
            assert basis.shape == (0, d)
            assert torch.equal(remove_span(x, basis), x)


@drawn
@given(st.integers(1, 30), seeds)
def test_the_lower_median_is_a_value_with_half_of_the_others_on_either_side(n, seed):
    x = draw(seed, n, 4).round(decimals=1)
    for column, median in zip(x.T, lower_median(x), strict=True):
        assert (column == median).any()
        assert (column < median).sum() <= (n - 1) // 2
        assert (column <= median).sum() >= (n + 1) // 2


class TestCalibration:
    @drawn
    @given(dims, st.integers(1, 40), st.floats(0, 1e4), seeds)
    def test_woodbury_is_the_dense_inverse(self, d, n_pairs, lam, seed):
        differences, x = 0.3 * draw(seed, n_pairs, d), draw(seed + 1, 3, d)
        m = sum(torch.outer(row, row) for row in differences) / n_pairs
        dense = torch.linalg.inv(lam * m + torch.eye(d, dtype=torch.float64))
        torch.testing.assert_close(calibrate(x, differences, lam), x @ dense, rtol=0, atol=1e-6)

    @drawn
    @given(dims, st.integers(1, 5), seeds)
    def test_dependent_pairs_do_no_harm(self, d, n_pairs, seed):
        differences, x = draw(seed, n_pairs, d), draw(seed + 1, 3, d)
        twice = torch.cat([differences, differences])  # the mean over the pairs is the same
        torch.testing.assert_close(
            calibrate(x, twice, 1e3), calibrate(x, differences, 1e3), rtol=0, atol=1e-9
        )

    @drawn
    @given(st.integers(1, 5), st.integers(1, 6))
    def test_pairs_within_a_query_are_all_of_them_and_no_others(self, n_queries, m):
        pairs = {tuple(pair) for pair in pairs_within(n_queries * m, n_queries, "candidates").tolist()}
        every = range(n_queries * m)
        assert pairs == {(i, j) for i in every for j in every if i < j and i // m == j // m}


class TestRoboShot:
    @drawn
    @given(dims, st.integers(1, 6), st.integers(1, 4), dtypes, seeds)
    def test_thin_products_are_the_published_loop(self, d, n_harmful, n_helpful, dtype, seed):
        assume(d >= n_harmful + 2)
        harmful, helpful = draw(seed, n_harmful, 2, d), draw(seed + 1, n_helpful, 2, d)
        images = normalize(draw(seed + 2, 20, d), dim=1).to(dtype)
        group = QueryGroup(queries=torch.ones(1, d), harmful=harmful, helpful=helpful)
        result = RoboShot().image_transform([group]).apply(images)

        expected = images.double()
        for q in np.linalg.qr((harmful[:, 0] - harmful[:, 1]).T.numpy())[0].T:
            expected = normalize(expected - (expected @ torch.from_numpy(q))[:, None] * torch.from_numpy(q))
        for u in np.linalg.qr((helpful[:, 0] - helpful[:, 1]).T.numpy())[0].T:
            expected = normalize(expected + (expected @ torch.from_numpy(u))[:, None] * torch.from_numpy(u))
        tolerance = 1e-6 if dtype == torch.float32 else 1e-10
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=tolerance)

    @drawn
    @given(dims, st.integers(1, 4), seeds)
    def test_images_lose_the_harmful_differences_where_nothing_helps(self, d, n_pairs, seed):
        harmful = draw(seed, n_pairs, 2, d)
        group = QueryGroup(queries=torch.ones(1, d), harmful=harmful, helpful=harmful[:1])
        images = normalize(draw(seed + 1, 5, d), dim=1)
        result = RoboShot(accept_helpful=False).image_transform([group]).apply(images)
        assert (result @ difference_basis(harmful).T).abs().max() < 1e-12


class TestImplicitScores:
    @staticmethod
    def assert_scores_are_cosines(method, groups, images, tolerance):
        transform, text = method.image_transform(groups), [group.queries for group in groups]
        materialised = torch.cat(
            [
                normalize(transform.apply(images, g), dim=1) @ normalize(queries, dim=1).T
                for g, queries in enumerate(text)
            ],
            dim=1,
        )
        torch.testing.assert_close(transform.scores(images, text), materialised, rtol=0, atol=tolerance)

    @drawn
    @given(dims, st.lists(st.integers(1, 3), min_size=1, max_size=4), dtypes, seeds, st.booleans())
    def test_roboshot(self, d, sizes, dtype, seed, share):
        harmful, helpful = draw(seed, 5, 2, d, dtype=dtype), draw(seed + 1, 3, 2, d, dtype=dtype)
        groups = [
            QueryGroup(
                queries=draw(seed + 2 + g, size, d, dtype=dtype),
                harmful=harmful if share else harmful + 0.1 * g,
                helpful=helpful if share else draw(seed + 9 + g, 1 + g, 2, d, dtype=dtype),
            )
            for g, size in enumerate(sizes)
        ]
        images = normalize(draw(seed, ROWS + 7, d, dtype=dtype), dim=1)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-12
        self.assert_scores_are_cosines(RoboShot(), groups, images, tolerance)

    @drawn
    @given(dims, st.lists(st.integers(1, 3), min_size=1, max_size=4), dtypes, seeds)
    def test_prism_mini_though_only_a_thousandth_of_an_image_is_left(self, d, sizes, dtype, seed):
        groups = [
            QueryGroup(
                queries=draw(seed + g, size, d, dtype=dtype),
                spurious=draw(seed + 9 + g % 2, 3, d, dtype=dtype),
            )
            for g, size in enumerate(sizes)
        ]
        inside = draw(seed, 30, 3, dtype=dtype) @ groups[0].spurious
        images = normalize(normalize(inside, dim=1) + 1e-3 * draw(seed + 1, 30, d, dtype=dtype), dim=1)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-7
        self.assert_scores_are_cosines(PrismMini(), groups, images, tolerance)

    @drawn
    @given(dims, st.lists(st.integers(1, 3), min_size=1, max_size=4), dtypes, seeds, st.booleans())
    def test_prism(self, d, sizes, dtype, seed, share):
        groups = [
            QueryGroup(queries=draw(seed + g, size, d, dtype=dtype), name=f"q{g}")
            for g, size in enumerate(sizes)
        ]
        shared = draw(seed + 5, d, d)
        maps = {group.name: shared if share else draw(seed + g, d, d) for g, group in enumerate(groups)}
        images = normalize(draw(seed, ROWS + 7, d, dtype=dtype), dim=1)
        tolerance = 2e-6 if dtype == torch.float32 else 1e-12
        self.assert_scores_are_cosines(Prism(maps=maps), groups, images, tolerance)

    def test_an_image_that_is_removed_altogether_scores_nothing_instead_of_nan(self):
        group = QueryGroup(queries=torch.ones(1, 4), spurious=torch.eye(4)[:1], name="q")
        images = torch.eye(4)[:1]
        assert PrismMini().image_transform([group]).scores(images, [group.queries]).tolist() == [[0.0]]
        prism = Prism(maps={"q": torch.zeros(4, 4)})
        assert prism.image_transform([group]).scores(images, [group.queries]).tolist() == [[0.0]]


class Operations(TorchDispatchMode):
    """Note the size of the largest tensor that operations make, and the shapes of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.products: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        if func is torch.ops.aten.mm.default:
            self.products.append((*args[0].shape, args[1].shape[1]))
        return result


class TestCostOfScores:
    N, D, GROUPS = 20 * ROWS, 160, 25

    def _score(self, method, groups):
        images = normalize(draw(0, self.N, self.D, dtype=torch.float32), dim=1)
        transform, text = method.image_transform(groups), [group.queries for group in groups]
        with Operations() as operations:
            transform.scores(images, text)
        return operations

    def _groups(self, shared: bool) -> list[QueryGroup]:
        sources = [0 if shared else g for g in range(self.GROUPS)]
        prompts = {
            g: {
                "harmful": draw(g, 5, 2, self.D),
                "helpful": draw(g + 100, 3, 2, self.D),
                "spurious": draw(g + 200, 7, self.D),
            }
            for g in set(sources)
        }
        return [
            QueryGroup(queries=draw(g, 1, self.D, dtype=torch.float32), name=str(g), **prompts[source])
            for g, source in enumerate(sources)
        ]

    def _methods(self, shared: bool):
        maps = {str(g): draw(g, self.D, self.D, dtype=torch.float32) for g in range(self.GROUPS)}
        if shared:
            maps = dict.fromkeys(maps, maps["0"])
        return {"roboshot": RoboShot(), "prism-mini": PrismMini(), "prism": Prism(maps=maps)}

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("name", ["roboshot", "prism-mini", "prism"])
    def test_no_debiased_copy_of_the_images_is_made(self, name, shared):
        operations = self._score(self._methods(shared)[name], self._groups(shared))
        assert operations.largest < self.N * self.D  # entries of a copy

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("name", ["roboshot", "prism-mini", "prism"])
    def test_groups_share_one_product_and_a_shared_map_its_norms(self, name, shared):
        operations = self._score(self._methods(shared)[name], self._groups(shared))
        of_images = [(k, m) for n, k, m in operations.products if n == ROWS]
        per_image = sum(k * m for k, m in of_images) * ROWS / self.N  # multiplications
        edits = 1 if shared else self.GROUPS
        scores = self.D * self.GROUPS
        thin = {"roboshot": 5 + 3, "prism-mini": 7}  # dimensions of the spans
        if name == "prism":
            assert per_image <= scores + edits * 0.7 * self.D**2
        else:  # one product with all vectors, and one of the squares with the norms' weights
            assert per_image == (scores + edits * thin[name] * self.D) + edits**2 * thin[name]
            assert len(of_images) == 2 * self.N // ROWS


class TestEqualize:
    @staticmethod
    def violation(e: Tensor, prototypes: Tensor) -> float:
        products = e @ prototypes.T
        return float((products - products[..., :1]).abs().max())

    @drawn
    @given(st.integers(12, 32), st.integers(2, 7), st.integers(1, 3), st.booleans(), seeds)
    def test_it_is_feasible(self, d, n_classes, n_queries, dependent, seed):
        e0, prototypes = draw(seed, n_queries, d), normalize(draw(seed + 1, n_classes, d), dim=1)
        if dependent:
            prototypes[-1] = prototypes[0]
        e = equalize(e0, prototypes)
        assert self.violation(e, prototypes) <= 1e-6
        torch.testing.assert_close(
            e.norm(dim=1), torch.ones(n_queries, dtype=torch.float64), rtol=0, atol=1e-12
        )

    @settings(drawn, max_examples=25)
    @given(st.integers(10, 16), st.integers(2, 7), seeds)
    def test_a_numerical_solver_does_not_beat_it(self, d, n_classes, seed):
        e0, prototypes = normalize(draw(seed, 1, d), dim=1), normalize(draw(seed + 1, n_classes, d), dim=1)
        differences = (prototypes[:1] - prototypes[1:]).numpy()
        target = e0[0].numpy()
        solution = minimize(
            lambda e: -(e @ target),
            x0=target,
            jac=lambda e: -target,
            method="SLSQP",
            constraints=[
                {"type": "eq", "fun": lambda e: e @ e - 1, "jac": lambda e: 2 * e},
                {"type": "eq", "fun": lambda e: differences @ e, "jac": lambda e: differences},
            ],
            options={"maxiter": 1000, "ftol": 1e-12},
        )
        assume(solution.success)
        mine = equalize(e0, prototypes)
        assert self.violation(mine, prototypes) <= 1e-6
        found = torch.from_numpy(solution.x)
        assert float(mine[0] @ e0[0]) >= float(found @ e0[0]) - 1e-6
        assert self.violation(found, prototypes) <= 1e-6  # the solver did solve the same problem

    @drawn
    @given(st.integers(10, 16), st.integers(2, 7), seeds)
    def test_no_feasible_point_is_better(self, d, n_classes, seed):
        e0, prototypes = draw(seed, 1, d), draw(seed + 1, n_classes, d)
        best = float((equalize(e0, prototypes) @ e0.T)[0, 0])
        basis = np.linalg.qr((prototypes[:1] - prototypes[1:]).T.numpy(), mode="complete")[0][
            :, n_classes - 1 :
        ]
        feasible = normalize(draw(seed + 2, 200, basis.shape[1]) @ torch.from_numpy(basis).T, dim=1)
        assert float((feasible @ e0.T).max()) <= best + 1e-12


@given(
    st.integers(0, 3 * NOISE_BLOCK_ROWS), st.integers(0, 2000), st.integers(0, 2000), seeds, st.integers(0, 9)
)
@settings(drawn, max_examples=30)
def test_noise_is_a_function_of_the_row(first, n, more, seed, fold):
    together = noise(seed, fold, first, n + more, 3)
    assert together.shape == (n + more, 3)
    assert torch.equal(together[:n], noise(seed, fold, first, n, 3))
    assert torch.equal(together[n:], noise(seed, fold, first + n, more, 3))
    assert torch.equal(together, noise(seed, fold, 0, first + n + more, 3)[first:])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e30])
def test_unit_makes_unit_whatever_the_length_and_leaves_zero(scale):
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(unit(x * scale), expected, rtol=0, atol=1e-15)
