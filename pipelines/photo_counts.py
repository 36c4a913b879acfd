"""The number of photos per split and class, which is all that the bill of a run needs to know about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from fgvr.config.data import (
    DRAWN,
    BirdScenesSource,
    CocoSource,
    FieldGuideSource,
    FolderSource,
    ParquetSource,
    Source,
    TableSource,
    WebDatasetSource,
)
from fgvr.demo.drawing import SIZE as DRAWN_SIDE
from fgvr.demo.species import SPECIES
from fgvr.mllm.backend import Size
from fgvr.mllm.request_tokens import PHOTO


@dataclass(frozen=True)
class Photos:
    """Counts from a samples table, or expected from a source that is not listed yet.

    Attributes:
        splits: split → number of images.
        classes: split → true class id → number of images.
        size: width and height of a typical photo, in pixels.
    """

    splits: Mapping[str, int]
    classes: Mapping[str, Counter[int]] = field(default_factory=dict)
    size: Size = PHOTO

    @classmethod
    def of_rows(cls, parts: Iterable[pa.Table], size: Size = PHOTO) -> Photos:
        """Count rows with `split` and `class_id`; holds one part at a time."""
        splits: Counter[str] = Counter()
        classes: dict[str, Counter[int]] = {}
        for rows in parts:
            counted = rows.group_by(["split", "class_id"]).aggregate([([], "count_all")])
            columns = (counted[name].to_pylist() for name in ("split", "class_id", "count_all"))
            for split, class_id, count in zip(*columns, strict=True):
                splits[split] += count
                if class_id is not None:
                    classes.setdefault(split, Counter())[class_id] += count
        return cls(splits, classes, size)

    @classmethod
    def drawn(cls, source: FieldGuideSource | BirdScenesSource) -> Photos:
        """Counts of the images that a source will draw."""
        if isinstance(source, BirdScenesSource):
            return cls({"train": source.train_scenes, "test": source.test_scenes}, size=(source.size, source.size))
        kinds = range(len(SPECIES))
        counts = {"train": source.train_per_class, "test": source.test_per_class}
        return cls(
            {split: count * len(kinds) for split, count in counts.items()},
            {split: Counter(dict.fromkeys(kinds, count)) for split, count in counts.items()},
            (DRAWN_SIDE, DRAWN_SIDE),
        )

    @classmethod
    def expected(cls, source: Source) -> Photos:
        """Counts of a source that is not listed yet, as far as it knows them."""
        if isinstance(source, DRAWN):
            return cls.drawn(source)
        if not may_have_truth(source):
            return cls({"train": 1})
        return cls({"train": 1, "test": 1}, {"train": Counter([0]), "test": Counter([0])})

    @property
    def total(self) -> int:
        """Number of photos in all splits."""
        return sum(self.splits.values())

    def bounded(self, split: str, most: int | None) -> int:
        """Number of images in a split, at most `most`."""
        there = self.splits.get(split, 0)
        return there if most is None else min(there, most)

    def all_have_classes(self, split: str) -> bool:
        """Whether every image of a split has a true class."""
        return 0 < self.splits.get(split, 0) == sum(self.classes.get(split, Counter()).values())

    @property
    def kinds(self) -> int:
        """Number of true classes."""
        return len(set().union(*self.classes.values()))


def may_have_truth(source: Source) -> bool:
    """Whether the samples may have true classes, so that the evaluation will compare names with them."""
    if isinstance(source, FolderSource):
        return source.class_from != "none"
    if isinstance(source, CocoSource | BirdScenesSource):  # boxes have classes, whole images have none
        return False
    if isinstance(source, WebDatasetSource):
        return source.class_from != "none"
    return not isinstance(source, TableSource | ParquetSource) or source.class_column is not None
