"""Decisions that expect the least cost in a tree of kinds, with an answer higher up where the name is unsure.

With probabilities p over names the answer is argmin_a Σ_c p_c cost(c, a): Karthik et al., "No Cost Likelihood
Manipulation at Test Time for Making Better Mistakes in Deep Networks" (ICLR 2021), who take the height of the lowest
common ancestor as the cost, as Bertinetto et al., "Making Better Mistakes" (CVPR 2020), measure it.

The other cost is the distance, up from the true name and down to the answer. An edge up that was not needed costs
2 (1 − t), an edge down that is wrong 2 t: then one more edge down is worth it exactly where the probability below it
is above t. With t = 1/2 both cost 1: the number of edges between the two.

Neither needs a matrix of names × names: both are sums along the path to the answer of the probabilities below its
nodes, which in preorder are differences of one cumulative sum. It takes O(V) per image for V nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Doubles, Floats, Ids
from fgvr.hierarchy.kinds import KindsError, Source
from fgvr.hierarchy.tree import ROOT, Tree

Cost = Literal["distance", "height"]
CELLS_AT_ONCE = 2**22
"""Images × nodes per step: 32 MB per array."""
TIE = 1e-6
"""Relative difference of expected costs that counts as none, as probabilities are float32: then the more probable name
is said, or the higher node."""


@dataclass(frozen=True)
class Answers:
    """What is said of n images.

    Attributes:
        nodes: int64 [n]; the root where no answer below it is worth it.
        labels: column of the label that is said, int64 [n]; `NONE` where the node is a kind above labels.
        mass: probability of the node with all below it, float64 [n].
        cost: expected cost, float64 [n].
    """

    nodes: Ids
    labels: Ids
    mass: Doubles
    cost: Doubles


@dataclass(frozen=True)
class Place:
    """Where the answer for an image stands.

    Attributes:
        name: of its node.
        level: the node's level; "" for one without.
        above_labels: whether it is a kind above the labels, and no label.
        mass: probability of the node with all below it; None where only labels are answers, or nothing is said.
    """

    name: str
    level: str
    above_labels: bool
    mass: float | None


@dataclass(frozen=True)
class TreeRule:
    """How to decide in a tree, before the labels are known; picklable.

    Attributes:
        source: what stands above names.
        any_level: whether a kind above the labels may be the answer.
        cost: of mistakes.
        specific_above: t, between 0 and 1.
    """

    source: Source
    any_level: bool = False
    cost: Cost = "distance"
    specific_above: float = 0.5

    def stated(self) -> dict[str, Any]:
        """For fingerprints: JSON types."""
        facts = {"any_level": self.any_level, "cost": self.cost, "specific_above": self.specific_above}
        return {"hierarchy": self.source.digest(), **facts}

    def of(self, labels: Sequence[str]) -> TreeCosts:
        """The costs of these labels; raises KindsError where the tree has none of them."""
        tree = self.source.tree(labels)
        if labels and len(tree.unknown) == len(set(tree.nodes(labels).tolist())):
            raise KindsError(
                f"hierarchy: it has none of the labels ({', '.join(list(labels)[:3])} …), so that all mistakes are "
                "equally bad: it is the hierarchy of other names, its columns are others (hierarchy.levels), or the "
                "language model that was asked gave no usable answer (table kind_answers)"
            )
        return TreeCosts(tree, tuple(labels), self)


@dataclass(frozen=True)
class TreeCosts:
    """The costs of C labels in a tree of V nodes; labels of one spelling share a node."""

    tree: Tree
    labels: tuple[str, ...]
    rule: TreeRule

    @cached_property
    def of_labels(self) -> Ids:
        """The node of each label, int64 [C]; a label without letters stands at the root."""
        nodes = self.tree.nodes(self.labels)
        return np.where(nodes == NONE, ROOT, nodes)

    def masses(self, probabilities: Floats) -> tuple[Doubles, Doubles]:
        """Probability of each node itself, and with all below it: float64 [n, V] each."""
        own = np.zeros((len(probabilities), len(self.tree.names)))
        nodes, first = np.unique(self.of_labels, return_index=True)
        own[:, nodes] = np.asarray(probabilities)[:, first]
        for label in np.setdiff1d(np.arange(len(self.labels)), first):  # further spellings of a name
            own[:, self.of_labels[label]] += np.asarray(probabilities)[:, label]
        sums = np.zeros((len(own), own.shape[1] + 1))
        np.cumsum(own, axis=1, out=sums[:, 1:])
        return own, sums[:, self.tree.end] - sums[:, :-1]

    def expected(self, probabilities: Floats) -> Doubles:
        """Expected cost of saying each node, float64 [n, V], from probabilities [n, C]."""
        own, below = self.masses(probabilities)
        return self._expected(own, below)

    def _expected(self, own: Doubles, below: Doubles) -> Doubles:
        tree, t = self.tree, self.rule.specific_above
        found = np.zeros_like(below)
        if self.rule.cost == "distance":
            found[:, ROOT] = 2 * (1 - t) * (own @ tree.depth)
            for nodes in tree.by_depth[1:]:
                found[:, nodes] = found[:, tree.parent[nodes]] + 2 * (t * below[:, [ROOT]] - below[:, nodes])
            return found
        for nodes in tree.by_depth[1:]:
            above = tree.parent[nodes]
            found[:, nodes] = found[:, above] + tree.height[above] * (below[:, above] - below[:, nodes])
        return found + tree.height * (below - own)

    def answers(self, probabilities: Floats) -> Answers:
        """What to say of each image, from probabilities [n, C]."""
        step = max(1, CELLS_AT_ONCE // len(self.tree.names))
        parts = [self._answers(probabilities[at : at + step]) for at in range(0, len(probabilities), step)]
        nothing = np.zeros(0)
        parts = parts or [Answers(nothing.astype(np.int64), nothing.astype(np.int64), nothing, nothing)]
        fields = [[getattr(part, name) for part in parts] for name in ("nodes", "labels", "mass", "cost")]
        nodes, labels, mass, cost = (np.concatenate(each) for each in fields)
        return Answers(nodes, labels, mass, cost)

    def _answers(self, probabilities: Floats) -> Answers:
        own, below = self.masses(probabilities)
        expected = self._expected(own, below)
        rows = np.arange(len(expected))
        if self.rule.any_level:
            least = expected.min(axis=1, keepdims=True)
            nodes = (expected <= least + TIE * np.maximum(1.0, np.abs(least))).argmax(axis=1)
            labels = self._label_at[nodes]
        else:
            of_labels = expected[:, self.of_labels]
            least = of_labels.min(axis=1, keepdims=True)
            equal = of_labels <= least + TIE * np.maximum(1.0, np.abs(least))
            labels = np.where(equal, probabilities, -1.0).argmax(axis=1).astype(np.int64)
            nodes = self.of_labels[labels]
        return Answers(nodes.astype(np.int64), labels, below[rows, nodes], expected[rows, nodes])

    @cached_property
    def _label_at(self) -> Ids:
        """The first label at each node, int64 [V]; `NONE` where there is none."""
        found = np.full(len(self.tree.names), NONE, np.int64)
        found[self.of_labels[::-1]] = np.arange(len(self.labels))[::-1]
        found[ROOT] = NONE
        return found

    def silent(self, answers: Answers) -> npt.NDArray[np.bool_]:
        """Whether nothing is said, bool [n]: no answer below the root is worth it, and the root is none itself."""
        nothing: npt.NDArray[np.bool_] = (answers.nodes == ROOT) & (answers.labels == NONE)
        return nothing

    def places(self, answers: Answers) -> list[Place]:
        """Of each image where its answer stands."""
        found = []
        for node, label, mass in zip(answers.nodes, answers.labels, answers.mass.tolist(), strict=True):
            above = label == NONE and node != ROOT
            level = self.tree.level_of(node)
            found.append(Place(self.tree.names[node], level, above, mass if self.rule.any_level and node else None))
        return found

    def decide(self, probabilities: Floats) -> tuple[Ids, Doubles, npt.NDArray[np.bool_]]:
        """As `fgvr.heads.costs.Costs.decide`, where an answer above the labels counts as saying nothing."""
        found = self.answers(probabilities)
        silent = found.labels == NONE
        return np.where(silent, np.asarray(probabilities).argmax(axis=1), found.labels), found.cost, silent
