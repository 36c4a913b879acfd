"""What a trial of heads learns from and is measured on, on planted vectors; without Ray."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from fgvr import schemas, storage, tables
from fgvr.arrays import NONE
from fgvr.clip.vectors import embedding_rows
from fgvr.config import ConfigError, build
from fgvr.mllm.backend import NameAnswer
from fgvr.mllm.scoring_workers import choice_rows
from fgvr.models.head import load_vector_classes
from fgvr.selection.whitening import fit_whitening
from fgvr.tables import Table
from fgvr.training.reporter import LocalReporter
from tests.fgvr.heads.planted_rows import random_vectors
from tune.heads_sweep import MODEL_FOLDER, HeadsSweep, train_head_judged
from tune.held_out import METRIC, HeldOut, draw_held_out
from tune.near_sweep import HELD_OUT_FILE
from tune.spaces import start_of, with_values
from tune.sweep import Options, check

NAMES = ["Azure Finch", "Crimson Heron", "Olive Gull", "Slate Owl", "Never Said"]
N, FIRST_ID, DIM = 60, 7, 16


def committed(folder, name, rows):
    table = Table(f"{folder}/{name}", name, "given", rows.num_rows, 0, 1, rows.num_rows, 0.0)
    tables.write_part(table.uri, 0, rows)
    table.commit()
    return table


def labels_of(folder, own):
    rows = [
        {"image_id": n + FIRST_ID, "candidate_ids": [int(o)], "candidate_weights": [1.0]} for n, o in enumerate(own)
    ]
    labels = committed(folder, "labels", pa.Table.from_pylist(rows, schemas.LABELS))
    storage.write_bytes(labels.path("label_space.json"), json.dumps({"labels": NAMES, "counts": [1] * 5}).encode())
    return labels


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder, rng = str(tmp_path_factory.mktemp("heads")), np.random.default_rng(0)
    truth = np.arange(N) % 4
    vectors = random_vectors(4, DIM, seed=5)[truth] + 0.1 * rng.normal(size=(N, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    own = np.where(rng.random(N) < 0.2, rng.integers(0, 4, N), truth)
    embeddings = committed(folder, "embeddings", embedding_rows(np.arange(N) + FIRST_ID, vectors, [None] * N))
    space = committed(folder, "space", pa.table({"direction": list(range(DIM))}))
    storage.write_bytes(space.path("whitening.npz"), fit_whitening(vectors.astype(np.float16)).to_bytes())
    config = build({"heads": {"steps": 60}, "clip": {"model": "demo"}})
    made = HeadsSweep(config, labels_of(folder, own), embeddings, space)
    return made.prepare(f"{folder}/sweep"), f"{folder}/sweep", own


def trained(sweep, folder, values, tmp_path):
    found = sweep.training(with_values(sweep.config, values), folder, str(tmp_path / "trial"))
    assert found.loop is train_head_judged
    reporter = LocalReporter(tmp_path / "reported")
    found.loop(found.job, reporter)
    return reporter


def test_names_that_a_second_look_put_in_place_are_held_out_and_learned(sweep, tmp_path):
    """The label of every image of the fourth name is replaced by the first."""
    made, _, own = sweep
    images = np.flatnonzero(own == 3)
    answers = [NameAnswer(np.array([-2.0, -0.5], np.float32)) for _ in images]
    rows = choice_rows((images + FIRST_ID).tolist(), [(NAMES[3], NAMES[0])] * len(images), answers)
    asked = replace(made, reasked=committed(str(tmp_path), "reasked", rows))
    assert asked.inputs[-1].name == "reasked"
    folder = str(tmp_path / "sweep")
    asked.prepare(folder)
    assert set(HeldOut.read(f"{folder}/{HELD_OUT_FILE}").votes.ravel()) <= {0, 1, 2, NONE}
    reporter = trained(asked, folder, {}, tmp_path)
    assert load_vector_classes(reporter.checkpoint / MODEL_FOLDER).labels == tuple(NAMES[:3])


@pytest.mark.parametrize("values", [{}, {"heads.network": "linear", "heads.loss": "ce"}, {"heads.whiten": False}])
def test_a_trial_reports_the_share_of_held_out_votes_once(sweep, tmp_path, values):
    made, folder, own = sweep
    reporter = trained(made, folder, values, tmp_path)
    assert [row["epoch"] for row in reporter.history] == [1.0]
    held = draw_held_out(np.ones(N, bool), made.config.heads.seed)
    stored = HeldOut.read(f"{folder}/{HELD_OUT_FILE}")
    np.testing.assert_array_equal(stored.votes[:, 0], own[held])
    classes = load_vector_classes(reporter.checkpoint / MODEL_FOLDER)
    said = [NAMES.index(classes.labels[best]) for best in classes.scores(stored.features).argmax(axis=1)]
    shares = [
        np.mean([vote == name for vote in votes if vote != NONE])
        for votes, name in zip(stored.votes, said, strict=True)
    ]
    assert reporter.history[0][METRIC] == pytest.approx(np.mean(shares))
    assert reporter.history[0][METRIC] > 0.5
    assert (classes.whitening is None) == (values.get("heads.whiten") is False)


def test_labels_of_held_out_images_teach_nothing(sweep, tmp_path):
    made, folder, own = sweep
    held = draw_held_out(np.ones(N, bool), made.config.heads.seed)
    other = own.copy()
    other[held] = (own[held] + 1) % 4
    changed = HeadsSweep(made.config, labels_of(str(tmp_path), other), made.embeddings, made.whitened)
    first, second = (
        load_vector_classes(trained(each, folder, {}, tmp_path / str(n)).checkpoint / MODEL_FOLDER)
        for n, each in enumerate((made, changed))
    )
    vectors = random_vectors(5, DIM)
    np.testing.assert_array_equal(first.scores(vectors), second.scores(vectors))


def test_the_space_follows_the_config_and_decides_without_what_it_varies(sweep):
    made, _, _ = sweep
    assert set(made.space()) == {"heads.lr", "heads.loss", "heads.network", "heads.whiten"}
    assert start_of(made.config, made.space())["heads.loss"] == "gce"
    assert "heads.loss" not in made.decides["recipe"]
    assert made.decides["recipe"]["heads.steps"] == 60
    texts = HeadsSweep(build({"heads": {"start": "text"}}), made.labels, made.embeddings, made.whitened)
    assert set(texts.space()) == {"heads.lr", "heads.loss"}


def test_losses_of_candidate_sets_are_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"heads\.loss = proden"):
        check(build({"heads": {"loss": "proden"}}), Options("heads"))
