"""Which pictures are made: the photos of rare names, and what each picture of them is asked for.

A picture's prompt, seed and subject follow from the stage's seed, its photo and its number alone: other photos or more
pictures per photo change none of those that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa

from fgvr.arrays import Ids
from fgvr.config.augment import MOST_LETTERS
from fgvr.losses.makd import UNKNOWN_CLASS
from fgvr.simulation import generator
from fgvr.tables import Rows

COLUMNS: Final = ("synthetic_id", "source_id", "uri", "subject_uri", "name", "prompt", "seed")
SHORT: Final = "a photo of a {}"
"""The prompt of a name that is too long for the others."""
SEEDS: Final = 2**31


def rare(classes: Ids, below: int) -> Ids:
    """Positions of the photos whose name fewer than `below` photos have, int64, ascending.

    Args:
        classes: class of each photo, int64 [N]; −1 without one.
        below: as in the config.
    """
    known = classes != UNKNOWN_CLASS
    counts = np.bincount(classes[known]) if known.any() else np.zeros(0, np.int64)
    few = np.zeros(len(classes), dtype=bool)
    few[known] = counts[classes[known]] < below
    return np.flatnonzero(few)


def prompt_of(template: str, name: str) -> str:
    """The template with the name, or the shortest one where that has more than `MOST_LETTERS` letters."""
    text = template.replace("{}", name)
    return text if len(text) <= MOST_LETTERS else SHORT.replace("{}", name)


@dataclass(frozen=True)
class SyntheticRows:
    """The pictures to be made as rows of `COLUMNS`; see `fgvr.tables.Rows`. Sent to each worker.

    Attributes:
        samples: the samples table.
        source_ids: image ids of the S photos, int64, ascending.
        classes: class of each, int64 [S].
        names: of the classes.
        prompts: templates.
        per_image: pictures per photo: those of photo s have the ids s · per_image …
        seed: of prompts, subjects and pictures.
    """

    samples: Rows
    source_ids: Ids
    classes: Ids
    names: Sequence[str]
    prompts: Sequence[str]
    per_image: int
    seed: int

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.source_ids) * self.per_image

    def take(self, ids: Ids, columns: list[str] | None = None) -> pa.Table:
        """The rows of these pictures, in the order of `ids`."""
        places = np.asarray(ids, np.int64) // self.per_image
        sources = self.source_ids[places]
        subjects, prompts, seeds = [], [], []
        for synthetic_id, place in zip(np.asarray(ids).tolist(), places.tolist(), strict=True):
            rng = generator("synthetic", self.seed, int(self.source_ids[place]), synthetic_id % self.per_image)
            template = self.prompts[int(rng.integers(len(self.prompts)))]
            prompts.append(prompt_of(template, self.names[self.classes[place]]))
            seeds.append(int(rng.integers(SEEDS)))
            subjects.append(self._subject(place, rng))  # drawn last: prompts and seeds are the same without
        uris = self._uris(np.concatenate([sources, np.array(subjects, np.int64)]))
        rows = pa.table(
            {
                "synthetic_id": pa.array(ids, pa.int64()),
                "source_id": pa.array(sources, pa.int64()),
                "uri": uris[: len(sources)],
                "subject_uri": uris[len(sources) :],
                "name": [self.names[number] for number in self.classes[places].tolist()],
                "prompt": prompts,
                "seed": pa.array(seeds, pa.int64()),
            }
        )
        return rows if columns is None else rows.select(columns)

    @cached_property
    def _by_class(self) -> tuple[Ids, Ids]:
        """Places of the photos by class, and the classes in that order."""
        order = np.argsort(self.classes, kind="stable")
        return order, self.classes[order]

    def _subject(self, place: int, rng: np.random.Generator) -> int:
        """Image id of another photo of the same name, or of the photo itself."""
        order, classes = self._by_class
        first, last = np.searchsorted(classes, self.classes[place] + np.array([0, 1]))
        others = order[first:last][order[first:last] != place]
        return int(self.source_ids[place if not len(others) else others[int(rng.integers(len(others)))]])

    def _uris(self, image_ids: Ids) -> list[str]:
        if not len(image_ids):
            return []
        uris: list[str] = self.samples.take(image_ids, ["uri"])["uri"].to_pylist()
        return uris
