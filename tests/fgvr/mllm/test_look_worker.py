"""Labels and aspects in one pass, with a backend that answers by the image's width."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fgvr import schemas
from fgvr.config import ImageLimits
from fgvr.config.models import VllmBackend
from fgvr.images.pictures import Picture
from fgvr.mllm import look_worker
from fgvr.mllm.backend import Answer, AspectAnswer, AspectTask, ImageRequest, Sampling
from fgvr.mllm.label_worker import LabelSettings, LabelWorker
from fgvr.mllm.look_worker import LookSettings, LookWorker, among, part_rows
from fgvr.mllm.scoring_workers import AspectSettings, AspectWorker

TASK = AspectTask(("Is it wide?", "Is it blue?"), "Yes or No.")
LABEL = LabelSettings(VllmBackend(), "Name it", Sampling(4, 0.7), ImageLimits(), samples=2)
ASPECTS = AspectSettings(TASK, 0.1, ImageLimits())
MISSING, FAINT = 4, 22
"""The image that is not there, and the width at which the model means something else than yes or no."""


class ByWidth:
    """Remembers what it was asked, in which order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def label(self, requests: Iterable[ImageRequest]) -> list[Answer]:
        answers = []
        for request in requests:
            width = request.picture.image.width
            self.asked.append(("label", width))
            answers.append(Answer(f"{width} wide, {request.sampling.seed}", -0.5, 10, 3))
        return answers

    def aspects(self, pictures: Iterable[Picture], task: AspectTask) -> list[AspectAnswer]:
        answers = []
        for picture in pictures:
            width = picture.image.width
            self.asked.append(("aspects", width))
            mass = np.full(2, 0.01 if width == FAINT else 0.9, dtype=np.float32)
            answers.append(AspectAnswer(np.array([width / 100, 0.5], dtype=np.float32), mass, 20, 8))
        return answers

    def generate(self, *_: object) -> list[Answer]:
        raise AssertionError("no text is asked for")


@pytest.fixture
def rows(tmp_path: Path) -> pa.Table:
    """Six images, 20 to 25 pixels wide; number 4 is not there."""
    uris = [str(tmp_path / f"{number}.png") for number in range(6)]
    for number, uri in enumerate(uris):
        if number != MISSING:
            Image.new("RGB", (20 + number, 8)).save(uri)
    return pa.table({"image_id": list(range(6)), "uri": uris})


def looked(rows: pa.Table, backend: ByWidth, label_ids: list[int], aspect_ids: list[int]) -> pa.Table:
    return LookWorker(LookSettings(LABEL, ASPECTS, np.array(label_ids), np.array(aspect_ids)), backend).process(rows)


def test_both_parts_are_those_of_the_separate_workers(rows: pa.Table) -> None:
    looks = looked(rows, ByWidth(), list(range(6)), list(range(6)))
    assert looks.schema == schemas.looks(2)
    assert part_rows(looks, "answer", schemas.ANSWERS) == LabelWorker(LABEL, ByWidth()).process(rows)
    assert part_rows(looks, "aspects", schemas.aspects(2)) == AspectWorker(ASPECTS, ByWidth()).process(rows)
    reasons = [error and error["reason"] for error in looks["error"].to_pylist()]
    assert reasons == [None, None, "no_label_mass", None, "not_found", None]
    assert looks["answer"][2].as_py()["error"] is None


def test_an_image_is_asked_only_for_what_is_wanted(rows: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_worker, "IMAGES_TOGETHER", 2)
    backend = ByWidth()
    looks = looked(rows, backend, [0, 1, 3], [1, 5])
    assert backend.asked == [
        *[("label", 20), ("label", 20), ("label", 21), ("label", 21), ("aspects", 21)],  # the images 0 and 1
        *[("label", 23), ("label", 23)],  # 2 and 3
        ("aspects", 25),  # 5
    ]
    assert looks["answer"].is_valid().to_pylist() == [True, True, False, True, False, False]
    assert looks["aspects"].is_valid().to_pylist() == [False, True, False, False, False, True]
    assert looks["error"].null_count == 6
    words = part_rows(looks.take([0, 1, 3]), "answer", schemas.ANSWERS)
    assert words == LabelWorker(LABEL, ByWidth()).process(rows.take([0, 1, 3]))


def test_what_was_not_asked_for_is_not_handed_out(rows: pa.Table) -> None:
    looks = looked(rows, ByWidth(), [0], [1])
    with pytest.raises(ValueError, match="5 of 6 images were not asked for their answer"):
        part_rows(looks, "answer", schemas.ANSWERS)


@pytest.mark.parametrize("ascending", [[], [3], [0, 2, 3, 7, 9], list(range(10))])
def test_membership_among_ascending_ids(ascending: list[int]) -> None:
    ids = np.array([0, 1, 3, 9, 12, -1])
    wanted = [number in set(ascending) for number in ids.tolist()]
    assert among(ids, np.array(ascending, dtype=np.int64)).tolist() == wanted
