"""Answers about some of many images read like the whole array, and URIs that lie in files like a list."""

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fgvr import tables
from fgvr.tables import Table
from fgvr.training.assemble import RandomAnswers, random_p_yes
from fgvr.training.examples import AspectAnswers, Examples, MappedUris, SampleUris, write_uris

NAN = np.nan
DENSE = np.array([[NAN, NAN], [0.25, NAN], [NAN, NAN], [0.5, 1.0], [0.0, 0.75]], dtype=np.float32)


@pytest.fixture
def answers() -> AspectAnswers:
    return AspectAnswers(5, np.array([1, 3, 4]), DENSE[[1, 3, 4]].astype(np.float16))


@pytest.mark.parametrize(
    "key",
    [
        0,
        3,
        -1,
        slice(None),
        slice(1, 4),
        slice(None, None, -2),
        np.array([4, 0, 3, 3]),
        np.array([], dtype=np.int64),
        np.array([True, False, False, True, False]),
        (slice(None), slice(1)),
        (np.array([3, 2]), 1),
        (3, 1),
    ],
)
def test_any_part_is_that_of_the_array(answers: AspectAnswers, key: object) -> None:
    found = answers[key]
    np.testing.assert_array_equal(found, DENSE[key])  # type: ignore[index]
    assert found.dtype == np.float32


@pytest.mark.parametrize("key", [5, -6, np.array([0, 5])])
def test_images_that_are_not_there(answers: AspectAnswers, key: object) -> None:
    with pytest.raises(IndexError, match="there are 5 images"):
        answers[key]


def test_as_a_whole_it_is_the_array(answers: AspectAnswers) -> None:
    assert answers.shape == DENSE.shape
    np.testing.assert_array_equal(answers, DENSE)
    np.testing.assert_array_equal(1 - answers, 1 - DENSE)
    np.testing.assert_array_equal(np.isnan(answers), np.isnan(DENSE))
    assert answers.answered.tolist() == [False, True, False, True, True]
    np.testing.assert_array_equal(AspectAnswers.of(DENSE), DENSE)
    assert AspectAnswers.of(DENSE).rows.tolist() == [1, 3, 4]


def test_of_fewer_images_and_questions(answers: AspectAnswers) -> None:
    some = np.array([True, True, False, False, True])
    np.testing.assert_array_equal(answers.chosen(some), DENSE[some])
    np.testing.assert_array_equal(answers.chosen(some).chosen(np.array([False, False, True])), DENSE[[4]])
    np.testing.assert_array_equal(answers.first(1).chosen(some), DENSE[some][:, :1])
    np.testing.assert_array_equal(answers.chosen(some).first(1), DENSE[some][:, :1])
    assert answers.first(0).chosen(some).shape == (3, 0)


def test_random_answers_are_those_of_the_whole_array() -> None:
    ids = np.array([2, 5, 9, 11])
    answers = RandomAnswers(ids, 3, 7).answers().chosen(np.array([True, False, True, True]))
    np.testing.assert_array_equal(answers, random_p_yes(ids[[0, 2, 3]], 3, 7))
    np.testing.assert_array_equal(answers.first(2)[np.array([2, 0])], random_p_yes(ids[[3, 0]], 3, 7)[:, :2])


@pytest.mark.parametrize("kind", ["mapped", "samples"])
def test_uris_in_files_are_a_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("fgvr.training.examples.URIS_AT_ONCE", 3)
    given = [f"photo {n}.jpg" for n in range(8)]
    if kind == "mapped":
        with (tmp_path / "uris").open("wb") as file:
            write_uris(file, given)
        found = MappedUris(str(tmp_path / "uris"))
    else:
        rows = pa.table({"image_id": range(16), "uri": [given[n // 2] if n % 2 else "another" for n in range(16)]})
        for number, start in enumerate(range(0, 16, 5)):
            tables.write_part(str(tmp_path), number, rows.slice(start, 5))
        found = SampleUris(Table(str(tmp_path), "samples", "f", 16, 0, 4, 5, 0.0), np.arange(1, 16, 2))
    assert list(found) == given
    assert found == given
    assert found != given[:-1]
    assert found != [*given[:-1], "other"]
    assert (found[0], found[-1], found[4]) == (given[0], given[-1], given[4])
    assert (found[2:7], found[::-3], found[5:5]) == (given[2:7], given[::-3], [])
    with pytest.raises(IndexError):
        found[8]


def test_examples_on_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVR_CACHE", str(tmp_path))
    uri = f"memory://{uuid.uuid4().hex}/examples"
    held = np.array([True, False, False, False, True])
    Examples(np.arange(5) * 3, list("abcde"), np.array([1, 0, -1, 0, 1]), DENSE, held, "v7").write(uri)
    read = Examples.read(uri)
    assert (read.uris, read.identity, read.held_out.tolist()) == (list("abcde"), "v7", held.tolist())
    assert (read.image_ids.tolist(), read.classes.tolist()) == ([0, 3, 6, 9, 12], [1, 0, -1, 0, 1])
    np.testing.assert_array_equal(read.p_yes, DENSE)


def examples(**changes) -> Examples:
    values = {
        "image_ids": np.array([3, 5]),
        "uris": ["a/ä.jpg", "s3://b/c.jpg"],
        "classes": np.array([1, -1]),
        "p_yes": np.array([[0.25, 1.0, np.nan], [0.1, 0.0, 0.5]], dtype=np.float32),
        "held_out": np.array([False, True]),
        "identity": "v1",
    }
    return Examples(**{**values, **changes})


@pytest.mark.parametrize("width", [3, 0])
def test_comes_back_from_a_file(tmp_path, width):
    written = examples(p_yes=examples().p_yes[:, :width])
    written.write(str(tmp_path / "sub" / "examples.parquet"))
    read = Examples.read(str(tmp_path / "sub" / "examples.parquet"))
    assert read.image_ids.tolist() == [3, 5]
    assert read.uris == written.uris
    assert read.classes.tolist() == [1, -1]
    assert read.held_out.tolist() == [False, True]
    assert read.identity == "v1"
    assert read.p_yes.dtype == np.float32
    np.testing.assert_allclose(read.p_yes, written.p_yes, atol=2.5e-4)  # half a step of fp16 below 1


def test_the_first_aspects_keep_everything_else():
    base = examples().first_aspects(0)
    assert base.p_yes.shape == (2, 0)
    assert base.uris == examples().uris
    np.testing.assert_array_equal(examples().first_aspects(2).p_yes, np.float32([[0.25, 1.0], [0.1, 0.0]]))
    with pytest.raises(ValueError, match="a student of 4 questions on examples with answers to 3"):
        examples().first_aspects(4)


def test_values_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"image 5, question 1: 1\.5 is not in"):
        examples(p_yes=np.array([[0, 0], [1, 1.5]], dtype=np.float32))
    with pytest.raises(ValueError, match="different lengths"):
        examples(classes=np.array([1]))
