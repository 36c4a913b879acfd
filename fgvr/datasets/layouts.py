"""Which class reads which public data set."""

from __future__ import annotations

from typing import Final

from fgvr.config.data import DataSet, LayoutSource
from fgvr.datasets.aircraft import Aircraft
from fgvr.datasets.caltech101 import Caltech101
from fgvr.datasets.cars import Cars
from fgvr.datasets.cub import Cub
from fgvr.datasets.dogs import Dogs
from fgvr.datasets.dtd import Dtd
from fgvr.datasets.flowers import Flowers
from fgvr.datasets.grocery import Grocery
from fgvr.datasets.layout import Layout
from fgvr.datasets.mini_imagenet import MiniImageNet
from fgvr.datasets.pets import Pets

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
    """The download that a source names; nothing is read yet."""
    return LAYOUTS[source.name](source)
