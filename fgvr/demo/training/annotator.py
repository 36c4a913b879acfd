"""The unreliable annotator whose names the tiny MLLM learns: it goes by the habitat as much as by the bird.

Real models name what a place makes likely. Here every genus has two misleading habitats: in one of them the annotator
mixes up the marks (a Crested Azure Finch becomes a Masked one), in the other the colours (it becomes a Crested Crimson
one). So a third of the names is wrong, always within the genus, and wrong in the same way each time: a model that has
learned them perfectly gives them under greedy decoding, too.
"""

from typing import Final

from fgvr.demo.scene import HABITATS
from fgvr.demo.species import SPECIES

_MARKS: Final = 3  # species of a genus are ordered colour by colour, mark by mark


def annotated_name(species: int, habitat: int) -> int:
    """The class id that the annotator gives to a bird of class ``species`` seen in ``habitat``."""
    genus, member = divmod(species, 2 * _MARKS)
    colour, mark = divmod(member, _MARKS)
    place = (habitat - genus) % len(HABITATS)
    if place == 0:
        mark = (mark + 1) % _MARKS
    elif place == 3:
        colour = 1 - colour
    return (genus * 2 + colour) * _MARKS + mark


def annotator_accuracy() -> float:
    """Share of (species, habitat) pairs that the annotator names rightly: two thirds."""
    pairs = [(s.class_id, h) for s in SPECIES for h in range(len(HABITATS))]
    return sum(annotated_name(s, h) == s for s, h in pairs) / len(pairs)
