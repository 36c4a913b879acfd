"""The field guide's drawing program as a generator: birds of a species in another pose, light and place.

It stands in for a diffusion model in tests, in the demo and where the filters are measured. It reads neither edges nor
prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fgvr.augment.pictures import Asked, Made
from fgvr.config.augment import DrawnBirds
from fgvr.demo.drawing import SIZE, draw
from fgvr.demo.scene import sample_scene
from fgvr.demo.species import SPECIES, Attributes, random_attributes


class BirdDrawer:
    """Implements `PictureGenerator`."""

    size, square, sees_subjects = SIZE, True, False

    def __init__(self, config: DrawnBirds) -> None:
        self.config = config
        self._species = {species.name.casefold(): species for species in SPECIES}

    def make(self, asked: Sequence[Asked]) -> list[Made]:
        """See PictureGenerator."""
        return [Made(self._drawn(each.name, each.seed)) for each in asked]

    def _drawn(self, name: str, seed: int) -> np.ndarray:
        rng = np.random.default_rng((seed, 17))
        attributes = self._looks(name, rng)
        return draw(attributes, sample_scene(rng, self.config.difficulty), rng)

    def _looks(self, name: str, rng: np.random.Generator) -> Attributes:
        """Of the species of that name; of a name that it does not know some bird, as a diffusion model would."""
        known = self._species.get(name.casefold())
        if self.config.species == "same":
            return random_attributes(rng) if known is None else known.attributes
        others = [species for species in SPECIES if known is None or species.genus != known.genus]
        return others[int(rng.integers(len(others)))].attributes
