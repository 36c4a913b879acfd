"""One label per image from what several sources say of it, each believed as far as it is reliable.

The reliabilities are those of `fgvr.beliefs.reliability` (Dawid and Skene, 1979), learned from the answers themselves,
and from photos that a person has checked. Every source counts with the heaviest name that it gives an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fgvr.arrays import NONE, Ids
from fgvr.beliefs.reliability import Reliabilities, reliabilities
from fgvr.names.answer_items import Form
from fgvr.names.label_space import NamedAnswers, weigh_row

RULES = 1
"""Increase it when the same reliabilities would give other rows."""
LEAST = 0.01
"""Names that are less probable are not candidates, beside a more probable one."""


@dataclass(frozen=True)
class Together:
    """What the sources say together of the images `ids`, int64 [N], ascending."""

    ids: Ids
    said: Reliabilities
    space: tuple[str, ...]

    def rows(self, rows: pa.Table) -> pa.Table:
        """Rows of the labels table with these names. The raw answer stays the first source's.

        A row is a failure only if no source gave a name.
        """
        result = []
        for row in rows.to_pylist():
            place = int(np.searchsorted(self.ids, row["image_id"]))
            shares, labels = self.said.shares[place], self.said.labels[place]
            order = [n for n in np.argsort(-shares, kind="stable").tolist() if shares[n] >= LEAST]
            known = {}
            if order:
                kept = shares[order] / shares[order].sum()
                first = int(labels[order[0]])
                known = {"label": self.space[first], "label_id": first, "error": None}
                known |= {"candidate_ids": labels[order].tolist(), "candidate_weights": kept.tolist()}
            result.append(row | known)
        return pa.Table.from_pylist(result, schema=rows.schema)


def together(
    sources: Sequence[tuple[Iterable[pa.Table], Form]], named: NamedAnswers, ids: Ids, checked: Mapping[int, str]
) -> Together:
    """Learn how reliable the sources are, and what they say together.

    Args:
        sources: rows of each source's answers table, in parts, and the form of its answers. Images without a row,
            failed rows and answers without a name say nothing.
        named: what the items of all answers mean.
        ids: the images, int64 [N], ascending.
        checked: right name by image id, where a person has looked.
    """
    numbers = {label: number for number, label in enumerate(named.space.labels)}
    labels = np.full((len(ids), len(sources)), NONE, np.int32)
    for column, (parts, form) in enumerate(sources):
        for part in parts:
            for row in part.to_pylist():
                place = int(np.searchsorted(ids, row["image_id"]))
                if place < len(ids) and ids[place] == row["image_id"]:
                    name = weigh_row(row, named, form).label
                    labels[place, column] = NONE if name is None else numbers[name]
    looked = np.full(len(ids), NONE, np.int32)
    for image, name in checked.items():
        meaning = named.meanings[name]
        if isinstance(meaning, str):
            looked[np.searchsorted(ids, image)] = numbers[meaning]
    return Together(ids, reliabilities(labels, len(numbers), checked=looked), named.space.labels)
