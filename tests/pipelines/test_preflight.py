from pathlib import Path

import pytest

from fgvr.config import build
from fgvr.errors import UserError
from pipelines.preflight import check

FOLDER = {"kind": "folder", "path": "."}


def test_the_demo_passes() -> None:
    check(build({}))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"mllm": {"model": "/no/such/model"}}, "mllm.model"),
        ({"clip": {"model": "ViT-Z-99"}}, "clip.model"),
        ({"makd": {"backbone": "resnet1"}}, "makd.backbone"),
        ({"ingest": {"source": FOLDER}}, "questions.file"),
        ({"ingest": {"source": {"kind": "folder", "path": "/no/such/photos"}}}, "ingest.source.path"),
        ({"ingest": {"source": FOLDER}, "label": {"images": {"per_class": 5}}}, "label.images.per_class"),
        ({"questions": {"file": "/no/such/file.txt"}}, "questions.file"),
        ({"evaluate": {"split": "train"}}, "label.images.split"),
        ({"makd": {"split": "test"}}, "makd.split"),
        ({"evaluate": {"sentence_model": "/no/such/bert"}}, "evaluate.sentence_model"),
    ],
)
def test_what_cannot_work_is_refused_by_the_field_s_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        check(build(values))


def test_own_photos_with_own_questions_pass(tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("Is it red?\nIs it round?\n")
    check(build({"ingest": {"source": FOLDER}, "questions": {"file": str(questions)}}))
