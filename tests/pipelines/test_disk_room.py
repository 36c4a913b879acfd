"""Disk for what is to come, by hand."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from fgvr.config import build
from pipelines.photo_counts import Photos
from pipelines.room import bytes_to_come, warning

PHOTOS = Photos({"train": 1_000_000, "test": 500_000})


def test_vectors_answers_and_predictions() -> None:
    config = build({"aspects": {"max_images": 1_000}})
    vectors, answers, rest = 1_500_000 * 1034, 1_000 * (50 * 8 + 60), 3_000_000 * 60
    assert bytes_to_come(config, PHOTOS, questions=50) == vectors + answers + rest
    fewer = build({"aspects": {"max_images": 1_000}, "embed": {"splits": ["test"]}, "infer": {"split": "test"}})
    assert bytes_to_come(fewer, PHOTOS, questions=50) == 500_000 * 1034 + answers + 2_000_000 * 60


def test_needed_vectors_are_those_of_all_that_the_students_learn_from() -> None:
    tree = {
        "embed": {"images": "needed"},
        "aspects": {"max_images": 1_000},
        "label": {"images": {"max_images": 500}},
        "makd": {"pool": 7_000},
    }
    answers, rest = 1_000 * (50 * 8 + 60), 3_000_000 * 60
    vectors = 500 + 7_000 + 500_000  # those asked about are among the pool
    assert bytes_to_come(build(tree), PHOTOS, questions=50) == vectors * 1034 + answers + rest
    everyone = build({**tree, "makd": {"images": "all"}})  # NeaR says the class of each
    assert bytes_to_come(everyone, PHOTOS, questions=50) == 1_500_000 * 1034 + answers + rest


def test_images_are_chosen_among_vectors_in_files() -> None:
    images = {"max_images": 500, "select": "medoids", "pool": 10_000}
    tree = {
        "embed": {"images": "needed"},
        "aspects": {"max_images": 1_000},
        "label": {"images": images},
        "makd": {"images": "asked"},
    }
    answers, rest = 1_000 * (50 * 8 + 60), 3_000_000 * 60
    vectors, files = (10_000 + 1_000 + 500_000) * 1034, 2 * 10_000 * 1024
    assert bytes_to_come(build(tree), PHOTOS, questions=50) == vectors + files + answers + rest


def test_a_disk_that_is_too_small_is_said_once_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**31))
    assert warning(str(tmp_path / "not" / "there"), 2**31) is None
    words = warning(str(tmp_path / "not" / "there"), 2**32)
    assert words is not None
    assert f"about 4.0 GiB, and 2.0 GiB are free in {tmp_path}" in words
    assert warning("s3://bucket/runs", 2**60) is None
