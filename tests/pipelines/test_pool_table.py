"""The table `pool` on planted vectors: who names a photo, and how much it counts; without Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from fgvr import schemas
from fgvr.clip.source import find_clip
from fgvr.config import build
from fgvr.config.models import Clip
from fgvr.models.near import ClassFeatures, NearModel
from fgvr.neighbours.discovery import discovery_vectors
from fgvr.tables import Table
from pipelines.checked import CHECKED, CHECKED_FILE
from pipelines.registry import stage_of
from pipelines.run_tables import Look
from pipelines.student_images import asked_of, learned_from_vectors, learned_rows, namer, scope
from pipelines.student_task import assembled, class_names, student_tables, student_task
from tests.pipelines.planted_run import CLASSES, DIM, TRAIN, UNEMBEDDED, UNLABELLED, planted, run_of, written


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[dict[str, Table], np.ndarray]:
    return planted(tmp_path_factory.mktemp("given"))


def rows_of(given, folder: Path, **makd: Any) -> tuple[dict[int, dict], Table]:
    run = run_of(given, folder, makd={"target": "label_prototypes", **makd})
    table = run.table("pool")
    return {row["image_id"]: row for row in table.read().to_pylist()}, table


def test_prototypes_name_the_whole_split_though_people_gave_no_class(given, tmp_path):
    rows, table = rows_of(given, tmp_path)
    assert list(rows) == list(range(TRAIN))
    assert rows[UNEMBEDDED]["error"]["reason"] == "no_input"
    assert rows[UNEMBEDDED]["weight"] is None
    named = [row for row in rows.values() if row["error"] is None]
    assert {(len(row["label_ids"]), row["probabilities"][0], row["weight"]) for row in named} == {(1, 1.0, 1.0)}
    assert {row["kind"] for row in named} == {"label_prototypes"}
    right = [CLASSES[row["label_ids"][0]] == CLASSES[given[1][row["image_id"]]] for row in named]
    assert np.mean(right) > 0.9  # one label in five is wrong
    assert rows[UNLABELLED]["label_ids"] == [given[1][UNLABELLED]]  # though the MLLM named nothing there
    assert table.extra["by"] == "label_prototypes"
    assert table.failed == 1
    assert table.extra["metrics"]["label_prototypes"] == TRAIN - 1
    assert table.extra["metrics"]["names_without_images"] == 0


def test_probabilities_and_confidence(given, tmp_path):
    rows, _ = rows_of(given, tmp_path, target_temperature=2, target_weights="confidence")
    for row in rows.values():
        if row["error"] is None:
            assert len(row["label_ids"]) == 4
            assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
            assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
            assert row["probabilities"][0] <= row["weight"] <= 1  # the temperature softens what is learned, not trust


def test_who_disagrees_with_the_mllm_counts_less(given, tmp_path):
    run = run_of(given, tmp_path, makd={"target": "label_prototypes", "target_weights": "agreement"})
    # The report compares heads, too: so its model votes.
    assert "heads" in stage_of("pool").reads(run)
    rows = {row["image_id"]: row for row in run.table("pool").read().to_pylist()}
    said = dict(enumerate(run.table("labels").read(["label_id"])["label_id"].to_pylist()))
    heads = {row["image_id"]: row["named"] for row in run.table("heads").read().to_pylist()}
    for number, row in rows.items():
        if row["error"] is None:
            name, votes = row["label_ids"][0], [heads[number] == CLASSES[row["label_ids"][0]]]
            votes += [] if said[number] is None else [said[number] == name]
            assert row["weight"] == pytest.approx((1 + sum(votes)) / (1 + len(votes)))
    assert {round(row["weight"], 2) for row in rows.values() if row["error"] is None} > {1.0}


def test_suspicious_labels_count_less_where_they_are_learned(given, tmp_path):
    run = run_of(given, tmp_path, makd={"target": "label_prototypes", "target_weights": "issues"})
    rows = {row["image_id"]: row for row in run.table("pool").read().to_pylist()}
    issues = {row["image_id"]: row for row in run.table("issues").read().to_pylist()}
    for number, row in rows.items():
        if row["error"] is None:
            issue = issues[number]
            same = issue["label"] == CLASSES[row["label_ids"][0]] and issue["score"] is not None
            assert row["weight"] == pytest.approx(1 - issue["score"] if same else 1.0, abs=1e-6)


def test_for_semi_supervised_students_it_says_whose_name_is_trusted(given, tmp_path):
    run = run_of(given, tmp_path, makd={"target": "label_prototypes", "trainer": "semi"})
    rows = {row["image_id"]: row for row in run.table("pool").read().to_pylist()}
    issues = {row["image_id"]: row for row in run.table("issues").read().to_pylist()}
    said = dict(enumerate(run.table("labels").read(["label_id"])["label_id"].to_pylist()))
    seen = set()
    for number, row in rows.items():
        if row["error"] is not None:
            assert row["standing"] is None
            continue
        expected = "agreed"
        if issues[number]["neighbours_name"] is not None:
            expected = "suspicious"
        if said[number] != row["label_ids"][0]:
            expected = "disagreed"
        if said[number] is None:
            expected = "unasked"
        assert row["standing"] == expected
        seen.add(expected)
    assert seen >= {"agreed", "disagreed", "unasked"}
    right = [
        CLASSES[row["label_ids"][0]] == CLASSES[given[1][n]] for n, row in rows.items() if row["standing"] == "agreed"
    ]
    assert np.mean(right) > 0.95
    task = student_task(run, run.config.makd)
    made = assembled(run, replace(task, settings=task.settings.model_copy(update={"alpha": 0.0})))
    trusted = [row["standing"] == "agreed" for row in rows.values() if row["error"] is None]
    assert (made.examples.classes != -1).sum() == sum(trusted)
    assert len(made.examples) == len(rows)  # the others learn from pseudo-labels
    assert not made.examples.held_out[made.examples.classes == -1].any()
    assert made.table({})["error"].null_count == len(rows)
    plain = run_of(given, tmp_path, makd={"target": "label_prototypes"}).table("pool")
    assert plain.read(["standing"])["standing"].null_count == len(rows)


def test_what_a_person_has_checked_stays_and_weighs_most(given, tmp_path):
    tables, truth = given
    labels = tables["labels"].read()
    wrong = int(np.flatnonzero(np.array(labels["label_id"].fill_null(-1).to_pylist()) != truth[:TRAIN])[0])
    place = tmp_path / "of a person"
    checked = written(place, "labels", labels, {CHECKED: 1})
    for name in ("label_space.json", "aliases.csv"):
        Path(checked.path(name)).write_bytes(Path(tables["labels"].path(name)).read_bytes())
    np.save(Path(checked.path(CHECKED_FILE)), np.array([wrong]))
    checked.commit()
    rows, _ = rows_of(({**tables, "labels": checked}, truth), tmp_path, checked_weight=5, target_weights="confidence")
    own = labels["label_id"].to_pylist()[wrong]
    assert (rows[wrong]["kind"], rows[wrong]["label_ids"], rows[wrong]["weight"]) == ("checked", [own], 5.0)
    assert max(row["weight"] for row in rows.values() if row["weight"] and row["image_id"] != wrong) <= 1
    other = rows_of(({**tables, "labels": checked}, truth), tmp_path, checked_weight=6, target_weights="confidence")[0]
    assert other[wrong]["weight"] == 6.0


def test_settled_names_of_near_stay(given, tmp_path):
    run = run_of(given, tmp_path, makd={"target": "near"})
    settled = [{"image_id": n, "label_ids": [3], "weights": [1.0], "label_id": 3} for n in range(3)]
    near = written(tmp_path / "made", "near", pa.Table.from_pylist(settled, schema=schemas.DISAMBIGUATED))
    features = np.zeros((4, DIM), np.float32)  # all names are equally near, so that the first one is said
    classes = ClassFeatures(CLASSES, features, 10.0)
    NearModel(classes, torch.zeros(1, 1), find_clip(Clip(model="demo"))).save(Path(near.path("model")))
    near.commit()
    run.tables["near"] = near
    rows = {row["image_id"]: row for row in run.table("pool").read().to_pylist()}
    # The model finds four names equally probable, and so the settled one: that it is settled makes it no surer.
    assert rows[0]["weight"] == 1.0
    assert [(rows[n]["label_ids"], rows[n]["kind"]) for n in (0, 2, 3)] == [
        ([3], "settled"),
        ([3], "settled"),
        ([0], "near"),
    ]


def test_another_rule_is_another_table_and_the_same_is_found(given, tmp_path):
    first = rows_of(given, tmp_path)[1]
    assert rows_of(given, tmp_path)[1].uri == first.uri
    assert rows_of(given, tmp_path, checked_weight=9)[1].uri == first.uri  # nobody has checked anything
    for other in ({"target_temperature": 2}, {"target_weights": "agreement"}, {"pool": 30, "images": "pool"}):
        changed = {"aspects": {"max_images": 20}} if "pool" in other else {}
        run = run_of(given, tmp_path, makd={"target": "label_prototypes", **other}, **changed)
        assert run.table("pool").uri != first.uri


def test_which_images_students_learn_from(given, tmp_path):
    def of(**parts: Any) -> Any:
        return run_of(given, tmp_path, **parts)

    few = {"aspects": {"max_images": 12}}
    true = of(**few)
    assert scope(true.config, true.photos) == "asked"
    assert learned_rows(true).num_rows == 12
    named = of(makd={"target": "heads", "pool": 40}, **few)
    assert scope(named.config, named.photos) == "pool"
    pool = set(learned_rows(named)["image_id"].to_pylist())
    assert len(pool) == 40
    assert set(asked_of(named, "train", "").tolist()) <= pool
    assert class_names(named) == CLASSES
    assert "pool" in student_tables(named, named.config.makd)
    whole = of(makd={"target": "heads", "images": "all", "pool": 2}, **few)
    assert learned_rows(whole).num_rows == TRAIN


def test_aspects_are_asked_of_the_images_that_were_chosen_for_labels(given, tmp_path):
    chosen = [1, 5, 8, 13, 21, 34]
    rows = [{"image_id": n, "round": 1, "why": "medoid"} for n in chosen]
    for most in (4, 6, 20, None):
        run = run_of(
            given,
            tmp_path,
            label={"images": {"select": "medoids", "max_images": 6}},
            aspects={"max_images": most},
        )
        run.tables["selected"] = written(tmp_path / "chosen", "selected", pa.Table.from_pylist(rows, schemas.SELECTED))
        asked = asked_of(run, "train", "aspects.split").tolist()
        assert len(asked) == (most or TRAIN)
        assert (set(asked) <= set(chosen)) if most == 4 else (set(chosen) <= set(asked))
        assert "selected" in stage_of("aspects").consults(run)
        assert "selected" in stage_of("base").consults(run)


def test_confidence_is_that_of_the_name_that_is_learned(given, tmp_path):
    """NeaR has settled a name that its own model finds improbable."""
    run = run_of(given, tmp_path, makd={"target": "near", "target_weights": "confidence"})
    vectors = np.asarray(discovery_vectors(run.table("embeddings"), np.arange(2))[0], np.float32)
    classes = ClassFeatures(("first", "second"), np.stack([vectors[0], -vectors[0]]), 2.0)
    settled = [{"image_id": 0, "label_ids": [1], "weights": [1.0], "label_id": 1}]
    near = written(tmp_path / "made", "near", pa.Table.from_pylist(settled, schema=schemas.DISAMBIGUATED))
    NearModel(classes, torch.zeros(1, 1), find_clip(Clip(model="demo"))).save(Path(near.path("model")))
    near.commit()
    run.tables["near"] = near
    row = run.table("pool").read().to_pylist()[0]
    assert (row["label_ids"], row["kind"]) == ([1], "settled")
    assert row["weight"] == pytest.approx(1 / (1 + np.exp(4)), rel=1e-2)


def test_no_more_images_than_the_pool_may_hold_are_learned(given, tmp_path):
    chosen = [{"image_id": n, "round": 1, "why": "medoid"} for n in range(40, 52)]
    run = run_of(
        given,
        tmp_path,
        label={"images": {"select": "medoids", "max_images": 12}},
        aspects={"max_images": 12},
        makd={"target": "heads", "pool": 30},
    )
    run.tables["selected"] = written(tmp_path / "chosen", "selected", pa.Table.from_pylist(chosen, schemas.SELECTED))
    learned_ids = set(learned_rows(run)["image_id"].to_pylist())
    assert len(learned_ids) == 30
    assert {row["image_id"] for row in chosen} <= learned_ids
    assert learned_ids <= set(learned_from_vectors(run).tolist()) | {row["image_id"] for row in chosen}


def test_a_pool_in_which_no_name_is_sure_is_told(given, tmp_path):
    """A model that finds 80 names equally probable: each of them counts an eightieth."""
    run = run_of(given, tmp_path, makd={"target": "near", "target_weights": "confidence"})
    names = tuple(f"kind {number}" for number in range(80))
    near = written(tmp_path / "made", "near", pa.Table.from_pylist([], schema=schemas.DISAMBIGUATED))
    classes = ClassFeatures(names, np.zeros((80, DIM), np.float32), 10.0)
    NearModel(classes, torch.zeros(1, 1), find_clip(Clip(model="demo"))).save(Path(near.path("model")))
    near.commit()
    run.tables["near"] = near
    table = run.table("pool")
    assert table.extra["metrics"]["mean_weight"] == pytest.approx(1 / 80, rel=0.05)
    assert table.extra["metrics"]["names_without_images"] == 79  # all photos have the first one
    assert any("count 0.01 on average" in line for line in table.extra["remarks"])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, "near"),
        ({"embed": {"vectors": {"kind": "timm", "model": "resnet18"}}}, "heads"),
        ({"makd": {"target": "label_prototypes"}}, "label_prototypes"),
    ],
)
def test_who_names_where_nobody_says_it(parts, expected):
    assert namer(build(parts)) == expected


def test_a_table_that_is_not_there_yet_is_not_read_to_know_what_is_needed(tmp_path):
    look = Look(
        build({"makd": {"target": "heads"}, "ingest": {"source": {"kind": "folder", "path": "x"}}}), str(tmp_path)
    )
    assert "pool" in list(student_tables(look, look.config.makd))
