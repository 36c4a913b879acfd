"""A promised precision from predictions, an audit and a tree to who decides; tables written by hand, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fgvr import schemas, tables
from fgvr.config import ConfigError, build
from fgvr.mllm.backend import NameAnswer
from fgvr.mllm.scoring_workers import choice_rows
from fgvr.review.audit_file import AuditSample, Drawn
from fgvr.review.catalogue import Catalogue
from fgvr.review.decisions import Decision, Kind
from fgvr.review.desk import Desk
from fgvr.review.log import DecisionLog
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table
from pipelines import infer
from pipelines.calibration import check_promise
from pipelines.registry import stage_of
from pipelines.run_tables import Run
from pipelines.second_looks import SecondLooks, choices_of
from tests.pipelines.planted_run import run_of, written

PHOTOS, LEARNED, UNREADABLE = 2_000, range(100), 150
NAMES = ("gull", "tern", "cat", "dog")
KINDS = "name,parent\ngull,bird\ntern,bird\ncat,mammal\ndog,mammal\n"


def planted(folder: Path, *, true: bool = True) -> tuple[dict[str, Table], list[str]]:
    """2,000 photos: of the surer half 99% are right, of the others half, whose kind is right in 99%."""
    rng = np.random.default_rng(5)
    shown = rng.integers(0, 4, PHOTOS)
    score = rng.permutation(np.linspace(0.3, 0.99, PHOTOS)).astype(np.float32)
    wrong = rng.random(PHOTOS) > np.where(score > 0.64, 0.99, 0.5)
    astray = rng.random(PHOTOS) > 0.99
    said = np.where(wrong, np.where(astray, (shown + 2) % 4, shown ^ 1), shown)
    samples = [
        {
            "image_id": n,
            "uri": f"/photos/{n}.jpg",
            "split": "test",
            "class_id": int(shown[n]) if true else None,
            "class_name": NAMES[shown[n]] if true else None,
            "metadata": "{}",
        }
        for n in range(PHOTOS)
    ]
    predictions = [
        {"image_id": n, "error": {"reason": "corrupt", "detail": "x"}}
        if n == UNREADABLE
        else {
            "image_id": n,
            "label": NAMES[said[n]],
            "label_id": int(said[n]),
            "score": score[n],
            "top_labels": [NAMES[said[n]], NAMES[said[n] ^ 1]],
            "top_scores": [score[n], 0.99 - score[n]],
            "abstained": False,
        }
        for n in range(PHOTOS)
    ]
    learned = [{"image_id": n, "label_id": 0 if n < 99 else None, "named": "gull", "score": 1.0} for n in LEARNED]
    named = pa.Table.from_pylist(predictions, schema=schemas.PREDICTIONS)
    made = {
        "samples": written(
            folder,
            "samples",
            pa.Table.from_pylist(samples, schema=schemas.SAMPLES),
            {"splits": {"test": PHOTOS}},
        ),
        "predictions": Table(str(folder / "predictions"), "predictions", "f", PHOTOS, 1, 2, 1_200, 0.0, extra={}),
        "heads": written(folder, "heads", pa.Table.from_pylist(learned, schema=schemas.HEAD_TARGETS)),
    }
    for part in range(2):
        tables.write_part(made["predictions"].uri, part, named.slice(1_200 * part, 1_200))
    for table in made.values():
        table.commit()
    return made, [NAMES[n] for n in shown]


def opened(given: tuple[dict[str, Table], list[str]], folder: Path, tree: bool = False, **promised: Any) -> Run:
    values = {"trained": "heads", "target_precision": 0.9, **promised}
    parts: dict[str, Any] = {"infer": values}
    if tree:
        (folder / "kinds.csv").write_text(KINDS)
        parts["hierarchy"] = {"source": "file", "path": str(folder / "kinds.csv")}
    return run_of((given[0], np.zeros(0)), folder, **parts)


def audit(run: Run, shown: list[str], photos: range | list[int], decided: int | None = None) -> None:
    """Draw and decide an audit of these photos, of which the last ones may be left."""
    drawn = tuple(Drawn(n, f"/photos/{n}.jpg", 0, "gull", 0.5) for n in photos)
    log = DecisionLog(run.folder)
    AuditSample(0, (PHOTOS,), drawn).store(log.place)
    log.append([Decision(Kind.NAME, "ann", n, f"/photos/{n}.jpg", "gull", shown[n]) for n in list(photos)[:decided]])


def rows_of(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.table("decided").read().to_pylist()
    return rows


def precision(rows: list[dict[str, Any]], shown: list[str], by: str) -> float:
    kinds = {"gull": "bird", "tern": "bird", "cat": "mammal", "dog": "mammal"}
    mine = [row for row in rows if row["decided_by"] == by]
    right = [row["label"] == (shown if by == "student" else [kinds[n] for n in shown])[row["image_id"]] for row in mine]
    return float(np.mean(right))


def test_an_audit_decides_from_which_score_on_names_are_given(tmp_path: Path) -> None:
    given = planted(tmp_path)
    run = opened(given, tmp_path, queue_photos=10)
    sample = np.random.default_rng(1).permutation(PHOTOS)[:400].tolist()
    audit(run, given[1], sample)
    known = run.table("calibration").read()
    assert known.schema.equals(schemas.CALIBRATION)
    # Photos that the model learned from, and the one that cannot be read, do not count.
    assert set(known["image_id"].to_pylist()) == set(sample) - {*range(99), UNREADABLE}
    expected = [given[1][row["image_id"]] == row["label"] for row in known.to_pylist()]
    assert known["right"].to_pylist() == expected
    threshold = run.table("calibration").extra["name"]["tests"][-2]["threshold"]
    rows = rows_of(run)
    assert [row["image_id"] for row in rows] == list(range(PHOTOS))
    assert run.table("decided").read().schema.equals(schemas.DECIDED)
    sure = [row for row in rows if row["decided_by"] == "student"]
    assert min(row["score"] for row in sure) >= threshold
    assert precision(rows, given[1], "student") >= 0.9
    assert all(row["label"] == row["student_label"] for row in sure)
    assert {row["why"] for row in rows[:99]} == {"learned_from"}
    assert rows[UNREADABLE]["why"] == "unreadable"
    assert rows[UNREADABLE]["student_label"] is None
    queued = [row for row in rows if row["decided_by"] == "queue"]
    rest = [row for row in rows if row["why"] == "score_below_threshold"]
    assert len(queued) == 10
    assert min(row["student_score"] for row in queued) >= sorted(row["student_score"] for row in rest)[-10]
    assert all(row["label"] is None and row["student_label"] for row in rest)
    assert run.table("decided").extra["decided_by"]["student"] == len(sure)
    desk = Desk(run.folder, Catalogue(run.tables), "ann")
    waiting = desk.photos(None, "undecided", 0)
    assert [photo["image_id"] for photo in waiting["photos"]] == [
        row["image_id"] for row in sorted(queued, key=lambda row: -row["student_score"])
    ]


def test_without_a_promise_nothing_waits(tmp_path: Path) -> None:
    given = planted(tmp_path)[0]
    catalogue = Catalogue({name: given[name] for name in ("samples", "predictions")})
    assert len(catalogue.queue("undecided")) == 0


def test_the_data_s_own_classes_and_the_kind_above(tmp_path: Path) -> None:
    given = planted(tmp_path)
    run = opened(given, tmp_path, tree=True, calibrate_on="truth")
    rows = rows_of(run)
    by = run.table("decided").extra["decided_by"]
    assert by["student"] > 700
    assert by["tree"] > 400
    assert precision(rows, given[1], "student") >= 0.9
    assert precision(rows, given[1], "tree") >= 0.9
    kinds = [row for row in rows if row["decided_by"] == "tree"]
    assert {row["label"] for row in kinds} == {"bird", "mammal"}
    assert {row["label_id"] for row in kinds} == {None}
    assert all(row["score"] == pytest.approx(0.99) for row in kinds)
    told = run.table("calibration").extra["remarks"]
    assert any(line.startswith("kinds above the names: a precision of 90.0%") for line in told)


def test_what_cannot_be_shown_is_not_promised(tmp_path: Path) -> None:
    given = planted(tmp_path, true=False)
    run = opened(given, tmp_path, queue_photos=3)
    told = " ".join(run.table("calibration").extra["remarks"])
    assert "no audit was drawn" in told
    assert "check at least 29" in told  # ln(.05) / ln(.9) = 28.4
    assert run.table("calibration").rows == 0
    assert run.table("decided").extra["decided_by"] == {"student": 0, "tree": 0, "mllm": 0, "queue": 3, "none": 1997}


def test_undecided_photos_count_as_wrong_and_new_decisions_make_new_thresholds(tmp_path: Path) -> None:
    given = planted(tmp_path)
    sample = np.random.default_rng(1).permutation(np.arange(200, PHOTOS))[:300].tolist()
    audit(opened(given, tmp_path), given[1], sample, decided=100)
    early = opened(given, tmp_path).table("calibration")
    assert "200 of the audit's 300 photos are not decided" in " ".join(early.extra["remarks"])
    assert early.rows == 300
    assert sum(early.read()["right"].to_pylist()) <= 100
    assert early.extra["name"]["needed"] is None
    log = DecisionLog(opened(given, tmp_path).folder)
    log.append([Decision(Kind.NAME, "bob", n, f"/photos/{n}.jpg", "", given[1][n]) for n in sample[100:]])
    later = opened(given, tmp_path).table("calibration")
    assert later.uri != early.uri
    assert sum(later.read()["right"].to_pylist()) > 100
    assert later.extra["name"]["tests"][0]["passed"]


def test_the_promise_is_no_part_of_predictions_and_is_found_again(tmp_path: Path) -> None:
    given = planted(tmp_path)
    plain = run_of((given[0], np.zeros(0)), tmp_path, infer={"trained": "heads"})
    promised = opened(given, tmp_path)
    predictions = stage_of("predictions")
    del plain.tables["predictions"], promised.tables["predictions"]
    assert predictions.recipe(plain) == predictions.recipe(promised)
    first = opened(given, tmp_path).table("decided")
    assert opened(given, tmp_path).table("decided").uri == first.uri
    assert opened(given, tmp_path, target_precision=0.8).table("decided").uri != first.uri
    assert opened(given, tmp_path, queue_photos=7).table("decided").uri != first.uri
    assert infer.inferred(plain.config) == ("predictions",)
    assert infer.inferred(promised.config) == ("predictions", "decided")


def second_looks(run: Run, shown: list[str], folder: Path, *, right: float) -> None:
    """Let an MLLM choose among the student's names, right and sure in this share of photos, and give the table."""
    stage = stage_of("second_looks")
    assert isinstance(stage, SecondLooks)
    compared, rng = choices_of(run), np.random.default_rng(2)
    assert stage.job(run).ids.tolist() == sorted(compared)
    answers = []
    for image, names in compared.items():
        place = 0 if names[0] == shown[image] else 1
        scores = np.full(len(names), -3.0, np.float32)
        scores[place if rng.random() < right else 1 - place] = -rng.random()
        answers.append(NameAnswer(scores, prompt_tokens=7))
    answers[0] = NameAnswer(failure=Failure(Reason.CORRUPT, "x"))
    rows = choice_rows(list(compared), list(compared.values()), answers)
    run.tables["second_looks"] = written(folder, "second_looks", rows)
    run.tables["second_looks"].commit()


def test_a_second_look_names_photos_where_its_choice_keeps_the_promise(tmp_path: Path) -> None:
    given = planted(tmp_path)
    run = opened(given, tmp_path, second_look_budget=500, queue_photos=5)
    audit(run, given[1], np.random.default_rng(1).permutation(np.arange(200, PHOTOS))[:400].tolist())
    assert run.table("calibration").extra["asking"] == pytest.approx(0.025 / 16)
    second_looks(run, given[1], tmp_path, right=1.0)
    compared = choices_of(run)
    assert len(compared) == 500
    rows = rows_of(run)
    checked = set(run.table("calibration").read()["image_id"].to_pylist())
    unsure = {row["image_id"] for row in rows if row["decided_by"] != "student" and row["image_id"] in checked}
    assert unsure <= set(compared)  # checked photos are asked about first
    assert not any(rows[image]["decided_by"] == "student" for image in compared)
    named = [row for row in rows if row["decided_by"] == "mllm"]
    assert len(named) > 300
    kinds = {"gull": "bird", "tern": "bird", "cat": "mammal", "dog": "mammal"}
    astray = [row for row in named if kinds[row["student_label"]] != kinds[given[1][row["image_id"]]]]
    right = [row["label"] == given[1][row["image_id"]] for row in named]
    assert sum(right) == len(named) - len(astray)  # it could not choose what the student did not list
    assert all(row["label_id"] == NAMES.index(row["label"]) for row in named)
    assert {row["why"] for row in named} == {"choice_above_threshold"}
    assert {rows[image]["tokens"] for image in compared} == {0, 7}  # one answer failed
    assert sum(row["tokens"] for row in rows) == 7 * 499
    assert rows[next(iter(compared))]["decided_by"] in {"queue", "none"}
    assert "choices of the MLLM: a precision of 90.0%" in run.table("decided").extra["remarks"][0]


def test_where_nothing_is_left_nobody_is_asked(tmp_path: Path) -> None:
    given = planted(tmp_path)
    run = opened(given, tmp_path, target_precision=0.5, calibrate_on="truth", second_look_budget=9)
    assert choices_of(run) == {}
    nothing = Table(
        str(tmp_path / "second_looks"), "second_looks", "f", 0, 0, 0, 1, 0.0, extra={}
    )  # as workers leave it
    nothing.commit()
    run.tables["second_looks"] = nothing
    by = run.table("decided").extra["decided_by"]
    assert by == {"student": 1900, "tree": 0, "mllm": 0, "queue": 0, "none": 100}


def test_a_second_look_that_is_often_wrong_names_nothing(tmp_path: Path) -> None:
    given = planted(tmp_path)
    run = opened(given, tmp_path, second_look_budget=300)
    audit(run, given[1], np.random.default_rng(1).permutation(np.arange(200, PHOTOS))[:400].tolist())
    second_looks(run, given[1], tmp_path, right=0.6)
    rows = rows_of(run)
    assert run.table("decided").extra["decided_by"]["mllm"] == 0
    assert "choice_below_threshold" in {row["why"] for row in rows}


def test_nobody_is_asked_who_cannot_choose(tmp_path: Path) -> None:
    server = {"kind": "openai", "model": "x", "base_url": "http://h/v1"}
    parts = {"infer": {"target_precision": 0.9, "second_look_budget": 5}}
    with pytest.raises(ConfigError, match=r"infer\.second_look_budget: mllm\.kind = openai"):
        stage_of("second_looks").check(build({**parts, "mllm": server}))
    with pytest.raises(ConfigError, match=r"infer\.second_look_budget = 0"):
        stage_of("second_looks").check(build({"infer": {"target_precision": 0.9}}))
    assert not stage_of("second_looks").wanted(build({"infer": {"target_precision": 0.9}}))
    assert stage_of("second_looks").wanted(build(parts))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"infer": {}}, "infer.target_precision = null"),
        ({"infer": {"target_precision": 0.9, "costs": "c.csv"}}, "infer.costs decides about names, too"),
        (
            {
                "infer": {"target_precision": 0.9},
                "hierarchy": {"source": "file", "path": "k.csv", "decide": "any_level"},
            },
            "hierarchy.decide = any_level decides",
        ),
        (
            {"infer": {"target_precision": 0.9, "split": "wild", "calibrate_on": "truth"}},
            "infer.split = wild leaves out",
        ),
    ],
)
def test_promises_that_nothing_could_be_said_about(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_promise(build(parts))


@pytest.mark.parametrize("target", [0.0, 1.0, 1.5])
def test_certainty_is_no_target(target: float) -> None:
    with pytest.raises(ConfigError, match="target_precision"):
        build({"infer": {"target_precision": target}})
