"""The Grocery Store Dataset (Klasson, Zhang, Kjellström, WACV 2019) as its GitHub repository holds it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fgvr.datasets.layout import Layout, Listed
from fgvr.datasets.rows import SourceError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Class:
    name: str
    coarse: str


class Grocery(Layout):
    """81 fine-grained classes in 42 coarse ones; the coarse class is metadata."""

    title = "the Grocery Store Dataset"
    site = "github.com/marcusklasson/GroceryStoreDataset"
    holds = "dataset/classes.csv, dataset/{train,val,test}.txt and the photos in dataset/{train,val,test}/"
    inside = ("dataset",)
    marker = "classes.csv"
    images: ClassVar = {"train": 2_640, "val": 296, "test": 2_485}
    classes = 81

    def files(self) -> Sequence[str]:
        """The classes, and a list a split."""
        return ["classes.csv", *(f"{split}.txt" for split in SPLITS)]

    def listed(self) -> Iterator[Listed]:
        """Split by split; class names as words ("Golden-Delicious" → "Golden Delicious")."""
        classes = self._classes()
        for split in SPLITS:
            for number, line in enumerate(self.text(f"{split}.txt").splitlines(), start=1):
                fields = [field.strip() for field in line.split(",")]
                if fields == [""]:
                    continue
                if len(fields) != 3 or not fields[1].isdigit() or int(fields[1]) not in classes:
                    raise SourceError(
                        f"{self.root}/{split}.txt, line {number}: {line!r} is not `path, fine class id, coarse class "
                        "id` with a class id of classes.csv"
                    )
                found = classes[int(fields[1])]
                yield Listed(fields[0], split, int(fields[1]), found.name, {"coarse": found.coarse})

    def _classes(self) -> Mapping[int, _Class]:
        try:
            rows = list(csv.reader(io.StringIO(self.text("classes.csv"), newline=""), strict=True))
            return {int(row[1]): _Class(row[0].replace("-", " "), row[2].replace("-", " ")) for row in rows[1:]}
        except (IndexError, ValueError, csv.Error) as error:
            raise SourceError(
                f"{self.root}/classes.csv: expected the columns Class Name, Class ID, Coarse Class Name …: {error}"
            ) from error
