"""Every method against its definition, written down a second time in plain NumPy loops and float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from debiasing_methods.base import QueryGroup, ReferenceImages
from debiasing_methods.registry import METHODS
from debiasing_methods.zsdebias import noise

Array = NDArray[np.float64]
DTYPES = [torch.float32, torch.float64]
DEFINED = [name for name in METHODS if not name.startswith("debiaslens")]  # those: test_debiaslens.py


def array(x: torch.Tensor) -> Array:
    return x.to(torch.float64).numpy()


def n(x: Array) -> Array:
    return np.array([row / np.sqrt((row * row).sum()) for row in x])


def complement(vectors: Array) -> Array:
    """Projector on what is orthogonal to linearly independent rows, by the normal equations."""
    return np.eye(vectors.shape[1]) - vectors.T @ np.linalg.inv(vectors @ vectors.T) @ vectors


def within(prompts: Array, n_queries: int) -> list[tuple[int, int]]:
    m = len(prompts) // n_queries
    return [(a * m + j, a * m + k) for a in range(n_queries) for j in range(m) for k in range(j + 1, m)]


# --- text ---------------------------------------------------------------------------------------------


def naive_vanilla(world, group):
    return array(group.queries)


naive_roboshot = naive_vanilla


def naive_zsdebias(world, group):
    return n(array(group.queries))


def naive_orth_proj(world, group):
    """Chuang et al. 2023, eq. 1."""
    return n(n(array(group.queries)) @ complement(n(array(group.spurious))))


def naive_prism_mini(world, group):
    return n(array(group.queries)) @ complement(n(array(group.spurious)))


def naive_orth_cali(world, group):
    z, dim = n(array(group.candidates)), group.queries.shape[1]
    pairs = group.candidate_pairs
    pairs = within(z, len(group.queries)) if pairs is None else pairs.tolist()
    m = sum(np.outer(z[i] - z[j], z[i] - z[j]) for i, j in pairs) / len(pairs)
    g = 50.0 * m + np.eye(dim)
    p0 = complement(n(array(group.spurious)))
    return n(np.array([p0 @ np.linalg.inv(g) @ q for q in n(array(group.queries))]))


def naive_prism(world, group):
    w = array(world.maps[group.name])
    return np.array([w @ q for q in n(array(group.queries))])


def naive_lower_median(rows: Array) -> Array:
    return np.array([sorted(column)[(len(column) - 1) // 2] for column in rows.T])


class NaiveSEM:
    """The SAE and the percentile scores, latent by latent."""

    def __init__(self, world):
        sae = world.sae
        self.we, self.be = array(sae.encoder_weight), array(sae.encoder_bias)
        self.wd, self.pre = array(sae.decoder_weight), array(sae.pre_bias)
        self.a = self.latents(world.diverse)
        self.m0 = naive_lower_median(self.a)

    def latents(self, x):
        return np.array([np.maximum(self.we @ (row - self.pre) + self.be, 0) for row in array(x)])

    def share_below(self, rows, v):
        """F(v), which is S_concept of a query's latents."""
        return np.array([sum(row[j] < v[j] for row in rows) / len(rows) for j in range(len(v))])

    def bias(self, prompts):
        """S_bias = max(0, max over c of min(g_c, r_c)) (SEM, section 3)."""
        latents = [self.latents(p) for p in prompts]
        best = np.zeros(len(self.be))
        for c, own in enumerate(latents):
            median = naive_lower_median(own)
            others = [row for k, rows in enumerate(latents) if k != c for row in rows]
            best = np.maximum(
                best, np.minimum(self.share_below(self.a, median), self.share_below(others, median))
            )
        return best

    def paraphrases(self, group):
        return [naive_lower_median(self.latents(p)) for p in group.paraphrases]

    def decode(self, h, w):
        return self.wd @ (w * h + (1 - w) * self.m0) + self.pre


def naive_sem_i(world, group):
    """SEM_i: w = S_concept²."""
    sem = NaiveSEM(world)
    return np.array([sem.decode(h, sem.share_below(sem.a, h) ** 2) for h in sem.paraphrases(group)])


def naive_sem_b(world, group):
    """SEM_b: w = (1 + S_concept − S_bias)²."""
    sem = NaiveSEM(world)
    bias = sem.bias(group.bias_prompts)
    return np.array(
        [sem.decode(h, (1 + sem.share_below(sem.a, h) - bias) ** 2) for h in sem.latents(group.queries)]
    )


def naive_sem_bi(world, group):
    """SEM_bi: w = (1 + S_concept − S_bias)², with S_concept of the paraphrases."""
    sem = NaiveSEM(world)
    bias, medians = sem.bias(group.bias_prompts), sem.paraphrases(group)
    return np.array(
        [
            sem.decode(h, (1 + sem.share_below(sem.a, median) - bias) ** 2)
            for h, median in zip(sem.latents(group.queries), medians, strict=True)
        ]
    )


def naive_bend(world, e0, num_neighbors=7):
    images, labels = array(world.reference.images), world.reference.labels.tolist()
    results = []
    for fold in world.reference.folds.tolist():
        prototypes = []
        for c in range(len(world.reference.classes)):
            members = [i for i in fold if labels[i] == c]
            cosine = {
                i: float(np.mean([images[i] @ q / np.linalg.norm(images[i]) for q in n(e0)])) for i in members
            }
            nearest = sorted(members, key=cosine.__getitem__, reverse=True)[:num_neighbors]
            prototypes.append(np.mean([images[i] for i in nearest], axis=0))
        constraints = np.array([prototypes[0] - p for p in prototypes[1:]])
        results.append(n(e0 @ complement(constraints)))
    return np.array(results)


def naive_bend_first_step(group):
    q, a = n(array(group.queries)), n(array(group.augmentations))
    halves = np.array([(a[j] - a[k]) / 2 for j, k in within(a, len(q))])
    # each query's three differences have rank two: the first two of them span the same
    independent = [halves[i] for i in range(len(halves)) if i % 3 != 2]
    return n(q @ complement(np.array([*n(array(group.spurious)), *independent])))


def _first_step(name, world):
    group = world.groups[0]
    return naive_bend_first_step(group) if name == "bendvlm" else naive_sem_bi(world, group)


def naive_bendvlm(world, group):
    return naive_bend(world, naive_bend_first_step(group))


def naive_bendsem_bi(world, group):
    return naive_bend(world, naive_sem_bi(world, group))


def naive_attribute_basis(group):
    """Left singular vectors of the prototypes' differences, of a group with one wording a class."""
    c = len(group.attribute_prompts)
    by_query = n(array(group.augmentations)).reshape(len(group.queries), c, -1)
    prototypes = n(by_query.mean(axis=0))
    left, singular, _ = np.linalg.svd((prototypes[1:] - prototypes[0]).T, full_matrices=False)
    return left[:, singular > 1e-3 * singular[0]]


def naive_compromise(e, basis):
    """Apply the published formula, which cancels in 1 − b but for vectors such as these."""
    along = basis @ (basis.T @ e)
    a, b = np.linalg.norm(along), np.linalg.norm(e - along)
    large = a + (1 - b) / a
    alpha = (large - b * np.sqrt(large**2 - a**2)) / (large**2 + b**2)
    return np.sqrt(1 - alpha**2) * (e - along) / b + alpha * along / a


def naive_cfd(world, group):
    return np.array([naive_compromise(q, naive_attribute_basis(group)) for q in n(array(group.queries))])


def naive_spd(world, group):
    return array(group.queries)


naive_leace = naive_sfid = naive_spd


def naive_fold(world, fold):
    rows = world.reference.folds[fold]
    return array(world.reference.images[rows]), array(world.reference.labels[rows]).astype(int)


def naive_kept(world, fold, keep=12):
    """Coordinates whose smoothed 64 × 64 histogram with the class number has least information."""
    columns, labels = naive_fold(world, fold)
    values = []
    for column in columns.T:
        joint = gaussian_filter(np.histogram2d(column, labels, bins=64)[0], 1, mode="constant")
        p = (joint + np.finfo(float).eps) / (joint + np.finfo(float).eps).sum()
        values.append((p * np.log(p / (p.sum(1, keepdims=True) * p.sum(0, keepdims=True)))).sum())
    kept = np.zeros(columns.shape[1])
    kept[np.argsort(values)[:keep]] = 1
    return kept


def naive_clip_clip(world, group):
    folds = range(len(world.reference.folds))
    return np.stack([n(array(group.queries)) * naive_kept(world, fold) for fold in folds])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DEFINED)
def test_text_follows_the_definition(name, dtype, make_world):
    world = make_world(dtype)
    naive = globals()[f"naive_{name.replace('-', '_')}"]
    for group, result in zip(world.groups, world.text(world.method(name)), strict=True):
        expected = naive(world, group)
        assert result.shape == expected.shape
        assert np.abs(array(result) - expected).max() <= 1e-6 * np.abs(expected).max()


# --- images -------------------------------------------------------------------------------------------


def naive_roboshot_images(world, group, method):
    def basis(pairs):
        pairs = array(pairs)
        return np.linalg.qr((pairs[:, 0] - pairs[:, 1]).T)[0].T

    images = n(array(world.images))
    for q in basis(group.harmful):
        images = n(np.array([x - (x @ q) * q for x in images]))
    for u in basis(group.helpful):
        images = n(np.array([x + (x @ u) * u for x in images]))
    return images


def naive_prism_mini_images(world, group, method):
    return n(array(world.images)) @ complement(n(array(group.spurious)))


def naive_prism_images(world, group, method):
    w = array(world.maps[group.name])
    return np.array([w @ x for x in n(array(world.images))])


def naive_network(network, x):
    x = array(network.weight_in) @ x + array(network.bias_in)
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * array(network.scale) + array(network.shift)
    x = np.where(x > 0, x, 0.3 * x)
    return array(network.weight_out) @ x + array(network.bias_out)


def naive_zsdebias_images(world, group, method):
    d = world.images.shape[1]
    draws = array(noise(method.seed, 0, 0, len(world.images), d))
    results = []
    for x, eps in zip(array(world.images), draws, strict=True):
        encoded = naive_network(world.vae.encoder, x)
        mean, log_variance = encoded[:d], encoded[d:]
        z = mean + eps * np.exp(0.5 * log_variance)
        z[d // 2 :] = eps[d // 2 :]
        results.append(naive_network(world.vae.decoder, z))
    return n(np.array(results))


def naive_cfd_images(world, group, method):
    basis = naive_attribute_basis(group)
    return np.array([naive_compromise(x, basis) for x in n(array(world.images))])


def naive_forest(world):
    """Return importances, and the mean of the images whose class is uncertain out of bag."""
    x, labels = naive_fold(world, 0)
    x = n(x)
    forest = RandomForestClassifier(100, random_state=0, oob_score=True).fit(x.astype(np.float32), labels)
    low = forest.oob_decision_function_.max(axis=1) < 0.7 - 1e-12
    return forest.feature_importances_, x[low].mean(axis=0)


def naive_spd_images(world, group, method):
    """Five directions: two rounds of three classes give four, the third is cut."""
    x, labels = naive_fold(world, 0)
    x, directions = n(x), np.zeros((0, x.shape[1]))
    while len(directions) < 5:
        rest = x - x @ directions.T @ directions
        rows = LogisticRegression(solver="newton-cg", tol=1e-12, max_iter=10_000).fit(rest, labels).coef_[:-1]
        for row in rows:
            row = row - directions.T @ (directions @ row)
            directions = np.vstack([directions, row / np.linalg.norm(row)])
    u = directions[:5]
    images = n(array(world.images))
    return images - images @ u.T @ u + u.T @ (u @ naive_forest(world)[1])


def naive_leace_images(world, group, method):
    """Theorem 4.3 with the inverse of the matrix root, and shrinkage."""
    x, labels = naive_fold(world, 0)
    x, z = n(x), np.eye(3)[labels]
    (rows, d), centered = x.shape, x - x.mean(axis=0)
    s = centered.T @ centered / rows
    t = np.trace(s)
    beta = min(1, (t**2 / rows) / ((s**2).sum() - t**2 / d))
    whitening = np.linalg.inv(sqrtm((1 - beta) * s + beta * t / d * np.eye(d)).real)
    white = whitening @ centered.T @ (z - z.mean(axis=0))
    p = np.linalg.inv(whitening) @ white @ np.linalg.pinv(white, rcond=1e-6) @ whitening
    images = n(array(world.images))
    return images - (images - x.mean(axis=0)) @ p.T


def naive_sfid_images(world, group, method):
    importances, low = naive_forest(world)
    images = n(array(world.images))
    chosen = np.argsort(importances)[-method.m :]
    images[:, chosen] = low[chosen]
    return images


def naive_clip_clip_images(world, group, method):
    return n(array(world.images)) * naive_kept(world, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DEFINED)
def test_images_follow_the_definition(name, dtype, make_world):
    world = make_world(dtype)
    method = world.method(name)
    transform = world.transform(method)
    for g, group in enumerate(world.groups):
        if method.changes_images:
            expected = globals()[f"naive_{name.replace('-', '_')}_images"](world, group, method)
        else:
            expected = n(array(world.images)) if method.normalize else array(world.images)
        result = array(transform.apply(world.prepared(method), g))
        assert np.abs(result - expected).max() <= 1e-6 * np.abs(expected).max()


# --- what the definitions leave to their edges ----------------------------------------------------------


def test_orth_cali_without_weight_on_the_pairs_is_orth_proj(make_world):
    world = make_world(torch.float64)
    calibrated, projected = (
        world.text(world.method("orth-cali", lam=0.0)),
        world.text(world.method("orth-proj")),
    )
    for a, b in zip(calibrated, projected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lam", [-1.0, float("nan"), float("inf")])
def test_orth_cali_refuses_a_meaningless_lambda(lam, make_world):
    with pytest.raises(ValueError, match="lam must be a finite number of at least 0"):
        make_world().method("orth-cali", lam=lam)


@pytest.mark.parametrize("pairs", [[[0, 3]], [[-1, 0]], torch.empty(0, 2, dtype=torch.long).tolist()])
def test_orth_cali_refuses_pairs_that_are_no_candidates(pairs, make_world):
    world = make_world()
    given = world.groups[0]
    group = QueryGroup(
        queries=given.queries,
        spurious=given.spurious,
        candidates=given.candidates,
        candidate_pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
    )
    with pytest.raises(ValueError, match="at least one pair of candidates, each from 0 to 2"):
        world.text(world.method("orth-cali"), [group])


@pytest.mark.parametrize(("name", "kind"), [("orth-cali", "candidates"), ("bendvlm", "augmentations")])
def test_prompts_that_do_not_divide_among_the_queries_are_refused(name, kind, make_world):
    world = make_world()
    both = world.groups[2]
    prompts = {"candidates": both.candidates, "augmentations": both.augmentations}
    group = QueryGroup(queries=both.queries, spurious=both.spurious, **(prompts | {kind: prompts[kind][:5]}))
    with pytest.raises(ValueError, match=f"5 {kind} for 2 queries: they must be equally many a query"):
        world.text(world.method(name), [group])


def test_sem_b_takes_its_concept_from_another_sentence_where_a_group_says_so(make_world):
    world = make_world(torch.float64)
    group, other = world.groups[0], world.groups[1].queries
    method = world.method("sem-b")
    [same] = world.text(method, [replace(group, concepts=group.queries)])
    assert torch.equal(same, world.text(method, [group])[0])
    [found] = world.text(method, [replace(group, concepts=other)])
    latents = array(world.sae.encode(world.diverse))
    concept = (latents < array(world.sae.encode(other))[0]).mean(0)
    bias = array(method.modulate([group]).bias)[0]
    w, h = (1 + concept - bias) ** 2, array(world.sae.encode(group.queries))[0]
    expected = w * h + (1 - w) * np.sort(latents, axis=0)[(len(latents) - 1) // 2]
    np.testing.assert_allclose(array(method.modulate([replace(group, concepts=other)]).debiased)[0], expected)
    np.testing.assert_allclose(array(found)[0], array(world.sae.decode(torch.from_numpy(expected)[None]))[0])
    with pytest.raises(ValueError, match="2 concept sentences for 1 queries"):
        replace(group, concepts=torch.cat([other, other]))


def test_roboshot_steps_can_be_left_out(make_world):
    world = make_world(torch.float64)
    both_off = world.method("roboshot", reject_harmful=False, accept_helpful=False)
    images = world.prepared(both_off)
    torch.testing.assert_close(
        both_off.image_transform(world.groups).apply(images), images, rtol=0, atol=1e-14
    )
    queries = [group.queries for group in world.groups]
    torch.testing.assert_close(
        both_off.image_transform(world.groups).scores(images, queries),
        images @ torch.nn.functional.normalize(torch.cat(queries), dim=1).T,
        rtol=0,
        atol=1e-14,
    )
    rejecting = world.method("roboshot", accept_helpful=False).image_transform(world.groups).apply(images)
    differences = world.groups[0].harmful[:, 0] - world.groups[0].harmful[:, 1]
    assert (rejecting @ differences.T).abs().max() < 1e-12
    accepting = world.method("roboshot", reject_harmful=False).image_transform(world.groups).apply(images)
    assert (accepting @ differences.T).abs().max() > 0.1


@pytest.mark.parametrize("name", ["bendvlm", "bendsem-bi"])
class TestBendReference:
    def test_a_class_without_images_in_a_fold_is_named(self, name, make_world):
        world = make_world()
        reference = world.reference
        labels = reference.labels.clone()
        in_fold = reference.folds[1]
        labels[in_fold] = labels[in_fold].clamp(max=1)  # 'blue' leaves fold 1, and stays in the others
        reference = ReferenceImages(reference.images, labels, reference.classes, reference.folds)
        with pytest.raises(
            ValueError, match="bias class 'blue' has no image in the reference part of fold 1"
        ):
            world.method(name).debias_text(world.groups, reference)

    def test_a_class_with_fewer_images_gives_all_it_has(self, name, make_world):
        world = make_world(torch.float64)
        rows, labels = world.reference.folds[0], world.reference.labels
        red = rows[labels[rows] == 0]
        few = torch.cat([red[:4], rows[labels[rows] != 0]])
        world.reference = ReferenceImages(world.reference.images, labels, world.reference.classes, few[None])
        expected = naive_bend(world, _first_step(name, world), num_neighbors=12)  # four of 'red'
        result = world.text(world.method(name, num_neighbors=12))[0]
        assert np.abs(array(result) - expected).max() <= 1e-6

    def test_num_neighbors_must_be_positive(self, name, make_world):
        with pytest.raises(ValueError, match="num_neighbors must be at least 1, got 0"):
            make_world().method(name, num_neighbors=0)

    def test_images_count_as_unit_whatever_their_length(self, name, make_world):
        world = make_world(torch.float64)
        lengths = torch.linspace(0.5, 2, len(world.images), dtype=torch.float64)[:, None]
        stretched = ReferenceImages(
            world.reference.images * lengths,
            world.reference.labels,
            world.reference.classes,
            world.reference.folds,
        )
        result = world.method(name).debias_text(world.groups[:1], stretched)[0]
        expected = globals()[f"naive_{name.replace('-', '_')}"](world, world.groups[0])
        assert np.abs(array(result) - expected).max() <= 1e-6


def test_prism_names_a_group_without_a_map_and_a_map_of_another_width(make_world):
    world = make_world()
    world.maps.pop("two")
    with pytest.raises(ValueError, match="prism has no map for 'two', only for: one, both"):
        world.text(world.method("prism"))
    world.maps["two"] = torch.eye(8)
    with pytest.raises(ValueError, match="map of 'two' has width 8, but the queries have width 16"):
        world.method("prism").image_transform(world.groups)
    world.maps["two"] = torch.ones(8, 16)
    with pytest.raises(ValueError, match=r"the PRISM map of 'two' must be \(d, d\), got \(8, 16\)"):
        world.method("prism")


class TestZSDebiasNoise:
    def test_draws_are_standard_normal_and_independent(self):
        draws = noise(0, 0, 0, 5000, 64)
        assert abs(draws.mean()) < 5 / np.sqrt(draws.numel())
        assert abs(draws.var() - 1) < 5 * np.sqrt(2 / draws.numel())
        assert abs((draws**4).mean() - 3) < 5 * np.sqrt(96 / draws.numel())
        correlation = torch.corrcoef(draws.T) - torch.eye(64)
        assert correlation.abs().max() < 6 / np.sqrt(len(draws))
        blocks = draws[:4096].reshape(4, -1)
        assert (torch.corrcoef(blocks) - torch.eye(4)).abs().max() < 6 / np.sqrt(blocks.shape[1])

    def test_seed_and_fold_alone_decide_them(self):
        runs = {(s, f): noise(s, f, 0, 50, 8) for s in range(4) for f in range(4)}
        for a in runs:
            torch.randn(3)  # the global generator goes on; nothing changes
            assert torch.equal(runs[a], noise(*a, 0, 50, 8))
            assert all(not torch.equal(runs[a], runs[b]) for b in runs if b != a)

    def test_a_negative_seed_is_refused(self, make_world):
        with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
            make_world().method("zsdebias", seed=-1)

    def test_the_second_half_of_the_latents_is_forgotten(self, make_world):
        world = make_world(torch.float64)
        method = world.method("zsdebias")
        prepared = method.prepare_images(world.images)
        d = world.images.shape[1]
        weight = world.vae.encoder.weight_out
        weight[d // 2 : d], weight[d + d // 2 :] = 7.0, -7.0  # rows of μ_s and log σ_s²
        assert torch.equal(prepared, method.prepare_images(world.images))
        weight[:2] += 0.1
        assert not torch.equal(prepared, method.prepare_images(world.images))

    def test_images_of_another_width_are_refused(self, make_world):
        with pytest.raises(ValueError, match="images of width 10 do not go with a model of width 16"):
            make_world().method("zsdebias").prepare_images(torch.ones(3, 10))
