"""Which class reads which public data set."""

from __future__ import annotations

from fgvr.config.data import LayoutSource
from fgvr.datasets.cars import Cars
from fgvr.datasets.cub import Cub
from fgvr.datasets.dogs import Dogs
from fgvr.datasets.flowers import Flowers
from fgvr.datasets.grocery import Grocery
from fgvr.datasets.layout import Layout
from fgvr.datasets.pets import Pets


def open_layout(source: LayoutSource) -> Layout:
    """The download that a source names; nothing is read yet."""
    match source.name:
        case "cub":
            return Cub(source)
        case "cars":
            return Cars(source)
        case "dogs":
            return Dogs(source)
        case "flowers":
            return Flowers(source)
        case "pets":
            return Pets(source)
        case "grocery":
            return Grocery(source)
