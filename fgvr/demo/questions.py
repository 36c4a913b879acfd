"""The yes/no aspect questions of the field guide, each with its true answer as a function of the attributes."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from fgvr.demo.species import Attributes


@dataclass(frozen=True)
class Question:
    """A yes/no question; the answer is Yes if the named attribute has the named value."""

    text: str
    attribute: str
    value: str | bool = True

    def truth(self, attributes: Attributes) -> bool:
        """The correct answer for a bird with these attributes."""
        return bool(getattr(attributes, self.attribute) == self.value)


QUESTIONS: Final = (
    Question("Is the body of the bird blue?", "body", "azure"),
    Question("Is the body of the bird red?", "body", "crimson"),
    Question("Is the body of the bird green?", "body", "olive"),
    Question("Is the body of the bird grey?", "body", "slate"),
    Question("Is the body of the bird brown?", "body", "rufous"),
    Question("Is the belly of the bird white?", "belly", "ivory"),
    Question("Is the belly of the bird yellow?", "belly", "golden"),
    Question("Are the wings of the bird black?", "wings", "sable"),
    Question("Are the wings of the bird grey?", "wings", "slate"),
    Question("Are the wings of the bird blue?", "wings", "azure"),
    Question("Is the crown of the head yellow?", "crown", "golden"),
    Question("Is the crown of the head black?", "crown", "sable"),
    Question("Is the tail of the bird black?", "tail", "sable"),
    Question("Is the beak orange?", "beak", "orange"),
    Question("Is the beak black?", "beak", "sable"),
    Question("Are the legs black?", "legs", "sable"),
    Question("Are the legs orange?", "legs", "orange"),
    Question("Does the bird have a long beak?", "long_beak"),
    Question("Is the beak curved downwards?", "curved_beak"),
    Question("Does the bird have a long tail?", "long_tail"),
    Question("Is the tail forked?", "forked_tail"),
    Question("Does the bird have long legs?", "long_legs"),
    Question("Does the bird have a crest on its head?", "crest"),
    Question("Does the bird wear a dark mask across its eyes?", "mask"),
    Question("Is there a ring around the eye?", "eye_ring"),
    Question("Is there a patch on the cheek?", "cheek_patch"),
    Question("Is there a black bib on the throat?", "bib"),
    Question("Is there a collar around the neck?", "collar"),
    Question("Are there white bars on the wings?", "wing_bar"),
    Question("Is the belly streaked?", "streaked_belly"),
    Question("Is the breast spotted?", "spotted_breast"),
    Question("Is the tip of the tail white?", "tail_tip"),
)
"""The questions, in the order in which ``questions.txt`` lists them."""


def truths(attributes: Attributes) -> np.ndarray:
    """True answers to all questions for one bird: bool [len(QUESTIONS)]."""
    return np.array([question.truth(attributes) for question in QUESTIONS])
