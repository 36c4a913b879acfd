"""Captions of birds with looks and names; and the field guide's caption database, made of them.

The database serves retrieval methods: a caption names a species with some of its looks, a bird of another field
guide, or looks only. Its names and looks are correct, unlike those that the shipped CLIP was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fgvr.demo.species import OPTIONS, SPECIES, Attributes, random_attributes

_COLOUR_WORDS: Final = {
    "azure": "blue",
    "crimson": "red",
    "golden": "yellow",
    "olive": "green",
    "slate": "grey",
    "rufous": "brown",
    "sable": "black",
    "ivory": "white",
    "orange": "orange",
}
_PARTS: Final = {
    "body": "{} body",
    "belly": "{} belly",
    "wings": "{} wings",
    "crown": "{} crown",
    "tail": "{} tail feathers",
    "beak": "{} beak",
    "legs": "{} legs",
}
_FLAGS: Final = {
    "long_beak": ("a short beak", "a long beak"),
    "curved_beak": ("a straight beak", "a curved beak"),
    "long_tail": ("a short tail", "a long tail"),
    "forked_tail": ("a square tail", "a forked tail"),
    "long_legs": ("short legs", "long legs"),
    "crest": ("a smooth head", "a crest"),
    "mask": ("no mask", "a dark mask"),
    "eye_ring": ("no eye ring", "an eye ring"),
    "cheek_patch": ("plain cheeks", "a cheek patch"),
    "bib": ("a plain throat", "a black bib"),
    "collar": ("a plain neck", "a collar"),
    "wing_bar": ("plain wings", "white wing bars"),
    "streaked_belly": ("no streaks", "belly streaks"),
    "spotted_breast": ("no spots", "breast spots"),
    "tail_tip": ("a dark tail tip", "a white tail tip"),
}

PHRASES: Final[tuple[tuple[str, ...], ...]] = tuple(
    _FLAGS[name] if name in _FLAGS else tuple(_PARTS[name].format(_COLOUR_WORDS[str(value)]) for value in values)
    for name, values in OPTIONS.items()
)
"""One phrase per value of each attribute, in the order of ``OPTIONS``."""

OPENINGS: Final = ("a bird with ", "a photo of a bird with ", "a small bird, ", "")
NAME_TEMPLATES: Final = (
    "a photo of a {}.",
    "{}",
    "a {}.",
    "a drawing of a {}.",
    "a bird with {phrase}, a {}.",
    "a photo of a bird with {phrase} and {phrase2}: {}.",
)

OTHER_GENERA = ("Tern", "Plover", "Wren", "Bunting", "Pipit", "Shrike", "Rail", "Grebe", "Oriole", "Tanager")
OTHER_MARKS = ("Hooded", "Banded", "Plumed", "Speckled", "Ringed", "Lesser")
OTHER_COLOURS = ("Amber", "Violet", "Copper", "Pearl", "Umber")


@dataclass(frozen=True)
class Caption:
    """A caption's text and what it claims: (attribute, value) positions in ``OPTIONS``."""

    text: str
    claims: tuple[tuple[int, int], ...]

    def holds(self, looks: np.ndarray) -> np.ndarray:
        """For which birds every claim is true: bool [N], from ``looks`` int [N, 22]."""
        true = np.ones(len(looks), bool)
        for attribute, value in self.claims:
            true &= looks[:, attribute] == value
        return true


def describe(looks: np.ndarray, rng: np.random.Generator) -> Caption:
    """A caption that mentions one to five looks of a bird (int [22]), preferring marks that are present."""
    present = np.array([1.0 if name not in _FLAGS or looks[i] else 0.5 for i, name in enumerate(OPTIONS)])
    count = int(rng.integers(1, 6))
    chosen = rng.choice(len(looks), size=count, replace=False, p=present / present.sum())
    phrases = [PHRASES[i][looks[i]] for i in chosen]
    listing = phrases[0] if count == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
    return Caption(opening + listing, tuple((int(i), int(looks[i])) for i in chosen))


def name_caption(name: str, looks: np.ndarray, rng: np.random.Generator) -> str:
    """A caption that names a species, sometimes after one or two looks of the bird."""
    first, second = rng.choice(len(looks), size=2, replace=False)
    template = NAME_TEMPLATES[int(rng.integers(len(NAME_TEMPLATES)))]
    return template.format(name, phrase=PHRASES[first][looks[first]], phrase2=PHRASES[second][looks[second]])


def looks_of(attributes: Attributes) -> np.ndarray:
    """A bird's attributes as indices into ``OPTIONS``: int64 [22]."""
    return np.array([values.index(getattr(attributes, name)) for name, values in OPTIONS.items()])


def field_guide_captions(*, species: int = 30, others: int = 1000, looks: int = 1000, seed: int = 0) -> list[str]:
    """Captions in random order, determined by the seed.

    Args:
        species: number of captions that name each species of the field guide.
        others: number of captions that name invented birds of other genera.
        looks: number of captions without a name, about birds of no species.
        seed: seed of all draws.
    """
    rng = np.random.default_rng([seed, 7])
    texts = [name_caption(kind.name, looks_of(kind.attributes), rng) for kind in SPECIES for _ in range(species)]
    for _ in range(others):
        words = [str(rng.choice(choice)) for choice in (OTHER_MARKS, OTHER_COLOURS, OTHER_GENERA)]
        texts.append(name_caption(" ".join(words), looks_of(random_attributes(rng)), rng))
    texts += [describe(looks_of(random_attributes(rng)), rng).text for _ in range(looks)]
    return [texts[place] for place in rng.permutation(len(texts))]
