"""Costs of mistakes: a file, decisions that expect the least cost, and the metrics of FungiCLEF.

A cost file is a CSV with the columns `true,predicted,cost`. Cells hold a name, a group of names, or `*` for any:

    true,predicted,cost
    poisonous,edible,100
    edible,poisonous,1
    *,abstain,0.5

A right answer costs 0, and whatever no line covers costs 1. Of several lines that fit, those with a name count before
those with groups and `*` only; among these the one whose cells say most (a name more than a group, a group more than
`*`), the true cell first. A cost of the right answer itself must name it in both cells. `abstain` as the predicted name
is the price of saying nothing; without such a line nobody abstains. Groups are given by a second CSV with the columns
`name,group`.

The decision for an image with probabilities p is argmin_a Σ_c p_c cost(c, a). It needs calibrated probabilities: a
score of 0.98 that is right in 0.9 of the images buys the wrong risk (Elkan, "The Foundations of Cost-Sensitive
Learning", IJCAI 2001).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from fgvr import storage
from fgvr.arrays import NONE, Doubles, Floats, Ids
from fgvr.errors import UserError
from fgvr.names.spelling import fold_name
from fgvr.text_files import EditedCsvError, read_edited_csv

ANY, ABSTAIN = "*", "abstain"
WRONG = 1.0
"""Cost of a mistake that no line covers."""
TIE = 1e-9
"""Relative difference of expected costs that counts as none: then the more probable name is said."""
MOST_EXCEPTIONS = 20_000_000
"""Pairs of names whose costs are kept one by one: some 4 GB while they are read."""

Pair = tuple[str, str]


class CostsError(UserError, ValueError):
    """A cost file cannot be used; the message names the file, the line and what to do."""


@dataclass(frozen=True)
class CostFile:
    """The lines of a cost file, cells folded as names are compared.

    Attributes:
        costs: (true, predicted) → cost.
        groups: name → its group.
        written: folded cell → as it was written, for messages.
    """

    costs: Mapping[Pair, float]
    groups: Mapping[str, str]
    written: Mapping[str, str]

    def unmatched(self, labels: Sequence[str]) -> list[str]:
        """Cells that are neither a label, a group of one, nor a word of the format: as written, in order."""
        known = {ANY, ABSTAIN, *map(_folded, labels)}
        known |= {self.groups[name] for name in known if name in self.groups}
        others = dict.fromkeys(cell for pair in self.costs for cell in pair if cell not in known)
        return [self.written[cell] for cell in others]

    def stated(self) -> dict[str, list[list[str | float]]]:
        """The content as JSON types, in an order that does not depend on that of the lines."""
        costs: list[list[str | float]] = [[*pair, cost] for pair, cost in sorted(self.costs.items())]
        return {"costs": costs, "groups": [[*pair] for pair in sorted(self.groups.items())]}

    def __post_init__(self) -> None:
        both = set(self.groups) & set(self.groups.values())
        if both:
            name = self.written.get(min(both), min(both))
            raise CostsError(f"infer.costs: {name!r} is a name as well as a group; give the group another name")


def read_costs(uri: str, groups_uri: str | None = None) -> CostFile:
    """Read a cost file and, if there is one, the file of groups.

    Raises:
        CostsError: a file does not exist or is no such CSV, a cost is no number from 0 on, or two lines contradict each
            other.
    """
    groups: dict[str, str] = {}
    written: dict[str, str] = {}
    costs: dict[Pair, float] = {}
    try:
        for row in [] if groups_uri is None else read_edited_csv(_bytes(groups_uri), groups_uri, ("name", "group")):
            name, group = _cells(row.fields, ("name", "group"), f"{groups_uri}, line {row.line}", written)
            if groups.setdefault(name, group) != group:
                raise CostsError(f"{groups_uri}, line {row.line}: {written[name]!r} is in another group already")
        for row in read_edited_csv(_bytes(uri), uri, ("true", "predicted", "cost")):
            place = f"{uri}, line {row.line}"
            true, predicted = _cells(row.fields, ("true", "predicted"), place, written)
            if true == ABSTAIN:
                raise CostsError(f"{place}: `{ABSTAIN}` can be predicted, but is no true name")
            if costs.setdefault((true, predicted), cost := _cost(row.fields["cost"], place)) != cost:
                raise CostsError(f"{place}: an earlier line gives the same pair another cost")
    except EditedCsvError as error:
        raise CostsError(f"infer.costs: {error}") from None
    if not costs:
        raise CostsError(f"infer.costs: {uri} has no line with a cost")
    return CostFile(costs, groups, written)


def _bytes(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError):
        raise CostsError(f"infer.costs: there is no file {uri}") from None


def _cells(fields: Mapping[str, str], columns: Sequence[str], place: str, written: dict[str, str]) -> list[str]:
    cells = []
    for column in columns:
        text = fields[column].strip()
        cell = _folded(text)
        if not cell:
            raise CostsError(f"{place}: the cell of `{column}` is empty (`{ANY}` means any)")
        written.setdefault(cell, text)
        cells.append(cell)
    return cells


def _folded(text: str) -> str:
    return ANY if text.strip() == ANY else fold_name(text)


def _cost(text: str, place: str) -> float:
    try:
        cost = float(text.strip().replace(",", "."))
    except ValueError:
        raise CostsError(f"{place}: the cost {text!r} is not a number") from None
    if not math.isfinite(cost) or cost < 0:
        raise CostsError(f"{place}: the cost {text!r} must be a number from 0 on")
    return cost


@dataclass(frozen=True)
class Costs:
    """The costs of a label space of C names.

    They are kept as costs between groups and as exceptions, since C × C costs of 20,000 names would take 3 GB:
    cost(c, a) = between[group_c, group_a] + exceptions[c, a].

    Attributes:
        group: of each name, int64 [C]: a row and column of `between`.
        between: float64 [G, G].
        exceptions: float64 [C, C], sparse.
        abstain: price of saying nothing, by true name: float64 [C]; None: nobody abstains.
    """

    group: Ids
    between: Doubles
    exceptions: sp.csc_array
    abstain: Doubles | None

    @classmethod
    def of(cls, file: CostFile, labels: Sequence[str]) -> Costs:
        """The file's costs for these names; cells about other names do nothing (see `CostFile.unmatched`).

        Raises:
            CostsError: a label is called as the word for saying nothing, or no cell of the file is in the label space.
        """
        names = [_folded(label) for label in labels]
        if ABSTAIN in names:
            raise CostsError(f"infer.costs: `{ABSTAIN}` is a label here, and cannot mean to say nothing; rename it")
        cells = {cell for pair in file.costs for cell in pair} - {ANY, ABSTAIN}
        if cells and len(file.unmatched(labels)) == len(cells):
            raise CostsError(
                f"infer.costs: none of its names and groups is in the label space ({', '.join(labels[:3])} …): it is "
                "the file of other labels, or the groups are missing (infer.cost_groups)"
            )
        groups = list(dict.fromkeys(file.groups.get(name, "") for name in names))
        between = np.array([[_between(file, true, said) for said in groups] for true in groups])
        group = np.array([groups.index(file.groups.get(name, "")) for name in names], np.int64)
        exceptions = _exceptions(file, names, group, between)
        abstain = None
        if any(said == ABSTAIN for _, said in file.costs):
            prices = [_price(file, name) for name in names]
            abstain = np.array(prices)
        return cls(group, between.reshape(len(groups), len(groups)), exceptions, abstain)

    @cached_property
    def _members(self) -> sp.csr_array:
        """Bool [C, G]: which name is in which group."""
        count = len(self.group)
        return sp.csr_array((np.ones(count), (np.arange(count), self.group)), shape=(count, len(self.between)))

    def expected(self, probabilities: Floats) -> Doubles:
        """Expected cost of saying each name, float64 [n, C], from probabilities [n, C]."""
        p = np.asarray(probabilities, np.float64)
        of_groups = np.asarray(self._members.T @ p.T).T
        return np.asarray((of_groups @ self.between)[:, self.group] + (self.exceptions.T @ p.T).T)

    def decide(self, probabilities: Floats) -> tuple[Ids, Doubles, npt.NDArray[np.bool_]]:
        """What to say: the name with the least expected cost, the most probable one among equals, or nothing.

        Returns:
            The name int64 [n], its expected cost float64 [n] (or that of abstaining, where that is said), and whether
            to abstain, bool [n]: only where it is cheaper than every name.
        """
        expected = self.expected(probabilities)
        least = expected.min(axis=1, keepdims=True)
        equal = expected <= least + TIE * np.maximum(1.0, np.abs(least))
        said = np.where(equal, probabilities, -1.0).argmax(axis=1).astype(np.int64)
        cost = expected[np.arange(len(said)), said]
        if self.abstain is None:
            return said, cost, np.zeros(len(said), bool)
        silence = np.asarray(probabilities, np.float64) @ self.abstain
        abstains = silence < cost - TIE * np.maximum(1.0, np.abs(cost))
        return said, np.where(abstains, silence, cost), abstains

    def cost(self, true: Ids, said: Ids) -> Doubles:
        """What decisions cost, float64 [n]; saying nothing (`NONE` in `said`) without a price for it costs `WRONG`."""
        spoken = np.maximum(said, 0)
        found = self.between[self.group[true], self.group[spoken]]
        found = found + np.asarray(self.exceptions.tocsr()[true, spoken]).ravel()
        silent = WRONG if self.abstain is None else self.abstain[true]
        return np.where(said == NONE, silent, found)


def _between(file: CostFile, true: str, said: str) -> float:
    """Cost between two groups ("" : none), by the lines that name no label."""
    for pair in ((true, said), (true, ANY), (ANY, said), (ANY, ANY)):
        if "" not in pair and pair in file.costs:
            return file.costs[pair]
    return WRONG


def _price(file: CostFile, name: str) -> float:
    for true in (name, file.groups.get(name, ""), ANY):
        if (true, ABSTAIN) in file.costs:
            return file.costs[true, ABSTAIN]
    return WRONG


def _exceptions(file: CostFile, names: Sequence[str], group: Ids, between: Doubles) -> sp.csc_array:
    """What differs from the costs between groups: lines that name a label, and the right answers.

    Raises:
        CostsError: more pairs of names than `MOST_EXCEPTIONS`.
    """
    places: dict[str, list[int]] = {}
    members: dict[str, list[int]] = {ANY: list(range(len(names)))}
    for column, name in enumerate(names):
        places.setdefault(name, []).append(column)
        if name in file.groups:
            members.setdefault(file.groups[name], []).append(column)

    def level(cell: str) -> int:
        return 2 if cell in places else 0 if cell == ANY else 1

    def named(cell: str) -> list[int]:
        return places.get(cell, members.get(cell, []))

    lines = [pair for pair in file.costs if pair[1] != ABSTAIN and (pair[0] in places or pair[1] in places)]
    count = sum(len(named(true)) * len(named(said)) for true, said in lines)
    if count > MOST_EXCEPTIONS:
        raise CostsError(
            f"infer.costs: its lines that name a single label set {count:,} costs one by one among {len(names):,} "
            f"labels, of which {MOST_EXCEPTIONS:,} fit into memory; give labels of equal cost a group "
            "(infer.cost_groups), and write one line for the group"
        )
    found: dict[tuple[int, int], float] = {(column, column): 0.0 for column in range(len(names))}
    # The weakest lines first, so that stronger ones replace them.
    for true, said in sorted(lines, key=lambda pair: (level(pair[0]) + level(pair[1]), level(pair[0]))):
        cells = ((row, column) for row in named(true) for column in named(said))
        found |= {cell: file.costs[true, said] for cell in cells if cell[0] != cell[1] or true == said}
    rows, columns = np.array(list(found), np.int64).reshape(-1, 2).T
    values = np.fromiter(found.values(), np.float64) - between[group[rows], group[columns]]
    return sp.csc_array((values, (rows, columns)), shape=(len(names), len(names)))


@dataclass(frozen=True)
class Tracks:
    """The four losses of FungiCLEF 2024, each per image (Picek, Šulc, Matas, CLEF 2024).

    Attributes:
        wrong: T1, share of wrong names; "unknown" is a class of its own.
        confusion: T2, (100 · dangerous named harmless + harmless named dangerous) / N.
        both: T3 = T1 + T2.
        unknown: T4, wrong names, of which naming an unknown one counts 10 and calling a known one unknown 0.1.
    """

    wrong: float
    confusion: float
    both: float
    unknown: float


def tracks(true: Ids, said: Ids, dangerous: npt.NDArray[np.bool_]) -> Tracks:
    """T1 to T4 of N ≥ 1 images.

    Args:
        true: class of each image, int64 [N]; `NONE` for a class that no name stands for ("unknown").
        said: what was said, int64 [N]; `NONE` for "unknown".
        dangerous: bool [C]; "unknown" counts as harmless, as in the official script.
    """
    if not len(true) or len(true) != len(said):
        raise ValueError(f"{len(said)} answers for {len(true)} images")
    risky = np.append(dangerous, False)  # index −1 is "unknown"
    harmless = int((risky[true] & ~risky[said]).sum())
    alarm = int((~risky[true] & risky[said]).sum())
    wrong = true != said
    weights = np.where(true == NONE, 10.0, np.where(said == NONE, 0.1, 1.0))
    t1, t2 = float(wrong.mean()), (100.0 * harmless + alarm) / len(true)
    return Tracks(t1, t2, t1 + t2, float(weights[wrong].sum() / len(true)))
