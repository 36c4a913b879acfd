"""CaSED's words and scores, by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fgvr.baselines.cased import CaptionDatabase, CasedSettings, predict
from fgvr.baselines.vocabularies import candidate_words, caption_words, singular
from fgvr.demo.captions import field_guide_captions
from fgvr.demo.species import SPECIES


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A photo of the Red-winged Blackbirds!", ["red", "winged", "blackbird"]),
        ("<PERSON> at https://a.b/c.jpg, 0012.JPG", []),
        ("IMG_2012 finch.jpeg", ["img", "finch"]),
        ("an owl & it's 3 owls", ["owl", "owl"]),
        ("glass, cactus, iris, berries, foxes, finches", ["glass", "cactus", "iris", "berries", "fox", "finch"]),
        ("Two Ducks, señor, in a picture", ["duck", "seor"]),  # as the public code: foreign letters are deleted
        ("", []),
    ],
)
def test_words_of_a_caption(caption: str, words: list[str]) -> None:
    assert caption_words(caption) == words


def test_singular_by_the_ending() -> None:
    plurals = {"cars": "car", "boxes": "box", "glasses": "glass", "grass": "grass", "ties": "ties", "gas": "ga"}
    assert {word: singular(word) for word in plurals} == plurals


def test_candidates_are_words_used_twice_else_the_most_frequent() -> None:
    assert candidate_words([["red", "finch"], ["finch", "tree"], ["tree", "finch"]]) == ["finch", "tree"]
    assert candidate_words([["red", "finch"], ["owl"]]) == ["finch", "owl", "red"]
    assert candidate_words([[], []]) == ["object"]
    assert candidate_words([]) == ["object"]


def test_scores_by_hand() -> None:
    vectors = {"finch": [1.0, 0.0], "owl": [0.0, 1.0], "bird": [0.6, 0.8]}
    captions = ["finch bird finch", "owl finch", "an owl, owl", "far far away"]
    database = CaptionDatabase(captions, np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]], dtype=np.float16))

    def encode(words: Sequence[str]) -> np.ndarray:
        return np.array([vectors[word] for word in words], dtype=np.float32)

    (row,) = predict(np.array([[1.0, 0.0]], np.float16), database, encode, CasedSettings(captions=2))
    # Nearest two: "finch bird finch" and "owl finch"; only finch is said twice there.
    assert (row["label"], row["score"], row["top_labels"]) == ("finch", 1.0, ["finch"])

    (row,) = predict(np.array([[0.6, 0.8]], np.float16), database, encode, CasedSettings(captions=3))
    # All but the last: finch 3 and owl 3 times. Cosines of the image: 0.6 and 0.8; of the centroid (1.8, 1.6)/2.408.
    image = math.exp(0.6 / 0.07) / (math.exp(0.6 / 0.07) + math.exp(0.8 / 0.07))
    norm = math.hypot(1.8, 1.6)
    text = 1 / (1 + math.exp((1.6 - 1.8) / norm / 0.07))
    finch = 0.7 * image + 0.3 * text
    assert row["top_labels"] == ["owl", "finch"]
    assert row["top_scores"] == pytest.approx([1 - finch, finch], abs=2e-3)  # vectors are halfs
    assert row["label"] == "owl"


def test_the_field_guides_web_names_its_birds_and_others() -> None:
    captions = field_guide_captions(seed=3)
    assert captions == field_guide_captions(seed=3)
    assert captions != field_guide_captions(seed=4)
    named = {species.name: sum(species.name in caption for caption in captions) for species in SPECIES}
    assert min(named.values()) >= 30
    assert 30 * len(SPECIES) < len(captions) / 2  # most of it is about something else
    assert sum("Plover" in caption for caption in captions) > 50
