"""A tree of kinds over a set of names, as arrays: ancestors by depth and by level, heights, distances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from fgvr.arrays import NONE, Ids
from fgvr.names.spelling import fold_name

ROOT: Final = 0
DEEPEST: Final = 100
"""Most edges from the root to a name: ancestors are kept as a table of names × depths."""


class HierarchyError(ValueError):
    """The kinds make no tree; the message names those that are in the way."""


@dataclass(frozen=True)
class Tree:
    """V nodes in preorder: those below node v are v + 1 … end[v] − 1. Node 0 is a root without a name above all.

    Attributes:
        names: of the nodes, as written; "" for the root.
        parent: int64 [V]; `NONE` for the root.
        levels: names of the L levels, coarsest first.
        low: the coarsest level of each node, int64 [V]; `NONE` where it has none.
        high: the finest level of each node, likewise.
        unknown: names that the source does not know; they hang below the root and have no level.
    """

    names: tuple[str, ...]
    parent: Ids
    levels: tuple[str, ...]
    low: Ids
    high: Ids
    unknown: tuple[str, ...]

    @cached_property
    def places(self) -> dict[str, int]:
        """Folded name → node."""
        return {fold_name(name): node for node, name in enumerate(self.names) if name}

    def nodes(self, names: Iterable[str | None]) -> Ids:
        """The node of each name, int64 [n]; `NONE` for "", None and names that are not in the tree."""
        return np.array([self.places.get(fold_name(name), NONE) if name else NONE for name in names], np.int64)

    @cached_property
    def depth(self) -> Ids:
        """Edges from the root, int64 [V]."""
        found = np.zeros(len(self.names), np.int64)
        for node in range(1, len(found)):
            found[node] = found[self.parent[node]] + 1
        return found

    @cached_property
    def end(self) -> Ids:
        """The node behind the last one below each, int64 [V]."""
        found = np.arange(1, len(self.names) + 1)
        for node in range(len(found) - 1, 0, -1):
            above = self.parent[node]
            found[above] = max(found[above], found[node])
        return found

    @cached_property
    def height(self) -> Ids:
        """Edges to the deepest node below, int64 [V]; 0 for a leaf."""
        found = np.zeros(len(self.names), np.int64)
        for node in range(len(found) - 1, 0, -1):
            above = self.parent[node]
            found[above] = max(found[above], found[node] + 1)
        return found

    @cached_property
    def by_depth(self) -> list[Ids]:
        """The nodes of each depth."""
        return [np.flatnonzero(self.depth == depth) for depth in range(int(self.depth.max()) + 1)]

    @cached_property
    def paths(self) -> Ids:
        """The ancestor of each node at each depth, the node itself at its own: int64 [V, D + 1], `NONE` below it."""
        found = np.full((len(self.names), len(self.by_depth)), NONE, np.int64)
        for depth, nodes in enumerate(self.by_depth):
            if depth:
                found[nodes] = found[self.parent[nodes]]
            found[nodes, depth] = nodes
        return found

    @cached_property
    def at_level(self) -> Ids:
        """The ancestor of each node at each level, or the node itself: int64 [V, L]; `NONE` where there is none."""
        found = np.full((len(self.names), len(self.levels)), NONE, np.int64)
        for nodes in self.by_depth[1:]:
            found[nodes] = found[self.parent[nodes]]
            for level in range(len(self.levels)):
                here = nodes[(self.low[nodes] <= level) & (level <= self.high[nodes]) & (self.low[nodes] != NONE)]
                found[here, level] = here
        return found

    def level_of(self, node: int) -> str:
        """The finest level of a node; "" for the root and for unknown names."""
        return self.levels[self.high[node]] if self.high[node] != NONE else ""

    def lowest_common(self, one: Ids, other: Ids) -> Ids:
        """The lowest common ancestor of pairs of nodes, int64 [n]; a node counts as its own ancestor."""
        same = (self.paths[one] == self.paths[other]) & (self.paths[one] != NONE)
        lowest: Ids = self.paths[one, same.sum(axis=1) - 1]
        return lowest

    def distance(self, one: Ids, other: Ids) -> Ids:
        """Edges between pairs of nodes, int64 [n]."""
        edges: Ids = self.depth[one] + self.depth[other] - 2 * self.depth[self.lowest_common(one, other)]
        return edges


def build_tree(
    parents: Mapping[str, str],
    written: Mapping[str, str],
    names: Sequence[str] = (),
    levels: Sequence[str] = (),
    spans: Mapping[str, tuple[int, int]] | None = None,
) -> Tree:
    """The tree of all kinds, with `names` in it.

    A name that stands above others is an inner node and may still be a name. A parent without a parent stands below
    the root, and so does a name that is no kind.

    Args:
        parents: folded name → folded name above it, or "".
        written: folded name → the name.
        names: names that must be in the tree.
        levels: coarsest first; empty: "level 1" for what stands below the root, "level 2" …
        spans: folded name → its coarsest and finest level; needed where `levels` are given.

    Raises:
        HierarchyError: a name stands below itself, the tree is deeper than `DEEPEST`, or a name has two levels with
            another name between.
    """
    children: dict[str, list[str]] = {}
    known = dict.fromkeys([*parents, *filter(None, parents.values())])
    unknown: dict[str, str] = {}
    for name in names:
        key = fold_name(name)
        if key and key not in known:
            unknown.setdefault(key, name)
    for key in [*known, *unknown]:
        children.setdefault(parents.get(key, ""), []).append(key)
    order: list[str] = []
    above: list[int] = []
    depths: list[int] = []
    waiting: list[tuple[str, int, int]] = [("", NONE, 0)]
    while waiting:
        key, parent, depth = waiting.pop()
        node = len(order)
        order.append(key)
        above.append(parent)
        depths.append(depth)
        if depth > DEEPEST:
            raise HierarchyError(f"{written.get(key, key)!r} has over {DEEPEST} kinds above it, which is no taxonomy")
        waiting += [(child, node, depth + 1) for child in reversed(children.get(key, []))]
    if len(order) <= len(known) + len(unknown):
        raise HierarchyError(_cycle(parents, written, set(order)))
    deepest = max((depth for key, depth in zip(order, depths, strict=True) if key not in unknown), default=0)
    titles = tuple(levels) or tuple(f"level {depth}" for depth in range(1, deepest + 1))
    low = np.full(len(order), NONE, np.int64)
    high = low.copy()
    for node, key in enumerate(order):
        if key and key not in unknown:
            low[node], high[node] = (depths[node] - 1,) * 2 if spans is None else spans[key]
            parent = above[node]
            if parent != ROOT and high[parent] >= low[node]:
                raise HierarchyError(
                    f"{written[key]!r} stands below {written[order[parent]]!r}, which is also a {titles[high[parent]]} "
                    f"(the other a {titles[low[node]]}): two kinds of one name; rename one"
                )
    shown = tuple("" if not key else unknown.get(key) or written.get(key, key) for key in order)
    return Tree(shown, np.array(above, np.int64), titles, low, high, tuple(unknown.values()))


def _cycle(parents: Mapping[str, str], written: Mapping[str, str], reached: set[str]) -> str:
    """A sentence that names the kinds of a circle, of which there is one among those that the root does not reach."""
    key = next(key for key in parents if key not in reached)
    seen: list[str] = []
    while key not in seen:
        seen.append(key)
        key = parents[key]
    circle = [written.get(each, each) for each in [*seen[seen.index(key) :], key]]
    return f"a name stands below itself: {' → '.join(circle)}; remove one of these rows"
