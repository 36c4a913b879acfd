"""The stage class_scores and the teacher made of it, without Ray and with a model that scores by the pixels."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.parts import PartJob
from cluster.stage import RunContext, StageFolder, StageSummary
from fgvr.config import build
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import NameAnswer, NameTask
from fgvr.mllm.scoring_workers import ClassScoreWorker
from fgvr.training.teacher import open_teacher
from pipelines.run_tables import Run
from pipelines.student_task import assembled, student_tables, student_task
from pipelines.teacher import MllmTeacher, recipe
from tests.untracked import NoTracking

CLASSES = ("Teal", "Wren")


class Pixels:
    """The first class by the red channel, the second by the blue one."""

    def name_scores(self, pictures: Iterable[Picture], task: NameTask) -> list[NameAnswer]:
        assert task.names == CLASSES
        assert task.prompt in {"Which bird?", "Which species?"}
        colours = [np.asarray(picture.image).mean(axis=(0, 1)) / 255 for picture in pictures]
        return [NameAnswer(np.array([red - 1, blue - 1], dtype=np.float32), 7, 5) for red, _, blue in colours]


def in_this_process(folder: StageFolder, job: PartJob, ids: np.ndarray, _: str) -> StageSummary:
    """In place of Ray: the rows of all ids, computed here."""
    rows = job.samples.take(ids, list(job.columns))
    return folder.write_table(ClassScoreWorker(job.arguments["settings"], Pixels()).process(rows).cast(job.schema))


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Four training photos of two classes, of which the third cannot be read, and one of another split."""
    monkeypatch.setattr(StageFolder, "run_parts", in_this_process)
    listing = ["uri,split,class_name"]
    for number, (split, name, colour) in enumerate(
        [
            ("train", "Teal", (255, 0, 51)),
            ("train", "Wren", (0, 0, 255)),
            ("train", "Teal", (0, 0, 0)),
            ("train", "Wren", (102, 0, 204)),
            ("test", "Teal", (255, 0, 0)),
        ]
    ):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{number}.png")
        listing.append(f"{tmp_path}/{number}.png,{split},{name}")
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "photos.csv").write_text("\n".join(listing))
    tree: dict[str, Any] = {
        "ingest": {
            "source": {
                "kind": "table",
                "path": str(tmp_path / "photos.csv"),
                "split_column": "split",
                "class_column": "class_name",
            }
        },
        "label": {"prompt": "Which bird?"},
        "makd": {"validation_share": 0, "distillation": {"kind": "kd", "teacher": "mllm"}},
        "run": {"max_error_share": 0.5},
    }
    return Run(RunContext(build(tree), str(tmp_path / "run"), NoTracking()))


def test_scores_of_the_student_s_images_and_classes(flow: Run) -> None:
    table = flow.table("class_scores")
    assert (table.rows, table.failed) == (4, 1)
    rows = table.read().to_pylist()
    assert [row["image_id"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["scores"] == pytest.approx([0, -0.8])
    assert rows[2]["scores"] is None
    assert rows[2]["error"]["reason"] == "not_an_image"


def test_the_student_is_taught_by_them(flow: Run, tmp_path: Path) -> None:
    base = flow.context.config.makd.model_copy(update={"alpha": 0.0})
    task = student_task(flow, base)
    assert list(student_tables(flow, base)) == ["samples", "class_scores"]
    assert isinstance(task.teacher, MllmTeacher)
    examples = assembled(flow, task).examples
    task.teacher.put(str(tmp_path / "teacher"), examples.image_ids)
    teacher = open_teacher(str(tmp_path / "teacher"), CLASSES, len(examples), torch.device("cpu"))
    assert teacher.known.tolist() == [True, True, False, True]
    logits = teacher.logits(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), np.array([3, 1]))
    np.testing.assert_allclose(logits.numpy(), [[-0.6, -0.2], [-1, 0]], atol=1e-6)
    assert recipe(base, task.teacher)["distillation"].teacher == "mllm"


def test_the_prompt_decides_and_where_it_was_said_does_not(flow: Run) -> None:
    def with_prompt(prompt: str) -> str:
        scores = flow.context.config.class_scores.model_copy(update={"prompt": prompt})
        config = flow.context.config.model_copy(update={"class_scores": scores})
        context = RunContext(config, flow.context.folder, NoTracking())
        return Run(context).table("class_scores").fingerprint

    assert with_prompt("Which bird?") == flow.table("class_scores").fingerprint  # the words of label.prompt
    assert with_prompt("Which species?") != flow.table("class_scores").fingerprint
