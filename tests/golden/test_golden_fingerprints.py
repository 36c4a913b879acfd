"""What decides each table of four runs, and its fingerprint: a change here is a run folder that is computed anew.

Each golden file holds, per table, what decides it as plain JSON, the tables it reads, and the fingerprint of that; so
a failure says which value changed. Paths of this machine stand there as `{place}`, and model names on the hub have a
made-up commit. Where a change is meant, this writes the files anew, whose diff goes with a line in CHANGELOG.md:

    FGVR_REWRITE_GOLDEN=1 python -m pytest tests/golden/test_golden_fingerprints.py
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.fingerprint import fingerprint_of, plain
from fgvr.config import Config, build
from fgvr.config.load import read_preset
from fgvr.config.tree import default_kinds, merge
from pipelines.command import PRESETS
from tests.golden import golden
from tests.pipelines.stage_prints import asking, made_light

SERVER = {"kind": "openai", "model": "big", "base_url": "http://gpu:8000/v1"}
FULL = (
    *("samples", "labels", "embeddings", "candidates", "near", "questions", "aspects"),
    *("base", "makd", "predictions", "report"),
)
ALL_METHODS = ["mllm", "zs_clip", "zs_wordnet", "cased", "prototypes", "finer", "findr", "near", "base", "makd"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

FILES = {
    "photos.csv": "uri,split\na.jpg,train\nb.jpg,test\n",
    "questions.txt": "Is it red?\nIs it blue?\n",
    "captions.txt": "a gull\na tern\n",
    "nouns": "gull n 1 0 1 0 00000000\n",
    "aliases.csv": "answer,label\ngull,Gull\n",
    "prices.yaml": "date: 2026-01-01\nsource: a list\n",
    "sentences/modules.json": "[]",
    "sentences/model.safetensors": "weights",
}

EVERYTHING: dict[str, Any] = {
    "run": {"name": "everything"},
    # The one drawn source with boxes, for the detector.
    "ingest": {"source": {"kind": "bird_scenes"}, "limits": {"cut_bottom": 20, "allowed_roots": ["s3://photos"]}},
    "label": {
        "images": {"max_images": 6, "per_class": 10},
        "samples": 2,
        "listed": 3,
        "answer": "structured",
        "temperature": 0.7,
        "aliases": "{place}/aliases.csv",
        "merge_similarity": 0.9,
        "merge_model": "{place}/sentences",
        "duplicate_similarity": 0.98,
    },
    "neighbours": {"method": "ivf"},
    "candidates": {"method": "adaptive", "weights": "similarity"},
    "near": {"loss": "gce", "views": 3, "context_init": "a photo of a", "validation_share": 0.2},
    "questions": {"file": "{place}/questions.txt"},
    # From `weights` to `lr`, `aspects` and `label.images.per_class`: what the demo's preset said when this was written.
    "makd": {
        "distillation": {"kind": "dkd", "teacher": "mllm"},
        "precision": "fp32",
        "weights": None,
        "target": "auto",
        "min_crop": 0.5,
        "epochs": 20,
        "lr": 0.2,
    },
    "aspects": {"max_images": 20_000},
    "detect": {"aspects": "mllm", "pretrained": True},
    "evaluate": {
        "methods": ALL_METHODS,
        "sentence_model": "{place}/sentences",
        "prices": "{place}/prices.yaml",
    },
    "baselines": {
        "wordnet": {"path": "{place}/nouns"},
        "cased": {"captions": "{place}/captions.txt"},
        "prototypes": {"views": 4},
        "finer": {"llm": SERVER},
        "findr": {"category": None},
    },
}
PHOTOS = {
    "ingest": {"source": {"kind": "table", "path": "{place}/photos.csv"}},
    "questions": {"file": "{place}/questions.txt"},
    "makd": {"target": "near"},  # as `auto` has it of photos without classes: those of the made-up samples have some
    "evaluate": {"sentence_model": "{place}/sentences"},
}
MORE = ("duplicates", "class_scores", "detector", "detections", "report")
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "demo": ("demo", {"evaluate": {"sentence_model": "{place}/sentences"}}, FULL),
    "photos": ("photos", PHOTOS, FULL),
    "everything": ("demo", EVERYTHING, (*FULL[:-1], *MORE)),
    # The one thing that does not go with the rest of everything.
    "looks": ("photos", merge(PHOTOS, {"aspects": {"with_labels": True}}), ("looks", *FULL)),
}
"""Golden file → preset, what is set besides, and the tables that are asked for."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The files that the configs name."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    made_light(monkeypatch)

    def on_the_hub(name: str, file: str, revision: str | None = None) -> Path:
        return Path("/hub", name, revision or COMMIT, file)

    monkeypatch.setattr("fgvr.hub.file_of", on_the_hub)


@pytest.mark.parametrize("case", sorted(CASES))
def test_fingerprints(case: str, place: Path) -> None:
    preset, given, wanted = CASES[case]
    filled = json.loads(json.dumps(given).replace("{place}", str(place)))
    config = build(merge(merge(default_kinds(Config), read_preset(preset, PRESETS)), filled))
    asked = asking(config, place / "run", wanted)
    known: dict[str, str] = {}
    stages: dict[str, Any] = {}
    for name, decides in asked.deciding.items():
        said = json.loads(json.dumps(plain(decides)).replace(str(place), "{place}"))
        inputs = [SimpleNamespace(name=table, version=f"{known[table]}.0") for table in asked.reading[name]]
        known[name] = fingerprint_of(name, said, inputs)  # type: ignore[arg-type]
        stages[name] = {"fingerprint": known[name], "inputs": asked.reading[name], "decides": said}
    golden.check(f"fingerprints_{case}", stages)
