from pathlib import Path
from types import SimpleNamespace

import pytest

from fgvr import storage
from fgvr.training.reporter import LocalReporter
from tests.two_processes import RankReporter, two_processes
from tune.early_stop import MARK, MarkingAsha, StoppableJob, is_stopped, train_stoppable, trial_folder


def asha(folder: str) -> MarkingAsha:
    """Rungs at 2 and 6 of 12 epochs."""
    scheduler = MarkingAsha(
        folder, time_attr="epoch", max_t=12, grace_period=2, reduction_factor=3, stop_last_trials=False
    )
    scheduler.set_search_properties("score", "max")
    return scheduler


def reports(scheduler: MarkingAsha, name: str, scores: dict[float, float]) -> list[str]:
    trial = SimpleNamespace(trial_id=name)
    scheduler.on_trial_add(None, trial)
    return [scheduler.on_trial_result(None, trial, {"epoch": at, "score": score}) for at, score in scores.items()]


def test_a_trial_behind_is_marked_and_never_killed(tmp_path):
    scheduler = asha(str(tmp_path))
    assert set(reports(scheduler, "first", {1: 0.1, 2: 0.5, 6: 0.7, 12: 0.8})) == {"CONTINUE"}
    # Of one record the cut-off is the record itself: 0.4 at epoch 2 is below 0.5, 0.6 is not, but is at epoch 6.
    assert set(reports(scheduler, "worse", {1: 0.0, 2.5: 0.4})) == {"CONTINUE"}
    assert set(reports(scheduler, "better", {2: 0.6})) == {"CONTINUE"}
    assert not is_stopped(trial_folder(str(tmp_path), "first"))
    assert is_stopped(trial_folder(str(tmp_path), "worse"))
    assert not is_stopped(trial_folder(str(tmp_path), "better"))
    scheduler.on_trial_result(None, SimpleNamespace(trial_id="better"), {"epoch": 6, "score": 0.6})
    assert is_stopped(trial_folder(str(tmp_path), "better"))


def ten_reports(job: Path, reporter) -> None:
    """A loop that is marked while it runs, after its third report."""
    for number in range(1, 11):
        if number == 3:
            storage.write_bytes(str(job / MARK), b"")
        reporter.report({"number": float(number)}, lambda folder: (folder / "model").write_text("model"))


def test_a_marked_training_ends_at_its_next_report(tmp_path):
    reporter = LocalReporter(tmp_path / "run")
    train_stoppable(StoppableJob(ten_reports, tmp_path / "trial", str(tmp_path / "trial")), reporter)
    assert [report["number"] for report in reporter.history] == [1, 2, 3]
    assert (reporter.checkpoint / "model").exists()


def test_an_unmarked_training_is_left_alone(tmp_path):
    reporter = LocalReporter(tmp_path / "run")
    train_stoppable(StoppableJob(ten_reports, tmp_path / "elsewhere", str(tmp_path / "trial")), reporter)
    assert len(reporter.history) == 10


def one_of_two(rank: int, folder: Path) -> None:
    reporter = RankReporter(folder / f"run{rank}", rank)
    # Only rank 0 finds the mark: rank 1 looks into an empty folder, as on a node that lags behind.
    place = folder / ("trial" if rank == 0 else "nothing")
    train_stoppable(
        StoppableJob(ten_reports, folder / "trial" if rank == 0 else folder / "other", str(place)), reporter
    )
    (folder / f"reports{rank}").write_text(str(len(reporter.history)))


@pytest.mark.slow
def test_all_workers_end_at_the_same_report(tmp_path):
    with two_processes(tmp_path, one_of_two, tmp_path):
        pass
    assert [(tmp_path / f"reports{rank}").read_text() for rank in (0, 1)] == ["3", "3"]
