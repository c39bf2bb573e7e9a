"""CFD (Lian et al. 2026): the published outputs, the minimax that its formula solves, and its edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from debiasing_methods.base import QueryGroup
from debiasing_methods.cfd import Cfd, CompromiseTransform, attribute_basis, compromise

SETTINGS = {
    "race": "fairface_stereotype_race",
    "hair": "celeba_hair_gender",
    "hair_variants": "celeba_hair_gender",
    "blond": "celeba_blond_hair_gender",
}
CASES = [
    *(f"race/q{q}_0" for q in range(5)),
    *(f"hair/q{q}_0" for q in range(4)),
    *(f"hair_variants/q{q}_0" for q in range(2)),
    "blond/q0_0",
    "blond/q0_1",
    *(f"{setting}/shared" for setting in SETTINGS),
]


def groups_of(oracle, n_classes, names=None):
    """Make the groups of a setting (without names, all), with the attribute prompts that they share."""
    world = {name: torch.from_numpy(array) for name, array in oracle.world.items() if "/" in name}
    names = names or sorted({name.split("/")[0] for name in world})
    augmentations = {q: world[f"{q}/bend_augmentations"] for q in names}
    by_query = torch.cat([rows.view(-1, n_classes, 1, rows.shape[1]) for rows in augmentations.values()])
    return [
        QueryGroup(
            world[f"{q}/query"],
            q,
            augmentations=augmentations[q],
            bias_prompts=tuple(world[f"{q}/bias_prompts"]),
            attribute_prompts=tuple(by_query.transpose(0, 1)),
        )
        for q in names
    ]


def chosen(groups, case, n_classes):
    """Choose the groups of a case: all of a shared basis, else one query of one group."""
    if case.endswith("shared"):
        return groups
    name, row = case.split("/")[1].split("_")
    [group] = [each for each in groups if each.name == name]
    own = slice(int(row), int(row) + 1)
    rows = group.augmentations.view(len(group.queries), n_classes, -1)[own].flatten(0, 1)
    return [replace(group, queries=group.queries[own], augmentations=rows)]


@pytest.mark.parametrize("case", CASES)
def test_text_and_images_are_the_published_ones(case, peer_oracle):
    setting = case.split("/")[0]
    oracle = peer_oracle("cfd", SETTINGS[setting])
    basis = oracle.tensor(f"{case}/basis")
    n_classes = {1: 2, 6: 7}[basis.shape[1]]
    names = ("q0", "q1") if setting == "hair_variants" else None
    groups = chosen(groups_of(oracle, n_classes, names), case, n_classes)
    method = Cfd(
        basis="shared" if case.endswith("shared") else "query",
        variants="bias_prompts" if setting.endswith("variants") else "none",
    )
    transform = method.image_transform(groups)
    ours = transform.bases[0]
    torch.testing.assert_close(ours.T @ ours, basis @ basis.T, rtol=0, atol=1e-10)

    text, expected = torch.cat(method.debias_text(groups)), oracle.tensor(f"{case}/text")
    text = text[: len(expected)]
    assert float((text - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    precise = torch.cat([compromise(g.queries, b) for g, b in zip(groups, transform.bases, strict=True)])
    expected = oracle.tensor(f"{case}/text64")
    torch.testing.assert_close(precise[: len(expected)], expected, rtol=0, atol=1e-10)

    if f"{case}/images" in oracle.arrays:
        expected = oracle.tensor(f"{case}/images")
        images = oracle.unit_rows(oracle.rows("val")[: len(expected)])
        applied = transform.apply(images)
        assert float((applied - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
        along = compromise(images, ours) @ ours.T
        alpha = torch.linalg.vector_norm(along, dim=1)
        torch.testing.assert_close(alpha, oracle.tensor(f"{case}/image_alpha"), rtol=1e-6, atol=0)


def test_a_classification_scores_one_image_vector(peer_oracle):
    """Of one group, the basis `query` is the mean over its classes: what the golden data call shared."""
    oracle = peer_oracle("cfd", "celeba_blond_hair_gender")
    [group] = groups_of(oracle, 2)
    [ours], expected = Cfd().image_transform([group]).bases, oracle.tensor("blond/shared/basis")
    torch.testing.assert_close(ours.T @ ours, expected @ expected.T, rtol=0, atol=1e-10)


def test_edges_of_the_oracle(peer_oracle):
    """The published float32 formula loses 1 − b: rows 2 and 4 differ from the definition."""
    oracle = peer_oracle("cfd", "celeba_hair_gender")
    basis = oracle.tensor("edge/basis").T
    ours = compromise(oracle.tensor("edge/input"), basis)
    expected = oracle.tensor("edge/definition")
    finite = expected.isfinite().all(dim=1)
    torch.testing.assert_close(ours[finite], expected[finite], rtol=0, atol=1e-10)
    published = oracle.tensor("edge/published")
    torch.testing.assert_close(ours[~finite], published[~finite], rtol=0, atol=1e-6)
    alpha = oracle.tensor("edge/alpha")
    known = finite & alpha.isfinite()
    found = torch.linalg.vector_norm(ours @ basis.T, dim=1)
    torch.testing.assert_close(found[known], alpha[known], rtol=1e-9, atol=1e-15)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(r, d, seed=1):
    return torch.linalg.qr(draw(d, r, seed=seed)).Q.T


@pytest.mark.parametrize("share", [1e-3, 0.1, 0.5, 0.9, 0.999])
def test_alpha_is_the_minimax(share):
    """α minimizes the larger of α/a and (1 − u·e)/(1 − b), by a grid over α."""
    basis = orthonormal(2, 8)
    along, across = basis[0], normalize(draw(8) - basis.T @ (basis @ draw(8)), dim=0)
    a, b = share, (1 - share**2) ** 0.5
    e = a * along + b * across
    found = float(compromise(e[None], basis)[0] @ along)
    grid = np.linspace(0, a, 200_001)
    cosine = np.sqrt(1 - grid**2) * b + grid * a
    worst = np.maximum(grid / a, (1 - cosine) / (1 - b))
    assert found == pytest.approx(grid[worst.argmin()], rel=1e-3)


def test_each_side_keeps_between_38_and_50_percent_of_its_attribute_part():
    basis, e = orthonormal(3, 10), normalize(draw(500, 10), dim=1)
    u = compromise(e, basis)
    ratio = (u @ basis.T) / (e @ basis.T)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))  # one factor ρ for all directions
    assert (ratio >= (3 - 5**0.5) / 2).all()
    assert (ratio <= 0.5).all()
    torch.testing.assert_close(torch.linalg.vector_norm(u, dim=1), torch.ones(500, dtype=torch.float64))
    rest = [normalize(x - (x @ basis.T) @ basis, dim=1) for x in (e, u)]
    torch.testing.assert_close(*rest)  # the direction of what is not the attribute stays


def test_a_vector_without_one_of_the_parts_stays():
    basis = orthonormal(2, 8)
    pure, neutral = basis[:1], normalize(draw(1, 8) - (draw(1, 8) @ basis.T) @ basis, dim=1)
    for e in (pure, neutral):
        torch.testing.assert_close(compromise(e, basis), e, rtol=0, atol=1e-12)


def test_length_of_the_input_does_not_matter():
    basis, e = orthonormal(2, 8), draw(5, 8)
    torch.testing.assert_close(compromise(7 * e, basis), compromise(e, basis))


def test_the_numbers_of_the_classes_do_not_matter(make_world):
    world = make_world(torch.float64)
    order = torch.tensor([2, 0, 1])
    renumbered = [
        replace(
            g,
            augmentations=g.augmentations.view(len(g.queries), 3, -1)[:, order].flatten(0, 1),
            attribute_prompts=tuple(g.attribute_prompts[c] for c in order),
        )
        for g in world.groups
    ]
    for basis in ("query", "shared"):
        one, other = (Cfd(basis=basis).debias_text(groups) for groups in (world.groups, renumbered))
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_only_the_shared_basis_sees_other_queries(make_world):
    world = make_world(torch.float64)
    other = [
        replace(g, attribute_prompts=tuple(p.flip(0) + 1 for p in g.attribute_prompts)) for g in world.groups
    ]
    for basis, changes in (("query", False), ("shared", True)):
        method = Cfd(basis=basis)
        pairs = zip(method.debias_text(world.groups), method.debias_text(other), strict=True)
        assert all(torch.equal(a, b) != changes for a, b in pairs)


def test_groups_with_one_basis_share_the_tensor(make_world):
    world = make_world()
    bases = Cfd(basis="shared").image_transform(world.groups).bases
    assert len({id(basis) for basis in bases}) == 1
    assert len({id(basis) for basis in Cfd().image_transform(world.groups).bases}) == 3


def test_equal_prototypes_change_nothing():
    wordings = draw(1, 1, 6)
    basis = attribute_basis([wordings, 2 * wordings, 3 * wordings])
    assert basis.shape == (0, 6)
    e = normalize(draw(4, 6), dim=1)
    torch.testing.assert_close(compromise(e, basis), e)
    transform = CompromiseTransform([basis])
    torch.testing.assert_close(transform.scores(e, [draw(2, 6)]), e @ normalize(draw(2, 6), dim=1).T)


def test_variants_add_the_first_three_bias_prompts(make_world):
    [group, *_] = make_world(torch.float64).groups
    method = Cfd(variants="bias_prompts")
    assert method.needs == {"augmentations", "attribute_prompts", "bias_prompts"}
    prototypes = torch.stack(
        [
            normalize(normalize(torch.cat([a[None], b[:3]]), dim=1).mean(0), dim=0)
            for a, b in zip(group.augmentations, group.bias_prompts, strict=True)
        ]
    )
    differences = prototypes[1:] - prototypes[:1]
    expected = torch.linalg.pinv(differences) @ differences
    [basis] = method.image_transform([group]).bases
    torch.testing.assert_close(basis.T @ basis, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("wordings", "line"),
    [
        ([torch.ones(1, 1, 4)], "at least two bias classes, found 1"),
        ([torch.ones(1, 1, 4), torch.tensor([[[1.0, 0]], [[-1.0, 0]]])], "bias class 2 have a mean of zero"),
    ],
)
def test_prompts_that_span_nothing(wordings, line):
    with pytest.raises(ValueError, match=line):
        attribute_basis(wordings)


def test_augmentations_that_do_not_name_each_class(make_world):
    [group, *_] = make_world().groups
    odd = replace(group, augmentations=group.augmentations[:2])
    with pytest.raises(
        ValueError, match="'one' written with each of 3 bias classes, but there are 2 augmentations"
    ):
        Cfd().debias_text([odd])
    other = replace(group, bias_prompts=group.bias_prompts[:2])
    with pytest.raises(ValueError, match="bias prompts are of 2 classes, but the queries are written with 3"):
        Cfd(variants="bias_prompts").debias_text([other])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"basis": "all"}, "basis must be one of query, shared, got 'all'"),
        ({"variants": "gpt"}, "variants must be one of none, bias_prompts, got 'gpt'"),
    ],
)
def test_options_out_of_range(options, line):
    with pytest.raises(ValueError, match=line):
        Cfd(**options)


def test_classes_may_have_different_numbers_of_wordings():
    """Two wordings of the first class and one of the second: rows are listed class by class."""
    rows, shared = draw(6, 8), (draw(1, 2, 8), draw(1, 1, 8))
    group = QueryGroup(draw(2, 8), augmentations=rows, attribute_prompts=shared)
    [basis] = Cfd().image_transform([group]).bases
    expected = attribute_basis([torch.stack([rows[:2], rows[3:5]]), torch.stack([rows[2:3], rows[5:]])])
    torch.testing.assert_close(basis.T @ basis, expected.T @ expected)
