"""The stages detector and detections on drawn scenes, under Ray."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest

from cluster.fingerprint import fingerprint_of
from cluster.stage import RunContext
from fgvr import schemas
from fgvr.config import Config, ConfigError, build
from fgvr.demo.questions import QUESTIONS
from fgvr.errors import UserError
from fgvr.sources.source import check_place
from pipelines.detect import check_detection, decides
from pipelines.run_tables import Run
from tests.untracked import NoTracking

TINY = {"backbone": "test_resnet", "image_size": 48, "max_size": 48, "anchors": [16, 24, 32, 48, 64]}
SIZES = {"channels": 16, "head_width": 16, "proposals": 20, "sampled_boxes": 16}


def config(source=None, **detect) -> Config:
    recipe = {"epochs": 1, "batch_size": 4, "workers": {"num_cpus": 1}, "infer_workers": {"rows_per_part": 4}}
    scenes = {"kind": "bird_scenes", "train_scenes": 10, "test_scenes": 6, "size": 48, "classes": 2}
    return build(
        {
            "ingest": {"source": source or scenes},
            "run": {"max_error_share": 0.2},
            "detect": {"model": {**TINY, **SIZES}, "aspects": "truth", "score_threshold": 0, **recipe, **detect},
        }
    )


@pytest.mark.slow
def test_a_detector_is_trained_and_scored_with_and_without_aspects(tmp_path, ray_session_of_two):
    flow = Run(RunContext(config(), str(tmp_path / "run"), NoTracking()))
    rows = flow.table("samples").read().to_pylist()
    for split, place in (("train", 3), ("test", 1)):
        Path([row for row in rows if row["split"] == split][place]["uri"]).write_bytes(b"damaged")
    detector, detections = flow.table("detector"), flow.table("detections")
    assert detector.read().schema.equals(schemas.DETECTOR_TARGETS)
    assert (detector.rows, detector.failures, detector.extra["questions"]) == (10, {"not_an_image": 1}, 32)
    annotated = json.loads(Path(rows[-1]["uri"]).parents[1].joinpath("annotations/train.json").read_text())
    by_image = [sum(entry["image_id"] == n for entry in annotated["annotations"]) for n in range(10)]
    learned = detector.read()
    assert learned["objects"].to_pylist() == [None if n == 3 else count for n, count in enumerate(by_image)]
    assert learned["aspects"].to_pylist() == [None if n == 3 else count > 0 for n, count in enumerate(by_image)]
    found = detections.read()
    assert found.schema.equals(schemas.DETECTIONS)
    assert (detections.rows, detections.failures, detections.parts) == (6, {"not_an_image": 1}, 2)
    results = json.loads(Path(detections.path("results.json")).read_text())
    assert len(results) == pc.list_value_length(found["scores"]).drop_null().to_numpy().sum() > 0
    assert {"AP", "AP50", "AP75"} <= set(detections.extra["metrics"])

    assert Run(flow.context).table("detections") == detections  # found, not computed again
    base = Run(RunContext(config(alpha=0, questions=3), flow.context.folder, NoTracking()))
    assert base.table("detector").extra["questions"] == 0
    assert base.table("detector").fingerprint != detector.fingerprint
    assert detector.extra["parameters"] - base.table("detector").extra["parameters"] == 32 * (96 + 1)


@pytest.mark.parametrize(
    ("source", "detect", "message"),
    [
        ({"kind": "field_guide"}, {}, "ingest.source.kind = field_guide: a detector needs photos with boxes"),
        ({"kind": "coco", "path": "/nothing"}, {}, "ingest.source.path = /nothing: there is nothing"),
        ({"kind": "coco", "path": "."}, {}, "detect.aspects = truth: only drawn scenes"),
        (None, {"split": "val"}, "detect.split = val: the splits of COCO files are train and test"),
        (None, {"test_split": "train"}, "detect.test_split = train: the detector learns on it"),
        (None, {"split": "test", "test_split": "train", "aspects": "mllm"}, "aspects.split = train: .*= test"),
        (None, {"model": {"backbone": "resnet19"}}, "detect.model.backbone = resnet19"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(source, detect, message):
    def check() -> None:
        made = config(source, **detect)
        check_place(made.ingest.source)
        check_detection(made)

    with pytest.raises(ValueError, match=message):
        check()
    check_detection(config())


def test_pretrained_weights_that_nobody_has_are_missed_before_anything_starts(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"detect\.pretrained: the hub did not give timm/"):
        check_detection(config(pretrained=True, model={"backbone": "resnet18"}))


@pytest.mark.parametrize("source", [{"kind": "coco", "path": "."}, {"kind": "bird_scenes"}])
def test_photos_with_boxes_keep_their_bottom(source):
    cut = build({"ingest": {"source": source, "limits": {"cut_bottom": 20}}, "detect": {"alpha": 0}})
    with pytest.raises(ConfigError, match=r"ingest\.limits\.cut_bottom = 20: .*leave it at 0"):
        check_detection(cut)


def test_the_questions_of_true_answers_decide_the_detector(monkeypatch):
    def fingerprint(**detect) -> str:
        made = config(**detect)
        return fingerprint_of("detector", decides(made.detect, made), [])

    variants = ({}, {"aspects": "mllm"}, {"alpha": 0})
    truth, mllm, none = (fingerprint(**variant) for variant in variants)
    monkeypatch.setattr("pipelines.detect.QUESTIONS", [replace(QUESTIONS[0], text="Is it new?"), *QUESTIONS[1:]])
    assert fingerprint() != truth
    assert [fingerprint(**variant) for variant in variants[1:]] == [mllm, none]


def test_more_questions_than_there_are(tmp_path):
    flow = Run(RunContext(config(questions=33), str(tmp_path), NoTracking()))
    with pytest.raises(ConfigError, match=r"detect\.questions = 33: only 32 questions were asked"):
        _ = flow.table("detector")
