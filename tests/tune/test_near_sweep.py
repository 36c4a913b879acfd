"""What a trial of near learns from and is measured on, on random tables."""

import json

import numpy as np
import pyarrow as pa
import pytest

from fgvr import schemas, storage, tables
from fgvr.arrays import NONE
from fgvr.clip.model import load_clip
from fgvr.clip.vectors import embedding_rows
from fgvr.config import Clip, Config, build
from fgvr.models.infer import load_classifier
from fgvr.tables import Table
from fgvr.training.prompt_data import MODEL_FOLDER
from fgvr.training.reporter import LocalReporter
from tune.held_out import METRIC, VOTERS, HeldOut, draw_held_out, train_judged
from tune.near_sweep import HELD_OUT_FILE, LEARNED_FILE, Learned, NearSweep
from tune.spaces import with_values

NAMES = ["Azure Finch", "Crimson Heron", "Olive Gull", "Slate Owl"]
N, FIRST_ID = 60, 7
UNLABELLED, UNEMBEDDED = 5, 11


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """60 images around the demo CLIP's features of four names; one has no label, one no vector."""
    folder = str(tmp_path_factory.mktemp("near"))
    random = np.random.default_rng(0)
    centres = load_clip(Clip()).encode_names(NAMES, "a photo of a {}.")
    truth = np.arange(N) % len(NAMES)
    features = centres[truth] + 0.05 * random.standard_normal((N, centres.shape[1]))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    own = np.where(random.random(N) < 0.3, random.integers(0, 4, N), truth).astype(np.int32)
    own[UNLABELLED] = NONE
    ids = np.arange(N) + FIRST_ID
    named = [[] if o == NONE else [int(o)] for o in own]
    rows = [
        {"image_id": int(i), "candidate_ids": own_ids, "candidate_weights": [1.0] * len(own_ids)}
        for i, own_ids in zip(ids, named, strict=True)
    ]
    failures = [None] * N
    failures[UNEMBEDDED] = schemas.Failure(schemas.Reason.CORRUPT, "")
    labels = committed(folder, "labels", pa.Table.from_pylist(rows, schemas.LABELS))
    storage.write_bytes(labels.path("label_space.json"), json.dumps({"labels": NAMES, "counts": [1] * 4}).encode())
    embeddings = committed(folder, "embeddings", embedding_rows(ids, features, failures))
    config = build({"near": {"epochs": 3, "lr": 0.02, "batch_size": 16}})
    found = NearSweep(config, labels, embeddings, None, 46)
    return found.prepare(f"{folder}/sweep"), f"{folder}/sweep", features.astype(np.float16), own


def committed(folder, name, rows):
    uri = f"{folder}/{name}"
    tables.write_part(uri, 0, rows)
    table = Table(uri, name, "given", rows.num_rows, 0, 1, rows.num_rows, 0.0)
    table.commit()
    return table


def nearest(features, row, rows, k):
    """Row numbers of the k nearest of `rows`, by plain sorting."""
    similarities = features[rows].astype(np.float32) @ features[row].astype(np.float32)
    return rows[np.argsort(-similarities, kind="stable")[:k]]


def test_the_votes_are_those_of_an_image_and_its_nearest(sweep):
    _, folder, features, own = sweep
    known = np.array([row for row in range(N) if row not in (UNLABELLED, UNEMBEDDED)])
    flags = np.isin(np.arange(N), known)
    held = draw_held_out(flags, Config().near.seed)
    assert len(held) == 14  # a quarter of 58, rounded to even
    written = HeldOut.read(f"{folder}/{HELD_OUT_FILE}")
    np.testing.assert_array_equal(written.features, features[held])
    for row, votes in zip(held, written.votes, strict=True):
        assert votes[0] == own[row]
        assert sorted(votes) == sorted(own[nearest(features, row, known, 1 + VOTERS)])


@pytest.mark.parametrize("k", [1, 3, 8])
def test_held_out_labels_are_nowhere_in_what_is_learned(sweep, tmp_path, k):
    found, folder, features, own = sweep
    config = with_values(found.config, {"candidates.k": k})
    job = found.training(config, folder, str(tmp_path)).job
    rows = Table.load(job.near.candidates).read()
    held = draw_held_out(~np.isin(np.arange(N), [UNLABELLED, UNEMBEDDED]), found.config.near.seed)
    learned = np.setdiff1d(np.arange(N), [*held, UNLABELLED, UNEMBEDDED])
    for row in range(N):
        candidates = rows["label_ids"][row].as_py()
        neighbours = np.array(rows["neighbour_ids"][row].as_py(), np.int64) - FIRST_ID
        assert not set(neighbours) & set(held)
        if row in held or row == UNEMBEDDED:
            assert candidates == []
        else:
            expected = nearest(features, row, learned, k)
            assert set(neighbours) == set(expected)
            assert set(candidates) == set(own[expected])
    learned_file = Learned.read(f"{folder}/{LEARNED_FILE}")
    assert learned_file.neighbours.shape == (N, 12)  # the largest k, for all trials at once


def test_the_reported_objective_is_that_of_the_model(sweep, tmp_path):
    found, folder, _, _ = sweep
    training = found.training(found.config, folder, str(tmp_path))
    assert training.loop is train_judged
    reporter = LocalReporter(tmp_path / "run")
    training.loop(training.job, reporter)
    scores = [report[METRIC] for report in reporter.history]
    assert [report["epoch"] for report in reporter.history][-1] == 3
    model = load_classifier(reporter.checkpoint / MODEL_FOLDER)
    held = HeldOut.read(f"{folder}/{HELD_OUT_FILE}")
    predicted = model.scores_from_features(held.features).argmax(axis=1)
    shares = [(votes == label).sum() / len(votes) for votes, label in zip(held.votes, predicted, strict=True)]
    assert scores[-1] == pytest.approx(np.mean(shares))


def test_swept_fields_do_not_name_the_sweep(sweep):
    found = sweep[0]
    recipe = found.decides["recipe"]
    assert not set(recipe) & set(found.space())
    assert {"near.epochs", "near.momentum", "candidates.method"} <= set(recipe)
    assert not {"near.workers", "near.checkpoint_steps"} & set(recipe)
