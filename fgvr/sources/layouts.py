"""Which class reads which public data set."""

from __future__ import annotations

from typing import Final

from fgvr.config.data import DataSet, LayoutSource
from fgvr.sources.layout import Layout
from fgvr.sources.official_splits import Aircraft, Cars, Cub, Dogs, Dtd, Flowers, Grocery, Pets
from fgvr.sources.seeded_splits import Caltech101, MiniImageNet

LAYOUTS: Final[dict[DataSet, type[Layout]]] = {
    "cub": Cub,
    "cars": Cars,
    "dogs": Dogs,
    "flowers": Flowers,
    "pets": Pets,
    "grocery": Grocery,
    "dtd": Dtd,
    "aircraft": Aircraft,
    "caltech101": Caltech101,
    "mini_imagenet": MiniImageNet,
}


def open_layout(source: LayoutSource) -> Layout:
    """The download that a source names; reads nothing yet."""
    return LAYOUTS[source.name](source)
