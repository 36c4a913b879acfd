import numpy as np
import pytest

from fgvr.metrics.classification import candidate_coverage, inclusion_hits, mapped_share, top1_hits
from fgvr.names.spelling import fold_name


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("Brewer's  Black-Bird", "brewers black bird"),
        ("Brewer’s Blackbird", "brewers blackbird"),
        ("Golden_Delicious", "golden delicious"),
        ("ﬁnch", "finch"),  # NFKC: one ligature, two letters
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("Pâté", "pâté"),
        ("C# Primer", "c# primer"),
        ("2 % Milk, 1,5 l", "2% milk 1.5 l"),
        ("  ", ""),
        ("夜鷺", "夜鷺"),
        ("हिन्दी", "हिन्दी"),
    ],
)
def test_fold_name(name, folded):
    assert fold_name(name) == folded


def test_top1_by_the_stated_rule():
    predicted = ["rock pigeon", "Rock-Pigeon", "rock dove", "", "Pigeon"]
    assert top1_hits(predicted, ["Rock Pigeon"] * 5).tolist() == [True, True, False, False, False]


def test_names_without_letters_are_never_right():
    assert top1_hits(["?"], ["!"]).tolist() == [False]


def test_mapped_share():
    assert mapped_share(["rock pigeon", "herring gull", "bird", ""], ["Rock Pigeon", "Herring Gull"]) == 0.5
    assert mapped_share([], ["a"]) == 0


def test_candidate_coverage():
    candidates = [["a", "B b"], ["a"], []]
    assert candidate_coverage(candidates, ["b-b", "c", "a"]) == pytest.approx(1 / 3)
    assert not np.isnan(candidate_coverage([], []))


def test_text_inclusion():
    predicted = ["A Herring Gull ", "herring gull", "gull", "Seagull", "", "Herring  Gull"]
    true = ["Herring Gull", " Herring Gull", "Herring Gull", "gull", "gull", "Herring Gull"]
    assert inclusion_hits(predicted, true).tolist() == [True, True, False, True, False, False]
    with pytest.raises(ValueError, match="1 predictions for 2 true names"):
        inclusion_hits(["a"], ["a", "b"])
