"""What has changed since training, and which photos fit nothing."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from fgvr.config.base import Part
from fgvr.config.tree import Tuned


class Drift(Part):
    """infer.drift: are the classified photos like those of training? (docs/drift.md)"""

    measure: bool = False
    """Compare the classified photos with those of training, and list those that fit nothing. They need vectors
    (embed.splits), and predictions get the energy of the logits, so that finished ones are made again."""
    reference: Tuned[str | None] = None
    """State of training of another run whose model is `infer.model`: its folder drift_reference, such as
    runs/mine/drift_reference; null: that of this run."""
    reference_images: int = Field(default=5000, ge=20)
    """Photos of the training split that were not learned from, with which new ones are compared, drawn at random. More
    of them show smaller changes."""
    part_images: int | None = Field(default=None, ge=1)
    """Photos per part, in the order of the list of photos, each tested by itself. Set it where this order means
    something, as dates in file names do: of a folder per kind each part would be an alarm. null: all are one part."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Probability of any false alarm in a run of which nothing has changed; all tests of all parts are corrected
    together (Holm)."""
    nearest: int = Field(default=1, ge=1)
    """The distance of a photo is that to its nearest training photo; 2: to the second one, and so on. Raise it where
    single training photos are unlike all others; it must stay well below the photos per name."""
    false_alarms: float = Field(default=0.1, gt=0, lt=1)
    """Share of the photos like those of training that may be listed as novel. Lower it where the list is long."""
    max_novel: Tuned[int] = Field(default=10_000, ge=1)
    """Most photos in the list, those that fit worst."""
    clusters: int | None = Field(default=None, ge=1)
    """Clusters of the listed photos; null: one per 25 photos, at most 200."""
    seed: int = Field(default=0, ge=0)
    """Random seed of the reference photos and the clusters."""

    def unused(self) -> Iterator[tuple[str, str]]:
        """See Part: settings of what is not measured."""
        if not self.measure and self.reference is not None:
            yield "reference", "measure is false, so that nothing is compared; set it to true, or leave reference out"
