"""Answers that were cut off, from the workers' rows to manifest, status and report; and tables of before the column."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.metrics import StageMetrics
from cluster.part_actor import _merged, summary_of
from cluster.run_status import run_status
from cluster.stage import RunContext, StageFolder, StageSummary, token_metrics
from fgvr import schemas, tables
from fgvr.config import Label, build
from fgvr.mllm.backend import Answer
from fgvr.mllm.label_worker import answer_rows
from fgvr.mllm.look_worker import part_rows
from fgvr.neighbours.duplicates import shared_rows
from fgvr.report.results import stage_remarks
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table
from pipelines.label import answer_decides, label_settings, note_cut_answers, token_limit
from pipelines.status import as_text
from tests.untracked import NoTracking

BEFORE = pa.schema([field for field in schemas.ANSWERS if field.name != "cut"])
"""The answers' schema before it said which were cut off."""
WORDS = "2 answers were cut off at label.max_tokens = 32"


def rows() -> pa.Table:
    """Three images with two answers each; of the last one there is none."""
    broken = Answer(None, failure=Failure(Reason.ENGINE_ERROR, "x"))
    return answer_rows(
        [1, 2, 3],
        [[Answer("Wren", cut=True), Answer("Wren")], [Answer("Robin"), Answer("Rob", cut=True)], [broken]],
    )


def old_rows() -> pa.Table:
    """As a version before the column left them."""
    return pa.table([rows()[name] for name in BEFORE.names], schema=BEFORE)


def finished(folder: Path, **metrics: float) -> Table:
    """An answers table as a stage of a run in `folder` leaves it."""

    def compute(_: StageFolder) -> StageSummary:
        summary = StageSummary(3, metrics=metrics, remarks=("the server gives no seeds",))
        note_cut_answers(summary, "label.max_tokens = 32")
        return summary

    return RunContext(build({}), str(folder), NoTracking()).stage("answers", decides={}, inputs=[], compute=compute)


def test_they_are_counted_in_a_part_and_are_no_tokens() -> None:
    assert rows()["cut"].to_pylist() == [[True, False], [False, True], [False]]
    totals = summary_of(rows(), {})["totals"]
    assert totals == {"prompt_tokens": 0, "output_tokens": 0, "cut_answers": 2}
    assert token_metrics(totals)["cut_answers"] == 2.0
    assert "cut_answers" not in summary_of(old_rows(), {})["totals"]

    counted: list[float] = []

    class Counter:
        def inc(self, number: float, _: object) -> None:
            counted.append(number)

    metrics = StageMetrics.__new__(StageMetrics)
    metrics._tags, metrics._tokens = {}, Counter()  # type: ignore[assignment]
    metrics.computed(0, {}, {"output_tokens": 7, "cut_answers": 2})
    assert counted == [7]


def test_they_are_said_on_the_console_in_status_and_in_the_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        table = finished(tmp_path, cut_answers=2.0)
    assert f"answers: {WORDS}" in caplog.text
    assert f"answers: {WORDS}" in as_text(run_status(str(tmp_path)))
    report = stage_remarks([table])
    assert report[0].startswith(f"answers: {WORDS}")
    assert report[1:] == ["answers: the server gives no seeds"]  # what was to be said besides is said


def test_where_none_was_cut_off_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = finished(tmp_path, cut_answers=0.0)
    assert "cut off" not in caplog.text + as_text(run_status(str(tmp_path))) + "".join(stage_remarks([table]))


def test_a_part_of_before_is_tried_again_by_a_version_that_knows_more() -> None:
    again = answer_rows([3], [[Answer("Finch")]])  # the row that failed
    merged = _merged(old_rows(), again, np.array([1, 2, 3]), schemas.ANSWERS)
    assert merged.schema.equals(schemas.ANSWERS)
    assert merged["cut"].to_pylist() == [None, None, [False]]


def test_a_table_that_two_versions_computed_is_read_as_one(tmp_path: Path) -> None:
    uri = str(tmp_path / "answers")
    tables.write_part(uri, 0, old_rows())
    later = rows().slice(0, 2)
    tables.write_part(uri, 1, later.set_column(0, "image_id", pa.array([4, 5])))
    table = Table(uri, "answers", "f", 5, 0, 2, 3, 0.0)
    assert table.read()["cut"].to_pylist() == [None] * 3 + [[True, False], [False, True]]
    assert table.take(np.array([4, 0]))["cut"].to_pylist() == [[False, True], None]
    assert table.find(np.array([2, 5]))["cut"].to_pylist() == [None, [False, True]]
    assert [part["texts"].num_chunks for part in table.batches(["texts"])] == [1, 1]


def test_shared_answers_and_looks_of_before() -> None:
    shared = shared_rows(old_rows().take([0, 0]), np.array([1, 7]))
    assert (shared["texts"].to_pylist()[1], shared["cut"].to_pylist()) == (["Wren", "Wren"], [None, None])
    assert shared_rows(rows().take([0, 0]), np.array([1, 7]))["cut"].to_pylist() == [[True, False]] * 2
    kind = pa.struct([field for field in BEFORE if field.name != "image_id"])
    answer = pa.array(old_rows().drop_columns("image_id").to_pylist(), kind)
    looks = pa.table({"image_id": [1, 2, 3], "answer": answer})
    found = part_rows(looks, "answer", schemas.ANSWERS)
    assert found.schema.equals(schemas.ANSWERS)
    assert found["cut"].to_pylist() == [None] * 3


def test_what_decides_free_answers_is_what_it_was() -> None:
    """Nothing new stands in the fingerprint of a table that is asked for as before."""
    config = build({"mllm": {"kind": "simulated"}})
    decides = answer_decides(label_settings(config, several=True))
    assert list(decides) == ["mllm", "prompt", "sampling", "samples", "limits"]
    assert decides["sampling"] == [32, 0.0, 0]
    assert decides["prompt"] == "Provide a best fine-grained class label for this image."


@pytest.mark.parametrize("listed", [1, 3])
def test_a_structured_answer_is_asked_for_with_room_for_its_form(listed: int) -> None:
    config = build({"mllm": {"kind": "simulated"}, "label": {"answer": "structured", "listed": listed}})
    settings = label_settings(config, several=True)
    assert settings.sampling.structured == listed
    assert settings.sampling.max_tokens > 32 * listed + (8 if listed == 1 else 3 * 34)  # {"name": "", "confidence": 9}
    assert answer_decides(settings)["structured"] == listed
    assert settings.prompt.startswith(
        "Provide a best fine-grained class label for this image. Answer in JSON"
        if listed == 1
        else "List the 3 most likely fine-grained class labels for this image, the most likely one first. Answer in"
    )
    assert "one label per line" not in settings.prompt
    assert label_settings(config, several=False).sampling.structured == 1


def test_a_list_prompt_of_the_user_s_own_stays() -> None:
    label = {"answer": "structured", "listed": 2, "listed_prompt": "The {k} likeliest cheeses?"}
    settings = label_settings(build({"mllm": {"kind": "simulated"}, "label": label}), several=True)
    assert settings.prompt.startswith("The 2 likeliest cheeses? Answer in JSON: ")


def test_what_limits_an_answer() -> None:
    assert token_limit(Label()) == "label.max_tokens = 32"
    assert token_limit(Label(max_tokens=20), 3) == "label.max_tokens = 20 (× 3 labels)"
