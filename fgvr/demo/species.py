"""The birds of the field guide: 22 attributes, 36 species in 6 genera.

A genus determines a silhouette and most colours; its six species are two colours times three marks, so two species of
a genus differ in one to three attributes. That makes naming fine-grained: the genus is easy, the species is not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np


@dataclass(frozen=True)
class Attributes:
    """What a bird looks like. Colours are words of ``OPTIONS``; everything else is present or absent."""

    body: str = "slate"
    belly: str = "ivory"
    wings: str = "slate"
    crown: str = "slate"
    tail: str = "slate"
    beak: str = "sable"
    legs: str = "sable"
    long_beak: bool = False
    curved_beak: bool = False
    long_tail: bool = False
    forked_tail: bool = False
    long_legs: bool = False
    crest: bool = False
    mask: bool = False
    eye_ring: bool = False
    cheek_patch: bool = False
    bib: bool = False
    collar: bool = False
    wing_bar: bool = False
    streaked_belly: bool = False
    spotted_breast: bool = False
    tail_tip: bool = False


_FLAG: Final = (False, True)

# White marks (wing bar, tail tip) and black ones (mask, bib) must be visible: their backgrounds exclude that colour.
OPTIONS: Final[dict[str, tuple[str, ...] | tuple[bool, ...]]] = {
    "body": ("azure", "crimson", "golden", "olive", "slate", "rufous", "ivory"),
    "belly": ("ivory", "golden", "rufous", "crimson"),
    "wings": ("azure", "olive", "slate", "rufous", "sable"),
    "crown": ("azure", "crimson", "golden", "slate", "rufous", "sable", "ivory"),
    "tail": ("azure", "olive", "slate", "rufous", "sable"),
    "beak": ("sable", "orange", "golden"),
    "legs": ("sable", "orange", "golden"),
    **{field.name: _FLAG for field in fields(Attributes) if field.type is bool},
}
"""Every value an attribute can take, by attribute name, in the order of ``Attributes``."""

COLOUR_ATTRIBUTES: Final = ("body", "belly", "wings", "crown", "tail", "beak", "legs")


@dataclass(frozen=True)
class Species:
    """One class of the data set: its dense id, its name, its genus and its looks."""

    class_id: int
    name: str
    genus: str
    attributes: Attributes


@dataclass(frozen=True)
class Genus:
    """Shared looks, two colours of one part and three marks (None: no mark, a two-word name)."""

    name: str
    base: Attributes
    coloured: str
    colours: tuple[str, str]
    marks: tuple[tuple[str, str] | None, ...]

    def species(self) -> Iterator[tuple[str, Attributes]]:
        """Yield the six (name, attributes) of this genus."""
        for colour in self.colours:
            for mark in self.marks:
                looks = {self.coloured: colour} | ({mark[1]: True} if mark else {})
                words = ([mark[0]] if mark else []) + [colour.capitalize(), self.name]
                yield " ".join(words), replace(self.base, **looks)  # type: ignore[arg-type]


GENERA: Final = (
    Genus(
        "Finch",
        Attributes(
            belly="ivory",
            wings="slate",
            crown="sable",
            tail="slate",
            beak="orange",
            legs="orange",
            tail_tip=True,
        ),
        coloured="body",
        colours=("azure", "crimson"),
        marks=(("Crested", "crest"), ("Masked", "mask"), ("Barred", "wing_bar")),
    ),
    Genus(
        "Warbler",
        Attributes(
            belly="golden",
            wings="sable",
            crown="rufous",
            tail="olive",
            beak="sable",
            legs="sable",
            cheek_patch=True,
        ),
        coloured="body",
        colours=("golden", "olive"),
        marks=(("Spectacled", "eye_ring"), ("Streaked", "streaked_belly"), None),
    ),
    Genus(
        "Thrush",
        Attributes(
            body="rufous",
            belly="ivory",
            wings="rufous",
            tail="rufous",
            beak="golden",
            legs="golden",
            long_tail=True,
        ),
        coloured="crown",
        colours=("slate", "golden"),
        marks=(("Spotted", "spotted_breast"), ("Collared", "collar"), ("Bearded", "bib")),
    ),
    Genus(
        "Swallow",
        Attributes(
            body="azure",
            belly="rufous",
            crown="crimson",
            tail="sable",
            beak="sable",
            legs="orange",
            long_tail=True,
            forked_tail=True,
        ),
        coloured="wings",
        colours=("azure", "olive"),
        marks=(("Tipped", "tail_tip"), ("Masked", "mask"), ("Collared", "collar")),
    ),
    Genus(
        "Heron",
        Attributes(
            belly="ivory",
            wings="slate",
            crown="slate",
            tail="slate",
            beak="golden",
            legs="golden",
            long_beak=True,
            long_legs=True,
        ),
        coloured="body",
        colours=("ivory", "slate"),
        marks=(("Crested", "crest"), ("Bearded", "bib"), ("Streaked", "streaked_belly")),
    ),
    Genus(
        "Curlew",
        Attributes(
            body="olive",
            belly="crimson",
            wings="sable",
            crown="ivory",
            tail="sable",
            beak="orange",
            legs="sable",
            long_beak=True,
            curved_beak=True,
            long_legs=True,
        ),
        coloured="belly",
        colours=("crimson", "golden"),
        marks=(("Spectacled", "eye_ring"), ("Spotted", "spotted_breast"), ("Barred", "wing_bar")),
    ),
)

SPECIES: Final = tuple(
    Species(class_id, name, genus, attributes)
    for class_id, (name, genus, attributes) in enumerate(
        (name, genus.name, attributes) for genus in GENERA for name, attributes in genus.species()
    )
)
"""All species; ``SPECIES[i].class_id == i``."""


def siblings(species: Species) -> tuple[Species, ...]:
    """The other species of the same genus, in id order."""
    return tuple(other for other in SPECIES if other.genus == species.genus and other is not species)


def difference(one: Attributes, other: Attributes) -> tuple[str, ...]:
    """Names of the attributes in which two birds differ."""
    return tuple(name for name in OPTIONS if getattr(one, name) != getattr(other, name))


def random_attributes(rng: np.random.Generator) -> Attributes:
    """A bird of no species: every attribute drawn uniformly and independently of the others."""
    chosen = {name: values[int(rng.integers(len(values)))] for name, values in OPTIONS.items()}
    return Attributes(**chosen)  # type: ignore[arg-type]
