"""The generated pictures that students see in place of photos: from the table `synthetic` to a student's job."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fgvr.config import Config
from pipelines.run_tables import Run

if TYPE_CHECKING:
    from fgvr.training.assemble import TrainingSet
    from fgvr.training.swaps import Pictures

log = logging.getLogger(__name__)

PICTURES_FOLDER = "pictures"


def sees_pictures(config: Config) -> bool:
    """Whether students see generated pictures."""
    return config.augment.alpha > 0


def decided_by_pictures(config: Config) -> dict[str, Any]:
    """How they are shown, for the fingerprint of a student; empty where there are none."""
    from fgvr.training.swaps import RULES

    if not sees_pictures(config):
        return {}
    augment = config.augment
    return {"synthetic": {"rules": RULES, "alpha": augment.alpha, "max_per_source": augment.max_per_source}}


@dataclass(frozen=True)
class Shown:
    """The pictures of a training set, and how many photos and names have some."""

    pictures: Pictures
    photos: int
    names: int

    @property
    def facts(self) -> dict[str, Any]:
        """For the table's metadata."""
        counts = {"pictures": len(self.pictures.uris), "photos": self.photos, "names": self.names}
        return {"synthetic": {**counts, "alpha": self.pictures.alpha}}


def pictures_of(run: Run, training_set: TrainingSet) -> Shown | None:
    """The kept pictures of the images that are learned from; None where students see none.

    A picture counts only where its photo teaches the name that the picture was made to show. It then has the photo's
    other targets, too: its aspects, its teacher's scores, its weight.
    """
    from fgvr.augment.kept import kept_pictures
    from fgvr.losses.makd import UNKNOWN_CLASS
    from fgvr.training.swaps import Pictures

    if not sees_pictures(run.config):
        return None
    augment, table = run.config.augment, run.table("synthetic")
    kept = kept_pictures(table, augment.max_per_source)
    examples, labels = training_set.examples, training_set.targets.labels
    places = np.minimum(np.searchsorted(examples.image_ids, kept.source_ids), len(examples) - 1)
    classes = examples.classes[places]
    learned = (examples.image_ids[places] == kept.source_ids) & ~examples.held_out[places] & (classes != UNKNOWN_CLASS)
    own = [
        bool(here) and labels[number] == name for here, number, name in zip(learned, classes, kept.names, strict=True)
    ]
    chosen = np.flatnonzero(own)
    sources = places[chosen].astype(np.int64)
    pictures = Pictures(sources, [kept.uris[place] for place in chosen], augment.alpha, table.version)
    shown = Shown(pictures, len(np.unique(sources)), len(np.unique(classes[chosen])))
    log.info(
        "%s generated pictures of %s photos of %s rare names are shown in place of these with probability %g",
        *(f"{len(chosen):,}", f"{shown.photos:,}", f"{shown.names:,}", augment.alpha),
    )
    return shown
