"""Near-duplicates among questions, with all-MiniLM-L6-v2 itself; each pair was judged by hand."""

import pytest

from fgvr.metrics.semantic import SentenceBert
from fgvr.mllm.question_duplicates import drop_duplicates

SIMILARITY = 0.94
SUBJECT = "birds, flowers and cars"

SAME = [
    ("Are the legs yellow?", "Does the bird have yellow legs?"),
    ("Does the bird have a long beak?", "Is the beak of the bird long?"),
    ("Does the animal have floppy ears?", "Are the ears of the animal floppy?"),
    ("Is the tail forked?", "Does the bird have a forked tail?"),
    ("Is the bird's body primarily blue?", "Is the body of the bird mostly blue?"),
    ("Does the bird have a crest on its head?", "Is there a crest on the bird's head?"),
    ("Does the flower have more than five petals?", "Are there more than five petals on the flower?"),
    ("Does the bird have a noticeably long beak?", "Does the bird have a long beak?"),
    ("Is the car red?", "Is the color of the car red?"),
    ("Is the wing white and black?", "Is the wing black and white?"),
]
OTHER = [
    ("Does the bird have a long beak?", "Does the bird have a short beak?"),  # cosine 0.96
    ("Does the car have two doors?", "Does the car have four doors?"),
    ("Does the flower have five petals?", "Does the flower have more than five petals?"),  # 0.98
    ("Is the bird white with black spots?", "Is the bird black with white spots?"),  # 0.99
    ("Is the belly lighter than the back?", "Is the back lighter than the belly?"),  # 1.00
    ("Is the wing above the fuselage?", "Is the fuselage above the wing?"),
    ("Does the bird have a long tail?", "Does the bird have a long forked tail?"),  # 0.931
    ("Does the bird have a crest?", "Does the bird have a red crest?"),  # 0.929
    ("Is the body blue?", "Is the body not blue?"),
    ("Does the bird have a red head and a black body?", "Does the bird have a black head and a red body?"),
    ("Is the red-headed bird's body black?", "Is the black-headed bird's body red?"),
    ("Is the head red and the body black?", "Is the head of the bird black and the body clearly all red?"),
    ("Is the bird yellow?", "Does the bird have yellow legs?"),
    ("Does the bird have a light belly?", "Does the bird have a dark belly?"),
]


@pytest.fixture(scope="module")
def encoder() -> SentenceBert:
    return SentenceBert()


@pytest.mark.parametrize("pair", SAME)
def test_one_question_in_two_wordings(encoder: SentenceBert, pair: tuple[str, str]) -> None:
    kept, repeats = drop_duplicates(pair, SUBJECT, lambda: encoder, SIMILARITY)
    assert kept == [pair[0]]
    assert repeats == {pair[1]: pair[0]}


@pytest.mark.parametrize("pair", OTHER)
def test_two_questions_however_near(encoder: SentenceBert, pair: tuple[str, str]) -> None:
    assert drop_duplicates(pair, SUBJECT, lambda: encoder, SIMILARITY) == (list(pair), {})


def test_the_field_guide_repeats_nothing(encoder: SentenceBert) -> None:
    from fgvr.demo.questions import QUESTIONS

    texts = [question.text for question in QUESTIONS]
    assert drop_duplicates(texts, SUBJECT, lambda: encoder, SIMILARITY) == (texts, {})


def test_without_a_pair_that_needs_it_no_model_is_loaded() -> None:
    def load() -> SentenceBert:
        raise AssertionError("not needed")

    questions = ["Is the tail long?", "Is the tail forked?", "Is its tail long?"]
    kept, repeats = drop_duplicates(questions, SUBJECT, load, SIMILARITY)
    assert kept == questions[:2]
    assert repeats == {"Is its tail long?": "Is the tail long?"}


def test_at_one_added_words_are_not_looked_at() -> None:
    pair = ["Is the car red?", "Is the color of the car red?"]

    def load() -> SentenceBert:
        raise AssertionError("not needed")

    assert drop_duplicates(pair, SUBJECT, load, 1) == (pair, {})
