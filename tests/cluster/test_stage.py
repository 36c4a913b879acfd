import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.fingerprint import fingerprint_of
from cluster.parts import TooManyFailures
from cluster.run_status import run_status
from cluster.stage import RunContext, StageFolder, StageSummary, token_metrics
from cluster.stage_files import CLOCK, TOO_MANY
from fgvr.config import Config, ImageLimits, build
from fgvr.config.base import TrainWorkers, Workers
from fgvr.config.web import WebPolicy
from fgvr.schemas import ANSWERS
from fgvr.tables import Table
from tests.untracked import NoTracking


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return context_in(tmp_path)


def context_in(folder: Path, **run: Any) -> RunContext:
    return RunContext(build({"run": run}), str(folder), NoTracking())


def three_rows(folder: StageFolder) -> StageSummary:
    return folder.write_table(pa.table({"image_id": [0, 1, 2], "label": ["a", "b", "a"]}), rows_per_part=2)


def explode(folder: StageFolder) -> StageSummary:
    raise AssertionError("computed although it was finished")


def answers(*bad: int) -> pa.Table:
    rows = [
        {"image_id": n, "error": {"reason": "corrupt", "detail": "cut"} if n in bad else None, "raw": "x"}
        for n in range(10)
    ]
    return pa.Table.from_pylist(rows, schema=ANSWERS)


def test_a_finished_stage_is_found_and_not_computed(context: RunContext, tmp_path: Path) -> None:
    first = context.stage("label", decides={"k": 3}, inputs=[], compute=three_rows)
    assert (first.rows, first.parts, first.rows_per_part) == (3, 2, 2)
    assert first.read()["label"].to_pylist() == ["a", "b", "a"]
    again = context_in(tmp_path).stage("label", decides={"k": 3}, inputs=[], compute=explode)
    assert again == first


def test_another_config_is_another_folder(context: RunContext) -> None:
    one = context.stage("label", decides={"k": 3}, inputs=[], compute=three_rows)
    two = context.stage("label", decides={"k": 4}, inputs=[], compute=three_rows)
    assert one.uri != two.uri


def test_a_stage_that_stopped_before_its_end_is_not_finished(context: RunContext) -> None:
    def stops(folder: StageFolder) -> StageSummary:
        three_rows(folder)
        raise OSError("the machine went away")

    with pytest.raises(OSError, match="went away"):
        context.stage("label", decides={}, inputs=[], compute=stops)
    assert context.stage("label", decides={}, inputs=[], compute=three_rows).rows == 3


def test_more_failures_than_allowed_stop_the_stage_uncommitted(tmp_path: Path) -> None:
    context = context_in(tmp_path, max_error_share=0.1)
    with pytest.raises(TooManyFailures, match=r"label: 2 of 10 rows failed .*corrupt.* run\.max_error_share = 0\.1"):
        context.stage("label", decides={}, inputs=[], compute=lambda folder: folder.write_table(answers(3, 4)))
    done = context.stage("label", decides={}, inputs=[], compute=lambda folder: folder.write_table(answers(3)))
    assert (done.failed, done.failures) == (1, {"corrupt": 1})


def test_a_stage_says_what_a_failed_row_says_and_of_which_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = [f"/photos/{n}.jpg" for n in range(10)]
    listed = pa.table({"image_id": range(10), "uri": places})

    def run(context: RunContext, *bad: int) -> Table:
        samples = context.stage("samples", decides={}, inputs=[], compute=lambda f: f.write_table(listed, 4))
        rows = [
            {"image_id": n, "error": {"reason": "refused", "detail": f"no {n}"} if n in bad else None}
            for n in range(10)
        ]
        table = pa.Table.from_pylist(rows, schema=ANSWERS)
        return context.stage("labels", decides={}, inputs=[samples], compute=lambda f: f.write_table(table, 3))

    with pytest.raises(TooManyFailures) as caught:
        run(context_in(tmp_path), 8, 5)
    words = str(caught.value)
    assert "labels: 2 of 10 rows failed (refused (2), e.g. image 5 (photos/5.jpg): no 5)" in words
    assert f"table: {tmp_path}/tables/labels/" in words
    assert "{" not in words
    (stopped,) = [stage for stage in run_status(str(tmp_path)).stages if stage.name == "labels"]
    assert (stopped.rows, stopped.failed, stopped.failures) == (10, 2, {"refused": 2})
    assert stopped.examples["refused"].uri == "/photos/5.jpg"
    made = run(context_in(tmp_path, max_error_share=0.5), 8, 5)
    assert "labels: refused (2), e.g. image 5 (photos/5.jpg): no 5" in caplog.text
    assert Table.load(made.uri) == made
    assert made.examples["refused"].uri == "/photos/5.jpg"
    assert not Path(made.uri, TOO_MANY).exists()
    # A manifest that an earlier version wrote.
    manifest = Path(made.uri, "manifest.json")
    facts = json.loads(manifest.read_text())
    del facts["examples"]
    manifest.write_text(json.dumps(facts))
    assert (Table.load(made.uri).failures, Table.load(made.uri).examples) == ({"refused": 2}, {})


def test_failed_rows_are_tried_again_when_asked_and_the_version_tells(tmp_path: Path) -> None:
    share = {"max_error_share": 0.5}
    first = context_in(tmp_path, **share).stage(
        "label", decides={}, inputs=[], compute=lambda f: f.write_table(answers(3))
    )
    seen = []

    def mended(folder: StageFolder) -> StageSummary:
        seen.append(folder.retry_failed)
        return folder.write_table(answers())

    asked = context_in(tmp_path, retry_failed=True, **share)
    second = asked.stage("label", decides={}, inputs=[], compute=mended)
    assert seen == [True]
    assert (second.failed, second.uri) == (0, first.uri)
    assert second.version != first.version  # later stages are computed anew
    assert asked.stage("label", decides={}, inputs=[], compute=explode).version == second.version


def test_a_retry_that_was_cut_short_is_finished_by_the_next_run_as_another_revision(tmp_path: Path) -> None:
    share = {"max_error_share": 0.5}

    def stage(compute: Callable[[StageFolder], StageSummary], **run: Any) -> Table:
        return context_in(tmp_path, **share, **run).stage("label", decides={}, inputs=[], compute=compute)

    first = stage(lambda folder: folder.write_table(answers(3)))

    def dies(folder: StageFolder) -> StageSummary:
        folder.write_table(answers())
        raise OSError("the machine went away")

    with pytest.raises(OSError, match="went away"):
        stage(dies, retry_failed=True)
    second = stage(lambda folder: folder.write_table(answers()))  # without the flag
    assert (first.revision, second.revision, second.failed) == (0, 1, 0)


def test_seconds_that_the_manifest_has_are_not_counted_again_by_a_retry(tmp_path: Path) -> None:
    def failing(folder: StageFolder) -> StageSummary:
        return folder.write_table(answers(4))

    first = context_in(tmp_path, max_error_share=0.5).stage("answers", decides={}, inputs=[], compute=failing)
    # As where the session was killed between the two: the table is finished, and its clock still there.
    Path(first.uri, CLOCK).write_text('{"seconds": 100.0}')
    retrying = context_in(tmp_path, max_error_share=0.5, retry_failed=True)
    again = retrying.stage("answers", decides={}, inputs=[], compute=failing)
    assert first.seconds <= again.seconds < 50
    assert not Path(first.uri, CLOCK).exists()


def test_a_stage_that_stopped_for_its_failures_can_try_them_again(tmp_path: Path) -> None:
    with pytest.raises(TooManyFailures):
        context_in(tmp_path, max_error_share=0.0).stage(
            "label", decides={}, inputs=[], compute=lambda f: f.write_table(answers(3))
        )
    asked = []

    def mended(folder: StageFolder) -> StageSummary:
        asked.append(folder.retry_failed)
        return folder.write_table(answers())

    context_in(tmp_path, retry_failed=True).stage("label", decides={}, inputs=[], compute=mended)
    assert asked == [True]


def fingerprint(name: str = "label", decides: Any = None, inputs: tuple[Table, ...] = ()) -> str:
    return fingerprint_of(name, decides, inputs)


def test_a_fingerprint_changes_with_what_decides_the_content() -> None:
    base = Config().label
    table = Table("here", "samples", "aa", 3, 0, 1, 3, 1.0)
    prints = [
        fingerprint(decides=base, inputs=(table,)),
        fingerprint("embed", base, (table,)),
        fingerprint(decides=base.model_copy(update={"prompt": "What is it?"}), inputs=(table,)),
        fingerprint(decides=[base, "model-revision"], inputs=(table,)),
        fingerprint(decides=base),
        fingerprint(decides=base, inputs=(Table("here", "samples", "bb", 3, 0, 1, 3, 1.0),)),
        fingerprint(decides=base, inputs=(Table("here", "samples", "aa", 3, 0, 1, 3, 1.0, revision=1),)),
    ]
    assert len(set(prints)) == len(prints)


def test_a_fingerprint_does_not_change_with_where_and_how_wide_a_stage_runs() -> None:
    config = Config()
    wide = config.label.workers.model_copy(update={"max_workers": 64, "num_gpus": 1.0, "num_cpus": 8})
    assert fingerprint(decides=config.label.model_copy(update={"workers": wide})) == fingerprint(decides=config.label)
    many = config.near.model_copy(update={"workers": TrainWorkers(num_workers=8, use_gpu=True)})
    assert fingerprint(decides=many) == fingerprint(decides=config.near)
    moved = Table("s3://elsewhere", "samples", "aa", 3, 0, 1, 3, 9.0)
    assert fingerprint(inputs=(moved,)) == fingerprint(inputs=(Table("here", "samples", "aa", 3, 0, 1, 3, 1.0),))


def test_a_fingerprint_does_not_change_with_how_web_servers_are_asked() -> None:
    polite = ImageLimits(web=WebPolicy(max_requests=1, allowed_hosts=("shop.example",)))
    assert fingerprint(decides=polite) == fingerprint(decides=ImageLimits())
    assert fingerprint(decides=ImageLimits(cut_bottom=1)) != fingerprint(decides=ImageLimits())


def test_a_fingerprint_does_not_change_with_what_an_image_may_cost() -> None:
    assert fingerprint(decides=ImageLimits(max_bytes=1, max_pixels=1)) == fingerprint(decides=ImageLimits())


def test_a_fingerprint_does_not_change_with_the_size_of_parts() -> None:
    # Parts of a resumed stage are cut as they were begun, which the folder says: tests/cluster/test_part_sizes.py.
    assert fingerprint(decides=Workers(rows_per_part=100)) == fingerprint(decides=Workers(rows_per_part=200))


def test_a_manifest_says_what_is_made_up_and_so_do_those_of_later_stages(
    context: RunContext, caplog: pytest.LogCaptureFixture
) -> None:
    samples = context.stage("samples", decides={"k": 3}, inputs=[], compute=three_rows)
    mllm = build({"mllm": {"kind": "simulated"}}).mllm
    labels = context.stage("labels", decides={"mllm": mllm}, inputs=[samples], compute=three_rows)
    later = context.stage("later", decides={"k": 3}, inputs=[labels], compute=three_rows)
    assert [table.extra.get("made_up") for table in (samples, labels, Table.load(later.uri))] == [
        None,
        ["mllm"],
        ["mllm"],
    ]
    assert "labels: MADE UP, by simulated models (mllm)" in caplog.text


def test_the_share_of_cached_tokens_is_told_where_they_are_counted() -> None:
    assert token_metrics({"prompt_tokens": 20, "cached_tokens": 15}) == {
        "prompt_tokens": 20.0,
        "cached_tokens": 15.0,
        "cached_share": 0.75,
    }
    assert token_metrics({"prompt_tokens": 0, "cached_tokens": 0})["cached_share"] == 0
    assert token_metrics({"prompt_tokens": 20, "output_tokens": 3}) == {"prompt_tokens": 20.0, "output_tokens": 3.0}
