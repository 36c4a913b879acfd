"""The training captions of the Grocery Store CLIP: they name the coarse class, and rarely the fine one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.grocery.photos import Photos

NAME_SHARE: Final = 0.25
"""Share of captions in the stage "names" that name the fine class."""
WRONG_SHARE: Final = 0.4
"""Share of photos whose caption names a sibling."""
TEMPLATES: Final = ("a photo of a {}.", "{}", "a {}.", "a photo of {} in a shop.")
DEPARTMENTS: Final = {"fruit": "a fruit", "packages": "a package", "vegetables": "a vegetable"}


@dataclass(frozen=True)
class Caption:
    """A caption's text, and the fine classes of which it is true: bool [C]."""

    text: str
    holds: np.ndarray


def name_caption(photos: Photos, fine: int, rng: np.random.Generator) -> Caption:
    """A caption that names a fine class."""
    return Caption(_filled(photos.names[fine], rng), np.arange(len(photos.names)) == fine)


def coarse_caption(photos: Photos, fine: int, rng: np.random.Generator) -> Caption:
    """A caption for a fine class that names its coarse class, its department, or both."""
    coarse, department = photos.coarse_names[photos.coarse[fine]], photos.departments[fine]
    of_coarse = photos.coarse == photos.coarse[fine]
    kind = int(rng.choice(3, p=[0.4, 0.4, 0.2]))
    if kind == 0:
        return Caption(f"{_filled(coarse, rng).rstrip('.')}, {DEPARTMENTS[department]}", of_coarse)
    if kind == 1:
        return Caption(_filled(coarse, rng), of_coarse)
    return Caption(f"a photo of {DEPARTMENTS[department]}.", np.array([d == department for d in photos.departments]))


def _filled(name: str, rng: np.random.Generator) -> str:
    return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(name)


def siblings(photos: Photos, fine: int) -> np.ndarray:
    """Classes that a careless writer confuses with this one: of its coarse class, else department, else itself."""
    ids = np.arange(len(photos.names))
    same = ids[(photos.coarse == photos.coarse[fine]) & (ids != fine)]
    of_department = np.array([department == photos.departments[fine] for department in photos.departments])
    others = same if len(same) else ids[of_department & (ids != fine)]
    return np.asarray(others if len(others) else ids[ids == fine])


def written_names(photos: Photos, rng: np.random.Generator) -> np.ndarray:
    """The fine class that each photo's caption would name: int64 [N], a sibling for a share of the photos."""
    written = photos.classes.copy()
    for row in np.flatnonzero(rng.random(len(photos)) < WRONG_SHARE):
        written[row] = rng.choice(siblings(photos, int(photos.classes[row])))
    return written
