"""candidates and issues as stages, without Ray: tables of clustered photos written by hand, all else for real."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from cluster.stage import RunContext
from fgvr import schemas, storage, tables
from fgvr.arrays import NONE
from fgvr.candidates.sets import CandidateSets
from fgvr.clip.vectors import embedding_rows
from fgvr.config import ConfigError, build
from fgvr.mllm.backend import NameAnswer
from fgvr.mllm.scoring_workers import choice_rows
from fgvr.names.checked import CheckedError
from fgvr.names.label_space import LabelSpace
from fgvr.tables import Table
from pipelines import beliefs
from pipelines.reask import asked_again, choices_of
from pipelines.registry import stage_of
from tests.fgvr.beliefs.noisy_clusters import planted
from tests.given_run import GivenRun
from tests.untracked import NoTracking

CLASSES, EACH = 8, 20
NAMES = [f"Bird {number}" for number in range(CLASSES)]
DATA = planted(0, CLASSES, EACH)
COUNT = len(DATA.own)


class ClusteredRun(GivenRun):
    """A run whose photos lie in clusters, with labels of which a third is wrong."""

    def write(self, name: str, rows: pa.Table, **facts) -> Table:
        table = Table(str(Path(self.folder) / name), name, "f", rows.num_rows, 0, 1, rows.num_rows, 1.0, **facts)
        tables.write_part(table.uri, 0, rows)
        table.commit()
        return table

    def given_samples(self) -> Table:
        rows = [
            {"image_id": n, "uri": f"/birds/{n:03}.jpg", "split": "train", "class_name": NAMES[DATA.truth[n]]}
            for n in range(COUNT)
        ]
        return self.write("samples", pa.Table.from_pylist(rows, schemas.SAMPLES), extra={"splits": {"train": COUNT}})

    def given_answers(self) -> Table:
        rows = [
            {"image_id": n, "texts": [NAMES[DATA.own[n]]], "cut": [False], "logprobs": [-0.1]} for n in range(COUNT)
        ]
        return self.write("answers", pa.Table.from_pylist(rows, schemas.ANSWERS))

    def given_embeddings(self) -> Table:
        rows = embedding_rows(np.arange(COUNT), DATA.vectors, [None] * COUNT)
        return self.write("embeddings", rows, extra={"dim": DATA.vectors.shape[1]})


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(beliefs, "text_vectors", lambda *_: (DATA.directions, 20.0))

    def make(**parts) -> ClusteredRun:
        tree = {"ingest": {"source": {"kind": "folder", "path": str(tmp_path)}}, **parts}
        return ClusteredRun(RunContext(build(tree), str(tmp_path / "run"), NoTracking()))

    return make


def read_csv(table: Table, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(storage.read_bytes(table.path(name)).decode().splitlines()))


def heaviest_right(table: Table) -> float:
    return float(
        np.mean(
            [
                row[0] == truth
                for row, truth in zip(
                    table.read(["label_ids"])["label_ids"].to_pylist(), DATA.truth.tolist(), strict=True
                )
            ]
        )
    )


def test_the_posterior_mends_labels_and_the_guard_sees_it(run):
    table = run(candidates={"method": "posterior"}).table("candidates")
    assert (DATA.own == DATA.truth).mean() < 0.75
    assert heaviest_right(table) > 0.95
    metrics = table.extra["metrics"]
    assert metrics["true_candidate_accuracy"] > 0.95
    assert metrics["believed_label_accuracy"] == pytest.approx((DATA.own == DATA.truth).mean(), abs=0.05)
    assert table.extra["used"] == "posterior"
    guard = table.extra["guard"]
    assert guard["images"] == COUNT
    assert guard["for_sets"] >= guard["for_own"]


def test_the_audit_lists_photos_on_which_the_two_differ(run, monkeypatch):
    monkeypatch.setattr("fgvr.beliefs.guard.audit_size", lambda *_: 2)
    table = run(candidates={"method": "neighbours", "k": 10}).table("candidates")
    rows = read_csv(table, "audit.csv")
    assert len(rows) == table.extra["metrics"]["audit_photos"] == min(2, table.extra["guard"]["differ"])
    for row in rows:
        assert row["by_own_labels"] != row["by_sets"]
        assert row["uri"] == f"/birds/{int(row['image_id']):03}.jpg"
        assert row["label"] == NAMES[DATA.own[int(row["image_id"])]]
        assert row["right_name"] == ""


def test_the_guard_keeps_the_own_labels_where_sets_are_not_better(run, caplog):
    table = run(candidates={"method": "mllm", "guard": True}).table("candidates")
    assert table.extra["used"] == "single"
    assert table.extra["guard"]["differ"] == 0
    assert [ids for (ids,) in table.read(["label_ids"])["label_ids"].to_pylist()] == DATA.own.tolist()
    assert "the guard keeps the own labels" in caplog.text


@pytest.mark.parametrize("method", ["single", "random"])
def test_what_cannot_be_better_is_not_compared(run, method):
    table = run(candidates={"method": method}).table("candidates")
    assert "guard" not in table.extra
    assert table.extra["used"] == method


def test_issues_find_wrong_labels(run):
    table = run().table("issues")
    rows = table.read().to_pylist()
    assert roc_auc_score(DATA.wrong, [row["score"] for row in rows]) > 0.95
    listed = read_csv(table, "issues.csv")
    assert len(listed) == COUNT
    scores = [float(row["score"]) for row in listed]
    assert scores == sorted(scores, reverse=True)
    worst = int(listed[0]["image_id"])
    assert DATA.wrong[worst]
    assert listed[0]["suggested"].split(" | ")[0] == NAMES[DATA.truth[worst]]


def test_checked_names_hold_everywhere(run, tmp_path):
    checked = {int(n): NAMES[DATA.truth[n]] for n in np.flatnonzero(DATA.wrong)[:5]} | {159: "Bird Of Its Own"}
    file = tmp_path / "checked.csv"
    lines = [f"/birds/{n:03}.jpg,{name}" for n, name in checked.items()] + [
        "/birds/elsewhere.jpg,Wren",
        "/birds/x.jpg,Wren",
    ]
    file.write_text("\n".join(["uri,right_name", *lines, "/birds/001.jpg,"]))
    made = run(label={"checked": str(file)}, candidates={"method": "neighbours"})
    labels = made.table("labels")
    names = labels.read(["label"])["label"].to_pylist()
    assert {n: names[n] for n in checked} == checked
    assert labels.extra["checked"] == 6
    (remark,) = [said for said in labels.extra["remarks"] if "label.checked" in said]
    assert remark.startswith("label.checked: 2 of its 8 photos are none of those to label, e.g. /birds/elsewhere.jpg;")
    assert "Bird Of Its Own" in LabelSpace.from_json(storage.read_bytes(labels.path("label_space.json"))).labels
    rows = made.table("issues").read().to_pylist()
    assert {row["why"] for row in rows if row["score"] is None} == {"not judged: a person has checked it"}
    assert [row["image_id"] for row in rows if row["score"] is None] == sorted(checked)


def test_replaced_labels_are_where_candidates_start(run):
    made = run(label={"reask": 0.2}, candidates={"method": "single"})
    compared = choices_of(made)
    assert len(compared) == 32
    assert all(names[0] == NAMES[DATA.own[image]] and len(names) > 1 for image, names in compared.items())
    answers = [NameAnswer(np.array([-2.0, -0.5, -3.0][: len(names)], np.float32)) for names in compared.values()]
    made.tables["reasked"] = made.write("reasked", choice_rows(list(compared), list(compared.values()), answers))
    labels = [ids for (ids,) in made.table("candidates").read(["label_ids"])["label_ids"].to_pylist()]
    for image in range(COUNT):
        assert NAMES[labels[image]] == (compared[image][1] if image in compared else NAMES[DATA.own[image]])
    assert (np.array(labels) == DATA.truth).mean() > (DATA.own == DATA.truth).mean() + 0.1


def test_copies_of_a_photo_get_the_name_that_replaces_its_label(run, tmp_path, monkeypatch):
    file = tmp_path / "checked.csv"
    file.write_text(f"uri,right_name\n/birds/002.jpg,{NAMES[DATA.own[2]]}\n")
    made = run(label={"reask": 0.2, "checked": str(file)})
    photos = np.arange(COUNT)
    photos[[0, 1, 2]] = 1
    monkeypatch.setattr(beliefs, "photos_of", lambda *_: photos)
    compared = {0: (NAMES[DATA.own[0]], NAMES[7])}
    answers = [NameAnswer(np.array([-2.0, -0.5], np.float32))]
    made.tables["reasked"] = made.write("reasked", choice_rows([0], list(compared.values()), answers))
    first = beliefs.settled_names(made.table("labels"), beliefs.second_look(made))[1].first
    assert first[:2].tolist() == [7, 7]
    assert first[2:].tolist() == DATA.own[2:].tolist()  # a person has seen the third copy


def test_copies_of_a_photo_count_once():
    own = np.array([3, NONE, 3, 5, 5, NONE], np.int32)
    checked = np.array([NONE, NONE, NONE, NONE, 5, NONE], np.int32)
    photos = np.array([1, 1, 1, 3, 3, 5])
    there = np.array([1, 2, 3, 4, 5])
    rows, places = beliefs.one_per_photo(there, own, checked, photos)
    assert rows.tolist() == [2, 4, 5]  # with a label, checked, the only one
    assert rows[places].tolist() == [2, 2, 4, 4, 5]
    rows, places = beliefs.one_per_photo(there, own, checked, None)
    assert rows[places].tolist() == rows.tolist() == there.tolist()


def test_copies_do_not_vouch_for_each_other_in_the_posterior(run, monkeypatch):
    """Fifteen copies of a photo with a wrong label are one photo with a wrong label, and all get its name."""
    wrong = int(np.flatnonzero(DATA.wrong)[0])
    vectors, own, photos = DATA.vectors.copy(), DATA.own.copy(), np.arange(COUNT)
    copies = np.flatnonzero(DATA.truth == DATA.own[wrong])[:15]
    vectors[copies], own[copies], photos[copies] = vectors[wrong], own[wrong], wrong
    monkeypatch.setattr(beliefs, "photos_of", lambda *_: photos)
    made = run(candidates={"method": "posterior"})
    names = CandidateSets(own[:, None], np.ones((COUNT, 1), np.float32))
    belief = beliefs.TextBelief(made, names, NAMES, np.ones(COUNT, bool), vectors)
    sets = belief.sets()[0]
    assert len(belief._rows) == COUNT - 15
    assert set(sets.first[copies].tolist()) == {int(sets.first[wrong])} == {int(DATA.truth[wrong])}


def test_who_cannot_score_names_is_not_asked_again():
    config = build({"label": {"reask": 0.1}, "mllm": {"kind": "openai", "model": "x", "base_url": "http://h/v1"}})
    with pytest.raises(ConfigError, match="gives no probability of an answer that it did not give"):
        stage_of("reasked").check(config)
    first = {
        "kind": "ask",
        "prompt": "Which bird?",
        "mllm": {"kind": "openai", "model": "x", "base_url": "http://h/v1"},
    }
    config = build({"label": {"reask": 0.1, "sources": [first]}})
    with pytest.raises(ConfigError, match=r"label.sources.0.mllm.kind = openai gives no probability"):
        stage_of("reasked").check(config)
    assert stage_of("reasked").model(config) == "label.sources.0.mllm"
    assert asked_again(config).label.prompt == "Which bird?"
    with pytest.raises(ConfigError, match="nobody is asked again"):
        stage_of("reasked").check(build({}))


def test_checks_of_other_photos_are_refused(run, tmp_path):
    file = tmp_path / "checked.csv"
    file.write_text("uri,right_name\n/elsewhere.jpg,Wren\n")
    with pytest.raises(CheckedError, match="none of its 1 photos is among the 160 labelled ones"):
        run(label={"checked": str(file)}).table("labels")


def test_a_posterior_needs_a_text_tower():
    config = build({"candidates": {"method": "posterior"}, "embed": {"vectors": {"kind": "simulated"}}})
    with pytest.raises(ConfigError, match="has no text tower"):
        stage_of("candidates").check(config)
    with pytest.raises(ConfigError, match="label issues are found by what photos look like"):
        stage_of("issues").check(config)


def test_too_many_images_are_refused(run, monkeypatch):
    monkeypatch.setattr(beliefs, "MOST_BELIEVED", 100)
    with pytest.raises(beliefs.TooManyImages, match="160 labelled images, of which it takes at most 100"):
        run(candidates={"method": "posterior"}).table("candidates")


def test_verdict_facts_are_json(run):
    table = run(candidates={"method": "neighbours"}).table("candidates")
    assert json.loads(json.dumps(table.extra["guard"])).keys() == {"images", "differ", "for_own", "for_sets"}
