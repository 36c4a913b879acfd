"""Field marks, their noise, and the tables of students on photos, on a few made-up pictures."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import real_students
from benchmarks.quality.bird_field_marks import QUESTIONS, TABLE, noisy_answers, truth_of
from benchmarks.quality.student_runs import Photos, drawn


def test_every_species_has_marks_of_its_own() -> None:
    with TABLE.open(newline="", encoding="utf-8") as table:
        species = [row["species"] for row in csv.DictReader(table)]
    truth = truth_of(species)
    assert truth.shape == (100, 50)
    assert len({tuple(marks) for marks in truth.tolist()}) == 100
    assert (truth.sum(axis=0) >= 2).all()  # a question about one species would be its name
    keys = list(QUESTIONS)
    mallard = truth[species.index("Mallard")]
    assert mallard[[keys.index(key) for key in ("flat", "water", "green", "bright_bill")]].all()
    assert not mallard[[keys.index(key) for key in ("small", "crest", "trunk", "needle")]].any()
    with pytest.raises(KeyError, match="Dodo"):
        truth_of(["Dodo"])


def test_a_tenth_of_the_answers_is_wrong_and_most_are_sure() -> None:
    truth = np.array([[True, False], [False, True]])
    classes = np.tile([0, 1], 20_000)
    answers = noisy_answers(truth, classes, 0)
    sure = np.where(truth[classes], answers, 1 - answers)
    wrong = sure < 0.5
    # 0.1 flipped and 0.002 = ½⁹ of all unsure of what they say: 0.1 + 0.002 − 2 · 0.1 · 0.002 are on the wrong side.
    assert wrong.mean() == pytest.approx(0.1016, abs=0.004)
    assert np.maximum(answers, 1 - answers).mean() == pytest.approx(0.9, abs=0.002)
    assert np.array_equal(answers, noisy_answers(truth, classes, 0))
    assert not np.array_equal(answers, noisy_answers(truth, classes, 1))


def test_fewer_photos_are_among_more() -> None:
    classes = np.repeat([0, 1, 2], [5, 6, 2])
    few, more = drawn(classes, 2, 0), drawn(classes, 4, 0)
    assert np.bincount(classes[few]).tolist() == [2, 2, 2]
    assert np.bincount(classes[more]).tolist() == [4, 4, 2]
    assert set(few) < set(more)


def test_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    uris, classes = [], np.tile([0, 1], 8)
    for number, label in enumerate(classes.tolist()):
        pixels = rng.integers(0, 60, (40, 40, 3), np.uint8)
        pixels[..., 2 * label] += 190  # red or blue
        uris.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(uris[-1])
    photos = Photos(tuple(uris), classes)
    data = real_students.RealSet(("red", "blue"), photos, photos, np.array([[True, False], [False, True]]))
    monkeypatch.setattr(real_students, "find_weights", lambda given: given)
    args = argparse.Namespace(size=32, epochs=4, per_class=5, rows=None, weights=None)
    said: list[str] = []
    tables = real_students.Tables(data, args, tmp_path, said.append)
    found = tables.rows("scratch", 0)
    assert list(found) == ["classes alone", "aspects, α = 4", "random aspects, α = 4", "aspects, α = 1"]
    assert all(0 <= value <= 100 for value in found.values())
    assert len(said) == 4
    args.rows = ["classes alone"]
    assert tables.rows("scratch", 0) == {"classes alone": found["classes alone"]}

    monkeypatch.setattr(tables.runs, "vectors", lambda photos, _: np.eye(4, dtype=np.float32)[2 * photos.classes])
    head = tables._head(np.where(np.arange(16) < 10, classes, -1))
    assert head.top1 == 100
    assert head.names.tolist() == classes.tolist()
    assert (head.confidence > 0.5).all()


def test_held_out_photos_take_the_place_of_the_test_split() -> None:
    train, test = (Photos(tuple(f"{name}{n}" for n in range(9)), np.arange(9)) for name in ("train", "test"))
    data = real_students.RealSet(("a",), train, test, np.zeros((1, 0), bool))
    assert set(real_students.tested_on(data, 4, held_out=False).test.uris) < set(test.uris)
    held = real_students.tested_on(data, 100, held_out=True)
    assert sorted(held.train.uris + held.test.uris) == sorted(train.uris)
