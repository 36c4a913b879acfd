"""Mini-ImageNet (Vinyals et al., 2016) in the lists of Ravi and Larochelle (2017), as ordinary classification."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence

from fgvr import storage
from fgvr.datasets.layout import Layout, Listed
from fgvr.datasets.rows import SourceError
from fgvr.datasets.seeded_split import training_images
from fgvr.datasets.wordnet_names import WORDNET, read_names

LISTS = ("train", "val", "test")
PER_CLASS = 600
TRAIN_PER_CLASS = 500
NAMES = "words.txt"
SYNSET = re.compile(r"n\d{8}")


class MiniImageNet(Layout):
    """100 classes of ImageNet, 600 photos each.

    The published lists are for few-shot learning: 64 classes to train on, 16 and 20 others to validate and test on. A
    classifier cannot be tested on classes that it never saw, so all photos are put together and split within each
    class; the list that a photo is from is metadata (`few_shot`).
    """

    title = "Mini-ImageNet"
    site = (
        "lists: github.com/twitter-research/meta-learning-lstm, data/miniImagenet; photos: made of ImageNet, or mirrors"
    )
    holds = "images/n0153282900000005.jpg …, and train.csv, val.csv, test.csv with the columns filename,label"
    inside = ("mini-imagenet", "mini_imagenet", "miniImagenet", "miniImageNet", "miniimagenet")
    marker = "train.csv"
    classes = 100

    def files(self) -> Sequence[str]:
        """Three lists, and the names where they are beside them."""
        return [f"{name}.csv" for name in LISTS]

    def listing_files(self) -> list[str]:
        """The names' file, then the lists; raises SourceError where one is missing."""
        lists = super().listing_files()
        names = self._names()
        if not storage.exists(names):
            raise SourceError(
                f"ingest.source.class_names: there is no file {names}; the classes of {self.title} are WordNet ids, "
                "and their names are read from a file of lines `n01532829 house finch, linnet` (ImageNet's words.txt "
                f"or LOC_synset_mapping.txt; found by itself as {NAMES} beside train.csv) or from data.noun of WordNet "
                "3.0, which the package wordnet-base of Debian and Ubuntu has (apt-get install wordnet-base)"
            )
        return [names, *lists]

    def listed(self) -> Iterator[Listed]:
        """Class by class, in the order of the WordNet ids."""
        photos: dict[str, dict[str, str]] = {}
        for part in LISTS:
            for photo, label in self._rows(f"{part}.csv"):
                photos.setdefault(label, {}).setdefault(photo, part)
        names = read_names(self._names(), photos, field="ingest.source.class_names")
        for number, (label, parts) in enumerate(sorted(photos.items())):
            training = training_images(sorted(parts), self._per_class, self.source.split_seed, label)
            for photo, part in parts.items():
                split = "train" if photo in training else "test"
                yield Listed(f"images/{photo}", split, number, names[label], {"wordnet": label, "few_shot": part})

    def counts(self) -> Mapping[str, int]:
        """50,000 train + 10,000 test with 500 a class."""
        train = min(self._per_class, PER_CLASS - 1)
        return {"train": self.classes * train, "test": self.classes * (PER_CLASS - train)}

    def remarks(self) -> list[str]:
        """The split, which is not the published one."""
        return [
            f"{self.title}: {self._per_class} photos of each class train, the others test (ingest.source."
            f"train_per_class, split_seed {self.source.split_seed}): the published lists have other classes for "
            "training and test"
        ]

    @property
    def _per_class(self) -> int:
        return self.source.train_per_class or TRAIN_PER_CLASS

    def _names(self) -> str:
        if self.source.class_names is not None:
            return storage.absolute(self.source.class_names)
        beside = storage.join(self.root, NAMES)
        return beside if storage.exists(beside) else WORDNET

    def _rows(self, file: str) -> Iterator[tuple[str, str]]:
        """(photo, WordNet id) of a list."""
        for number, row in enumerate(csv.reader(io.StringIO(self.text(file))), start=1):
            fields = [field.strip() for field in row]
            place = f"{storage.join(self.root, file)}, line {number}"
            if number == 1:
                if fields != ["filename", "label"]:
                    raise SourceError(f"{place}: {','.join(row)!r} is not the header `filename,label`")
            elif fields and (len(fields) != 2 or not fields[0] or not SYNSET.fullmatch(fields[1])):
                raise SourceError(f"{place}: {','.join(row)!r} is not `photo,WordNet id` such as n01532829")
            elif fields:
                yield fields[0], fields[1]
