"""The web of the field guide: captions of its birds and of others that it does not have, for methods that retrieve.

A caption names a species with some of its looks, names a bird of another field guide, or says looks only; its names and
looks are right, unlike those that the shipped CLIP learned from.
"""

from __future__ import annotations

import numpy as np

from fgvr.demo.species import SPECIES, random_attributes
from fgvr.demo.training.captions import describe, name_caption
from fgvr.demo.training.drawings import looks_of

OTHER_GENERA = ("Tern", "Plover", "Wren", "Bunting", "Pipit", "Shrike", "Rail", "Grebe", "Oriole", "Tanager")
OTHER_MARKS = ("Hooded", "Banded", "Plumed", "Speckled", "Ringed", "Lesser")
OTHER_COLOURS = ("Amber", "Violet", "Copper", "Pearl", "Umber")


def field_guide_captions(*, species: int = 30, others: int = 1000, looks: int = 1000, seed: int = 0) -> list[str]:
    """Captions in a fixed random order; the same seed gives the same ones.

    Args:
        species: captions that name each of the field guide's species.
        others: captions that name invented birds of other genera.
        looks: captions without a name, of birds of no species.
        seed: of all draws.
    """
    rng = np.random.default_rng([seed, 7])
    texts = [name_caption(kind.name, looks_of(kind.attributes), rng) for kind in SPECIES for _ in range(species)]
    for _ in range(others):
        words = [str(rng.choice(choice)) for choice in (OTHER_MARKS, OTHER_COLOURS, OTHER_GENERA)]
        texts.append(name_caption(" ".join(words), looks_of(random_attributes(rng)), rng))
    texts += [describe(looks_of(random_attributes(rng)), rng).text for _ in range(looks)]
    return [texts[place] for place in rng.permutation(len(texts))]
