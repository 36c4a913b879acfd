"""The stream of drawings for (seed, split): sample ``index`` does not depend on how many are drawn, or where.

Each sample has its own generator, seeded by ``SeedSequence(seed, spawn_key=(split, index))``. Other splits and seeds
are other streams, so train, test and teacher drawings are disjoint by construction, and a million images can be
drawn in any order by any number of processes.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import simplejpeg

from fgvr.demo.drawing import draw
from fgvr.demo.scene import Scene, sample_scene
from fgvr.demo.species import SPECIES, Attributes, random_attributes

DEMO_DIFFICULTY: Final = 2.0
"""Difficulty of the demo's data: the shipped models are trained at ``TRAINING_DIFFICULTY`` and measured at both."""
TRAINING_DIFFICULTY: Final = 1.0
JPEG_QUALITY: Final = 90

Kind = Literal["species", "random"]


@dataclass(frozen=True)
class Sample:
    """One drawing: class (None for a bird of no species), looks, scene and pixels (uint8 [64, 64, 3])."""

    class_id: int | None
    attributes: Attributes
    scene: Scene
    image: np.ndarray

    def jpeg(self) -> bytes:
        """The image as a JPEG file."""
        data: bytes = simplejpeg.encode_jpeg(self.image, quality=JPEG_QUALITY)
        return data


def sample(seed: int, split: str, index: int, *, difficulty: float, kind: Kind = "species") -> Sample:
    """Draw sample ``index`` of a split; ``kind="random"`` draws birds with random attributes instead of species.

    Every run of ``len(SPECIES)`` consecutive indices holds each species once, in a random order.

    Raises:
        ValueError: seed or index is outside 0 … 2³²−1.
    """
    rng = np.random.Generator(np.random.SFC64(_seed_sequence(seed, f"{split}/{kind}", index)))
    class_id = class_of(seed, split, index) if kind == "species" else None
    attributes = random_attributes(rng) if class_id is None else SPECIES[class_id].attributes
    scene = sample_scene(rng, difficulty)
    return Sample(class_id, attributes, scene, draw(attributes, scene, rng))


def class_of(seed: int, split: str, index: int) -> int:
    """The species of sample ``index``, without drawing it."""
    block, place = divmod(index, len(SPECIES))
    order = np.random.Generator(np.random.SFC64(_seed_sequence(seed, f"{split}/order", block))).permutation(
        len(SPECIES)
    )
    return int(order[place])


def _seed_sequence(seed: int, stream: str, index: int) -> np.random.SeedSequence:
    # Every part is one 32-bit word, so two different triples never give the same entropy.
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**32:
            raise ValueError(f"{name} {value} of a drawing is outside 0 … 2³²−1")
    word = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:4], "big")
    return np.random.SeedSequence(entropy=seed, spawn_key=(word, index))
