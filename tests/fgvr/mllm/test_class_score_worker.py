from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import NameAnswer, NameTask
from fgvr.mllm.scoring_workers import ChoiceSettings, ChoiceWorker, ClassScoreSettings, ClassScoreWorker
from fgvr.schemas import Failure, Reason

NAMES = ("Wren", "Teal", "Owl")


class Brightness:
    """Scores by the mean pixel; black pictures fail."""

    def name_scores(self, pictures: Iterable[Picture], task: NameTask) -> list[NameAnswer]:
        assert task.names == NAMES
        answers = []
        for picture in pictures:
            mean = float(np.asarray(picture.image).mean())
            failure = None if mean else Failure(Reason.REQUEST_REJECTED, "black")
            scores = np.array([-mean, -1, -2], dtype=np.float32)
            answers.append(NameAnswer(failure=failure) if failure else NameAnswer(scores, 10, 8))
        return answers


@pytest.fixture
def rows(tmp_path: Path) -> pa.Table:
    """A grey picture, one that is missing, a black and a light one."""
    uris = []
    for name, level in (("grey", 100), ("black", 0), ("light", 200)):
        Image.new("L", (8, 8), level).save(tmp_path / f"{name}.png")
        uris.append(str(tmp_path / f"{name}.png"))
    return pa.table({"image_id": [4, 5, 6, 9], "uri": [uris[0], str(tmp_path / "missing.png"), uris[1], uris[2]]})


def test_every_image_is_a_row_in_order(rows: pa.Table) -> None:
    settings = ClassScoreSettings(NameTask(NAMES, "Name it"), ImageLimits())
    found = ClassScoreWorker(settings, Brightness()).process(rows)
    assert found.schema.equals(schemas.class_scores(3), check_metadata=True)
    assert found["image_id"].to_pylist() == [4, 5, 6, 9]
    assert found["scores"].to_pylist() == [[-100, -1, -2], None, None, [-200, -1, -2]]
    reasons = [None if error is None else error["reason"] for error in found["error"].to_pylist()]
    assert reasons == [None, "not_found", "request_rejected", None]
    assert found["cached_tokens"].to_pylist() == [8, 0, 0, 8]


class ByLength:
    """Scores names by their length and the picture's mean, remembers what was asked together; black pictures fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, ...], int]] = []

    def name_scores(self, pictures: Iterable[Picture], task: NameTask) -> list[NameAnswer]:
        answers = []
        for picture in pictures:
            mean = float(np.asarray(picture.image).mean())
            scores = np.array([len(name) - mean for name in task.names], dtype=np.float32)
            failure = None if mean else Failure(Reason.REQUEST_REJECTED, "black")
            answers.append(NameAnswer(failure=failure) if failure else NameAnswer(scores, 10, 8))
        self.asked.append((task.names, len(answers)))
        return answers


def test_closed_choices_of_other_names_for_each_image(rows: pa.Table) -> None:
    birds, owls = ("Wren", "Dunnock"), ("Owl", "Eagle Owl", "Ow")
    choices = {4: birds, 5: birds, 6: owls, 9: owls}
    backend = ByLength()
    found = ChoiceWorker(ChoiceSettings("Name it", choices, ImageLimits()), backend).process(rows)
    assert found.schema.equals(schemas.REASKED)
    assert sorted(backend.asked) == [(owls, 2), (birds, 1)]
    table = found.to_pylist()
    assert [row["image_id"] for row in table] == [4, 5, 6, 9]
    assert [row["scores"] for row in table] == [[-96, -93], None, None, [-197, -191, -198]]
    assert [(row["label"], row["chosen"]) for row in table] == [
        ("Wren", "Dunnock"),
        ("Wren", None),
        ("Owl", None),
        ("Owl", "Eagle Owl"),
    ]
    assert [row["replaced"] for row in table] == [True, False, False, True]
    reasons = [None if row["error"] is None else row["error"]["reason"] for row in table]
    assert reasons == [None, "not_found", "request_rejected", None]
