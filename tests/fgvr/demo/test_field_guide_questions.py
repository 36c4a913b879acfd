import numpy as np
import pytest

from fgvr.demo.questions import QUESTIONS, truths
from fgvr.demo.species import SPECIES


@pytest.mark.parametrize(
    ("name", "yes"),
    [
        (
            "Crested Azure Finch",
            {
                "Is the body of the bird blue?",
                "Is the belly of the bird white?",
                "Are the wings of the bird grey?",
                "Is the crown of the head black?",
                "Is the beak orange?",
                "Are the legs orange?",
                "Does the bird have a crest on its head?",
                "Is the tip of the tail white?",
            },
        ),
        (
            "Golden Warbler",
            {
                "Is the belly of the bird yellow?",
                "Are the wings of the bird black?",
                "Is the beak black?",
                "Are the legs black?",
                "Is there a patch on the cheek?",
            },
        ),
        (
            "Spotted Crimson Curlew",
            {
                "Is the body of the bird green?",
                "Are the wings of the bird black?",
                "Is the tail of the bird black?",
                "Is the beak orange?",
                "Are the legs black?",
                "Does the bird have a long beak?",
                "Is the beak curved downwards?",
                "Does the bird have long legs?",
                "Is the breast spotted?",
            },
        ),
    ],
)
def test_the_questions_with_yes_for_a_species_by_hand(name, yes):
    attributes = next(species.attributes for species in SPECIES if species.name == name)
    assert {question.text for question in QUESTIONS if question.truth(attributes)} == yes


def test_every_question_splits_the_species_and_all_are_different():
    table = np.stack([truths(species.attributes) for species in SPECIES])
    assert table.shape == (36, len(QUESTIONS))
    assert len(QUESTIONS) >= 20
    assert (table.sum(axis=0) >= 2).all()
    assert (table.sum(axis=0) <= 34).all()
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS)
    assert len({question.attribute for question in QUESTIONS}) >= 20


def test_no_two_species_have_the_same_answers():
    assert len({truths(species.attributes).tobytes() for species in SPECIES}) == len(SPECIES)
