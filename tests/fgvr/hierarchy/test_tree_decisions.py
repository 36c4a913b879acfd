"""Decisions in a tree: by hand, and against a dense matrix of costs from paths in a graph."""

import numpy as np
import pytest

from fgvr.hierarchy.decisions import TreeCosts, TreeRule
from fgvr.hierarchy.kinds import Kinds, KindsError
from fgvr.hierarchy.tree import build_tree

# ∅ → bird → {gull → {herring, mew}, tern → {common, arctic}};  ∅ → cup
PARENTS = {
    "herring": "gull",
    "mew": "gull",
    "common": "tern",
    "arctic": "tern",
    "gull": "bird",
    "tern": "bird",
    "cup": "",
}
BIRDS = ("herring", "mew", "common", "arctic", "cup")
KINDS = Kinds(PARENTS, {name: name.title() for name in [*PARENTS, "bird"]})


def said(p, **how):
    found = TreeRule(KINDS, **how).of(BIRDS).answers(np.array([p], np.float32))
    costs = TreeRule(KINDS, **how).of(BIRDS)
    return costs.tree.names[found.nodes[0]].lower(), found.cost[0]


def test_a_sure_pair_of_gulls_beats_the_most_probable_tern():
    # herring .3, mew .3, common .4: cost of herring 2·.3 + 4·.4 = 2.2, of common 4·.6 = 2.4
    assert said([0.3, 0.29, 0.41, 0, 0]) == ("herring", pytest.approx(2 * 0.29 + 4 * 0.41))
    # Heights: gull 1, bird 2, ∅ 3: herring 1·.29 + 2·.41, common 2·.59
    assert said([0.3, 0.29, 0.41, 0, 0], cost="height") == ("herring", pytest.approx(0.29 + 2 * 0.41))


@pytest.mark.parametrize(
    ("p", "t", "answer"),
    [
        ([0.9, 0.1, 0, 0, 0], 0.5, "herring"),
        ([0.4, 0.4, 0.2, 0, 0], 0.5, "gull"),
        ([0.3, 0.15, 0.25, 0.15, 0.15], 0.5, "bird"),
        ([0.1, 0.1, 0.1, 0.1, 0.6], 0.5, "cup"),
        ([0.2, 0.1, 0.1, 0.1, 0.5], 0.5, ""),
        ([0.9, 0.1, 0, 0, 0], 0.95, "gull"),
        ([0.7, 0.1, 0.1, 0.1, 0], 0.85, "bird"),
        ([0.4, 0.35, 0.25, 0, 0], 0.3, "herring"),
    ],
)
def test_one_level_down_where_the_probability_below_is_above_t(p, t, answer):
    assert said(p, any_level=True, specific_above=t)[0] == answer


def dense(costs):
    """cost(c, a) for labels c and nodes a, by breadth-first walks over the edges, which know no preorder."""
    tree, rule = costs.tree, costs.rule
    up = [set() for _ in tree.names]
    for node in range(len(tree.names)):
        at = node
        while at >= 0:
            up[node].add(at)
            at = int(tree.parent[at])
    tall = [max(len(up[b] - up[a]) for b in range(len(up)) if a in up[b]) for a in range(len(up))]
    found = np.zeros((len(costs.labels), len(up)))
    for row, c in enumerate(costs.of_labels):
        for a in range(len(up)):
            lowest = max(up[c] & up[a], key=lambda node: len(up[node]))
            ups, downs = len(up[c]) - len(up[lowest]), len(up[a]) - len(up[lowest])
            t = rule.specific_above
            edges = 2 * (1 - t) * ups + 2 * t * downs
            found[row, a] = edges if rule.cost == "distance" else 0 if c == a else tall[lowest]
    return found


def random_tree(seed, size, depth):
    """A random tree, whose inner nodes may be labels, with strangers and two spellings of one label."""
    rng = np.random.default_rng(seed)
    parents, deep = {"n0": ""}, {"n0": 1}
    for number in range(1, size):
        above = f"n{rng.integers(max(0, number - 8), number)}"
        above = above if deep[above] < depth else ""
        parents[f"n{number}"], deep[f"n{number}"] = above, deep.get(above, 0) + 1
    labels = [f"n{number}" for number in rng.permutation(size)[: size // 2]]
    return Kinds(parents, {}), (*labels, "stranger", labels[0].upper())


@pytest.mark.parametrize("cost", ["distance", "height"])
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_the_dense_matrix(cost, seed):
    kinds, labels = random_tree(seed, 60, 12)
    costs = TreeRule(kinds, cost=cost, specific_above=0.5 if cost == "height" else 0.3 + 0.1 * seed).of(labels)
    p = np.random.default_rng(seed).dirichlet(np.full(len(labels), 0.1), 40)
    matrix = dense(costs)
    np.testing.assert_allclose(costs.expected(p), p @ matrix, atol=1e-12)
    found = costs.answers(p)
    best = (p @ matrix)[:, costs.of_labels].min(axis=1)
    np.testing.assert_allclose(found.cost, best, atol=1e-12)
    np.testing.assert_allclose((p @ matrix)[np.arange(40), costs.of_labels[found.labels]], best, atol=1e-12)


def test_half_is_the_number_of_edges():
    kinds, labels = random_tree(7, 40, 9)
    costs = TreeRule(kinds).of(labels)
    nodes, others = (
        np.repeat(costs.of_labels, len(costs.tree.names)),
        np.tile(np.arange(len(costs.tree.names)), len(labels)),
    )
    edges = costs.tree.distance(nodes, others).reshape(len(labels), -1)
    np.testing.assert_allclose(dense(costs), edges)
    np.testing.assert_allclose(costs.expected(np.eye(len(labels))), edges, atol=1e-12)


def test_in_a_star_the_most_probable_name_is_said():
    kinds, labels = Kinds({f"n{number}": "" for number in range(9)}, {}), tuple(f"n{number}" for number in range(9))
    p = np.random.default_rng(0).dirichlet(np.ones(9), 50).astype(np.float32)
    for cost in ("distance", "height"):
        assert (TreeRule(kinds, cost=cost).of(labels).answers(p).labels == p.argmax(axis=1)).all()


def test_twenty_thousand_names_without_a_matrix():
    parents = {f"g{number}": f"f{number // 20}" for number in range(2000)}
    parents |= {f"n{number}": f"g{number // 10}" for number in range(20_000)}
    tree = build_tree(parents, {}, ())
    costs = TreeCosts(
        tree, tuple(f"n{number}" for number in range(20_000)), TreeRule(Kinds(parents, {}), any_level=True)
    )
    p = np.full((300, 20_000), 0.4 / 20_000, np.float32)
    p[:, 5] += 0.3
    p[:, 6] += 0.3
    found = costs.answers(p)
    assert {tree.names[node] for node in found.nodes} == {"g0"}
    # up from the ten of g0: 1 edge; others of f0: 3; all others: 2 + 3 + … = 5 edges over the root
    share = 0.4 / 20_000
    np.testing.assert_allclose(found.cost, (0.6 + 10 * share) + 190 * share * 3 + 19_800 * share * 5, rtol=1e-4)


def test_nan_and_no_images():
    costs = TreeRule(KINDS, any_level=True).of(BIRDS)
    assert costs.silent(costs.answers(np.full((2, 5), np.nan, np.float32))).all()
    assert len(costs.answers(np.zeros((0, 5), np.float32)).nodes) == 0


def test_a_tree_of_other_names_is_refused():
    with pytest.raises(KindsError, match="none of the labels"):
        TreeRule(KINDS).of(["Mug", "Pot"])


def test_what_decides_is_stated():
    stated = [TreeRule(KINDS, *how).stated() for how in ((), (True,), (False, "height"), (False, "distance", 0.6))]
    assert all(stated.count(each) == 1 for each in stated)
