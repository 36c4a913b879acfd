"""A person's own photos: no labels, no test split, a damaged file among them. The whole job must need nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from fgvr.demo.field_guide import write_field_guide
from fgvr.demo.questions import QUESTIONS
from fgvr.schemas import Reason
from tests.e2e import runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PHOTOS = 108


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings in one folder without any split file, two of them unusable."""
    drawn = tmp_path_factory.mktemp("drawn")
    write_field_guide(drawn, per_class={"train": PHOTOS // 36})
    folder = tmp_path_factory.mktemp("photos")
    for number, file in enumerate(sorted(drawn.rglob("*.jpg"))):
        shutil.copyfile(file, folder / f"photo {number}.jpg")
    (folder / "photo 5.jpg").write_bytes(b"")
    (folder / "photo 7.jpg").write_bytes((folder / "photo 8.jpg").read_bytes()[:300])
    return folder


def test_unlabelled_photos_become_a_vocabulary_a_classifier_and_predictions(photos: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(question.text for question in QUESTIONS[:6]))
    source = {
        "ingest.source.kind": "folder",
        "ingest.source.path": str(photos),
        "questions.file": str(questions),
        "label.images.per_class": "null",
        "label.images.max_images": "80",
        "run.max_error_share": "0.05",
        "evaluate.max_images": "30",
    }
    # Without `runs.TRUE_CLASSES`: students learn what prototypes name, as in the demo itself.
    small = {name: value for name, value in runs.SIZES.items() if not name.startswith(("ingest", "label.images"))}
    values = small | source | {"run.folder": str(tmp_path), "run.name": "tiny"}
    arguments = [word for name, value in values.items() for word in (f"--{name}", value)]
    runs.run("full", arguments)

    folder = str(tmp_path)
    predictions = runs.rows(folder, "predictions")
    assert predictions["image_id"].to_pylist() == list(range(PHOTOS))
    failed = {row["image_id"]: row["error"]["reason"] for row in predictions.to_pylist() if row["error"]}
    assert sorted(failed.values()) == [Reason.CORRUPT.value, Reason.EMPTY_FILE.value]
    space = json.loads((Path(runs.table(folder, "labels").uri) / "label_space.json").read_text())
    known = set(space["labels"])
    assert known
    assert all(row["label"] in known for row in predictions.to_pylist() if not row["error"])

    metrics = runs.metrics(folder)
    assert set(metrics["methods"]) == {"mllm", "zs_clip", "near", "label_prototypes", "base", "makd"}
    assert all(method["top1"] is None for method in metrics["methods"].values())  # there is no truth to compare with
    assert metrics["stages"]["embeddings"]["failed"] == 2
    assert metrics["cost"]["prompt_tokens"] > 0

    manifests = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("manifest.json")}
    runs.run("full", arguments)  # finds everything done
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("manifest.json")} == manifests
