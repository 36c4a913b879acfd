"""The label benchmark's scores on a made-up file, worked by hand, and its targets on the real answers."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.label_answers import (
    Answer,
    choose_threshold,
    read_answers,
    read_names,
    score_set,
    sweep,
    table,
    words_in_prose,
)
from fgvr.metrics.semantic import SentenceBert

DATA = Path(os.environ.get("FGVR_DATA", Path(__file__).parents[4] / "shared" / "data")) / "mllm-answers"

ROWS = [
    {"answer": "The bird is a **Rock Dove** (*Columba livia*).", "extracted": "Rock Pigeon", "true_name": "Rock Dove"},
    {"answer": "The birds in the image are Rock Doves.", "extracted": "Rock Dove", "true_name": "Rock Dove"},
    {"answer": "The bird is a Mallard duck.", "extracted": "Mallard Duck 2012", "true_name": "Mallard "},
    {"answer": "I'm sorry, I can't tell.", "extracted": "Teal", "true_name": "Mallard "},
]


class OneHot:
    """Different names are orthogonal, whatever their case."""

    name = "one-hot"

    def encode(self, names: Sequence[str]) -> np.ndarray:
        axes = [
            "rock dove",
            "rock doves",
            "rock pigeon",
            "mallard",
            "mallard duck",
            "mallard duck 2012",
            "teal",
            "rock",
        ]
        return np.stack([np.eye(len(axes), dtype=np.float32)[axes.index(name.lower())] for name in names])


@pytest.fixture
def answers(tmp_path: Path) -> list[Answer]:
    file = tmp_path / "birds-3shot.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in ROWS))
    return read_answers(file)


def test_the_rows_of_a_set_by_hand(answers: list[Answer]) -> None:
    scores = score_set(answers, OneHot(), thresholds=(0.9, 0.0))
    # Second call: only "Rock Dove" is right; Rock Pigeon or Rock Dove, and Mallard Duck 2012 or Teal stand for a class.
    assert (scores.second_call.sacc, scores.second_call.cacc) == (25, 50)
    assert (scores.second_call.names, scores.second_call.unnamed) == (4, 0)
    # Prose: Rock Dove, Rock Doves, Mallard duck, nothing. One of the doves is right; each word for doves matches once.
    assert read_names(answers)[0] == ["Rock Dove", "Rock Doves", "Mallard duck", ""]
    assert (scores.prose.sacc, scores.prose.cacc, scores.prose.names, scores.prose.unnamed) == (25, 50, 3, 1)
    # Merged: the plural joins the singular, which is first in the alphabet: both doves are right.
    merged = scores.merged[0.9]
    assert (merged.sacc, merged.cacc, merged.names, merged.unnamed) == (50, 75, 2, 1)
    assert scores.joined_classes == {0.9: 0, 0.0: 0}


def test_what_a_reader_could_get(answers: list[Answer]) -> None:
    assert [words_in_prose(answer) for answer in answers] == ["Rock", "Rock Dove", "Mallard Duck", ""]


def test_the_threshold_comes_from_the_other_sets_and_does_no_harm(answers: list[Answer]) -> None:
    scores = score_set(answers, OneHot(), thresholds=(0.95, 0.9))
    assert choose_threshold([scores, scores]) == 0.95  # of two equals the higher
    printed = table({"one": scores, "two": scores})
    assert "3 merged at 0.95" in printed
    assert "  50.00  75.00      2        1               0" in printed
    assert "+25.00 +25.00 0" in sweep({"one": scores})
    harmful = score_set([*answers, Answer("Mallard", "Mallard", "Mallard duck")], OneHot(), thresholds=(0.9, 0.0))
    assert harmful.joined_classes == {0.9: 0, 0.0: 1}
    assert choose_threshold([harmful]) == 0.9


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real answers at {DATA} (set FGVR_DATA)")
def test_the_targets_on_real_answers() -> None:
    encoder = SentenceBert("all-MiniLM-L6-v2")
    sets = {
        name: score_set(read_answers(DATA / f"{name}-3shot.jsonl"), encoder, thresholds=(1.0, 0.95, 0.9))
        for name in ("cub", "cars", "flowers")
    }
    for name in ("cub", "flowers"):
        assert sets[name].prose.sacc >= sets[name].second_call.sacc - 1
    for name, scores in sets.items():
        chosen = choose_threshold([other for other_name, other in sets.items() if other_name != name])
        assert scores.merged[chosen].cacc > scores.prose.cacc
        assert scores.merged[chosen].sacc >= scores.prose.sacc - 0.5
        assert scores.prose.unnamed <= 0.02 * 306
