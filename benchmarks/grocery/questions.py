"""The Grocery Store benchmark's yes/no questions, and the truth about each of its 81 products.

The table `questions.csv` (class, then one column per question) was written once from the data set's iconic pictures:
for a carton the colours of most of its surface, for fruit and vegetables those of the skin. It does not say whether a
question can be answered from a photo of 64 px.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fgvr.baselines.finer_findr import Subject

SUBJECT: Final = Subject("grocery", "product", "grocer")
"""What the photos show, for FiNDR's prompt."""
TABLE: Final = Path(__file__).with_name("questions.csv")
ANSWERS: Final = {"yes": True, "no": False}


@dataclass(frozen=True)
class Questions:
    """Q questions about C products.

    Attributes:
        texts: the questions.
        names: names of the products, as in the data set's loader.
        truth: bool [C, Q].
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    truth: np.ndarray

    def about(self, names: tuple[str, ...]) -> np.ndarray:
        """The true answers for some products, in order: bool [len(names), Q]; raises KeyError for an unknown one."""
        rows = {name: row for row, name in enumerate(self.names)}
        return np.asarray(self.truth[[rows[name] for name in names]])


def read_table(file: Path = TABLE) -> Questions:
    """Read the table; a cell that is neither yes nor no is a KeyError."""
    with file.open(newline="") as table:
        (_, *texts), *rows = csv.reader(table)
    truth = np.array([[ANSWERS[cell] for cell in cells] for _, *cells in rows])
    return Questions(tuple(texts), tuple(name for name, *_ in rows), truth)
