"""FGVC-Aircraft, release 2013b (Maji, Rahtu, Kannala, Blaschko, Vedaldi, 2013)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from fgvr.class_names import one_form
from fgvr.datasets.layout import Layout, Listed
from fgvr.datasets.rows import SourceError

SPLITS = ("train", "val", "test")
VARIANTS = "variants.txt"


class Aircraft(Layout):
    """100 variants of aircraft. The bottom 20 pixels of a photo are a banner: `ingest.limits.cut_bottom`."""

    title = "FGVC-Aircraft"
    site = "robots.ox.ac.uk/~vgg/data/fgvc-aircraft, fgvc-aircraft-2013b.tar.gz"
    holds = "data/images/0034309.jpg …, data/variants.txt and data/images_variant_{train,val,test}.txt"
    inside = ("data", "fgvc-aircraft-2013b/data")
    marker = VARIANTS
    images: ClassVar = {"train": 3_334, "val": 3_333, "test": 3_333}
    classes = 100

    def files(self) -> Sequence[str]:
        """The names, and a list a split; images_variant_trainval.txt repeats two of them."""
        return [VARIANTS, *(f"images_variant_{split}.txt" for split in SPLITS)]

    def listed(self) -> Iterator[Listed]:
        """Split by split; classes are numbered in the order of variants.txt. Names hold blanks and slashes."""
        numbers = {one_form(line): number for number, line in enumerate(self._variants())}
        for split in SPLITS:
            for place, (photo, name) in self.fields(f"images_variant_{split}.txt", 2):
                variant = one_form(name)
                if variant not in numbers:
                    raise SourceError(f"{place}: {variant!r} is not in {VARIANTS}")
                yield Listed(f"images/{photo}.jpg", split, numbers[variant], variant)

    def _variants(self) -> list[str]:
        return [line for line in self.text(VARIANTS).splitlines() if line.strip()]
