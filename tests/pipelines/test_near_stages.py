"""embed, candidates and near one after the other, with Ray and the demo's CLIP; the MLLM's labels written by hand."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file

from cluster.stage import RunContext
from fgvr import storage, tables
from fgvr.config import ConfigError, build
from fgvr.config.base import TrainWorkers
from fgvr.images.read import read_image
from fgvr.models.infer import load_classifier
from fgvr.schemas import LABELS
from fgvr.tables import Table
from pipelines.run_tables import Run
from tests.untracked import NoTracking

pytestmark = pytest.mark.slow

BROKEN = 60
"""The training image that is none."""


def context_of(folder: Path, **parts) -> RunContext:
    workers = {"num_cpus": 1, "rows_per_part": 100}
    values = {
        "run": {"folder": str(folder), "max_error_share": 0.1},
        "tracking": {"log_models": False},
        "ingest": {"source": {"kind": "field_guide", "train_per_class": 4, "test_per_class": 1}},
        "embed": {"workers": workers},
        "near": {"epochs": 3, "batch_size": 512, "lr": 0.02, "workers": {"num_cpus": 1}},
    }
    return RunContext(build(values | parts), str(folder), NoTracking())


def write_labels(folder: Path, samples: Table) -> Table:
    """Three of four labels are right, the others a sibling's; every tenth answer was a refusal."""
    rows = [row for row in samples.read().to_pylist() if row["split"] == "train"]
    space = sorted({row["class_name"] for row in rows})
    content = []
    for place, row in enumerate(rows):
        right = space.index(row["class_name"])
        label = None if place % 10 == 9 else right if place % 4 else (right + 1) % len(space)
        error = {"reason": "refused", "detail": "no"} if label is None else None
        name = None if label is None else space[label]
        own = {"candidate_ids": [] if label is None else [label], "candidate_weights": [] if label is None else [1.0]}
        facts = {"image_id": row["image_id"], "raw": "x", "label": name, "label_id": label, "error": error}
        content.append(facts | own)
    table = Table(str(folder / "labels"), "labels", "f", len(content), 0, 1, len(content), 0.0)
    tables.write_part(table.uri, 0, pa.Table.from_pylist(content, schema=LABELS))
    space_file = {"labels": space, "counts": [1] * len(space)}
    storage.write_bytes(table.path("label_space.json"), json.dumps(space_file).encode())
    table.commit()
    return table


@dataclass(frozen=True)
class Embedded:
    """What near needs, for the tests of this file together."""

    context: RunContext
    samples: Table
    embeddings: Table
    labels: Table
    sets: Table

    def near(self, context: RunContext) -> Table:
        tables = (self.samples, self.labels, self.embeddings, self.sets)
        return Run(context, {table.name: table for table in tables}).table("near")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, ray_session_of_two: None) -> Embedded:
    """A run up to the candidate sets, with a training image that is none."""
    folder = tmp_path_factory.mktemp("near")
    context = context_of(folder / "run")
    run = Run(context)
    samples = run.table("samples")
    Path(samples.read(["uri"])["uri"].to_pylist()[BROKEN]).write_bytes(b"not an image")
    embeddings, labels = run.table("embeddings"), write_labels(folder, samples)
    run.tables["labels"] = labels
    return Embedded(context, samples, embeddings, labels, run.table("candidates"))


def test_from_images_to_a_model(embedded, tmp_path):
    embeddings = embedded.embeddings
    assert (embeddings.rows, embeddings.failed, embeddings.failures) == (180, 1, {"not_an_image": 1})
    assert embeddings.extra["dim"] == 128
    check_candidates(embedded.sets, embedded.labels)
    model = embedded.near(embedded.context)
    check_model(model, embedded.sets, embedded.samples)
    assert embedded.near(embedded.context).seconds == model.seconds  # found, not computed
    shared = embedded.context.config.near.model_copy(update={"workers": TrainWorkers(num_cpus=1, num_workers=2)})
    check_two_workers(model, embedded.near(context_of(tmp_path, near=shared.model_dump())))


def check_candidates(sets: Table, labels: Table) -> None:
    own = {row["image_id"]: row["label_id"] for row in labels.read().to_pylist()}
    facts = sets.extra["metrics"]
    for row in sets.read().to_pylist():
        near_ids, label_ids = row["neighbour_ids"], row["label_ids"]
        if row["image_id"] == BROKEN:
            assert near_ids == label_ids == row["weights"] == []
            continue
        assert len(near_ids) == len(set(near_ids)) == 3
        assert BROKEN not in near_ids
        if own[row["image_id"]] is not None:
            assert near_ids[0] == row["image_id"]
        assert None not in (found := [own[i] for i in near_ids])  # images without a label are nobody's neighbour
        assert label_ids == list(dict.fromkeys(found))
        assert row["weights"] == pytest.approx([1 / len(label_ids)] * len(label_ids))
    assert facts["without_candidates"] == 1
    assert facts["recall"] == 1
    assert facts["coverage"] > facts["true_label_accuracy"] == pytest.approx(0.75, abs=0.05)
    assert facts["true_neighbour_precision"] > 0.8


def check_model(model: Table, sets: Table, samples: Table) -> None:
    rows, candidate_rows = model.read().to_pylist(), sets.read().to_pylist()
    for row, before in zip(rows, candidate_rows, strict=True):
        assert (row["image_id"], row["label_ids"]) == (before["image_id"], before["label_ids"])
        if row["label_ids"]:
            assert row["label_id"] == row["label_ids"][int(np.argmax(row["weights"]))]
            assert sum(row["weights"]) == pytest.approx(1, abs=1e-5)
        else:
            assert row["label_id"] is None
    assert json.loads(storage.read_bytes(model.path("history.json")))[-1]["step"] == 3
    classifier = load_classifier(storage.fetch_folder(model.path("model")))
    images = [read_image(uri, build({}).ingest.limits) for uri in samples.read(["uri"])["uri"].to_pylist()[:3]]
    scores = classifier.scores(images)
    assert scores.shape == (3, 36)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def check_two_workers(one: Table, two: Table) -> None:
    """Two workers share images and names; what they learn together is the same up to rounding."""
    folders = [storage.fetch_folder(model.path("model")) for model in (one, two)]
    first, second = (load_file(folder / "model.safetensors")["context"].numpy() for folder in folders)
    assert np.linalg.norm(second - first) < 1e-4 * np.linalg.norm(first)
    for row, other in zip(one.read().to_pylist(), two.read().to_pylist(), strict=True):
        assert other["weights"] == pytest.approx(row["weights"], abs=1e-4)


def test_views_are_a_table_of_their_own(embedded, tmp_path):
    context = context_of(tmp_path, near={"epochs": 2, "batch_size": 512, "views": 3, "workers": {"num_cpus": 1}})
    embedded.near(context)
    views = next(table for table in context.tables if table.name == "views")
    assert (views.rows, views.failed, views.extra["dim"]) == (144, 1, 256)


def test_a_split_that_is_not_there_is_named(tmp_path):
    context = context_of(tmp_path / "run", embed={"splits": ["train", "tset"]})
    with pytest.raises(ConfigError, match=r"embed.splits: no image is in tset \(there are: test, train\)"):
        Run(context).table("embeddings")
