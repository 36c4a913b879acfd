"""Two drivers on one run folder: one works, the other is refused or takes over; neither undoes what the other does."""

import json
import signal
import subprocess
import time

import pytest

from fgvr import storage
from tests.faults.running import HANG_SECONDS, Place, check_hashes, wait_for
from tests.faults.test_training import check_chain

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

TAKE_OVER = {"run.take_over": "true"}


def ended(driver: subprocess.Popen[str]) -> tuple[int, str]:
    text, _ = driver.communicate(timeout=HANG_SECONDS)
    return driver.returncode, text


@pytest.mark.parametrize("apart", [0.0, 4.0])
def test_both_start_on_a_new_run(place: Place, undisturbed, seen, apart: float) -> None:
    first = place.start()
    time.sleep(apart)
    second = place.start()
    (status, refused), (worked, _) = sorted([ended(first), ended(second)], reverse=True)
    assert (status, worked) == (2, 0), refused[-3000:]
    assert "not started: run.folder, run.name: another session works on" in refused
    assert "--run.take_over true" in refused
    assert len(place.diary.lines("parts")) == 8  # each once
    check_hashes(place.table())
    assert place.table().equals(undisturbed)
    seen(f"two drivers on a new run, {apart:.0f} s apart", "one works, the other is refused by name; same table")


def test_a_training_is_taken_over(place: Place, seen) -> None:
    place = place.but(trains=True, epochs=30)  # longer than two drivers take to start
    first = place.start()
    wait_for(lambda: len(place.diary.lines("epochs")) >= 2, first)
    assert ended(place.start())[0] == 2
    assert first.poll() is None
    second = place.start(TAKE_OVER)
    status, said = ended(first)
    assert status == 1
    assert "has taken this run over; this session writes nothing more and ends" in said
    assert ended(second)[0] == 0
    check_chain(place)
    resumed = int(place.diary.lines("trainings")[-1].split()[2])
    assert resumed >= 1
    tables = storage.local_path(place.folder) / "job" / "tables" / "training"
    assert not list(tables.glob("*/training*"))  # no session's checkpoints
    assert check_mlflow(place) == ("FINISHED", {"FINISHED", "KILLED"})
    seen(
        "a second driver takes a training over", f"the first ends by itself; goes on after epoch {resumed}; same result"
    )


def check_mlflow(place: Place) -> tuple[str, set[str]]:
    """How the run ended, and how its stages did."""
    from mlflow import MlflowClient

    facts = json.loads((storage.local_path(place.folder) / "job" / "mlflow_run.json").read_text())
    client = MlflowClient(place.tracking)
    parent = client.get_run(facts["run_id"])
    nested = f"tags.mlflow.parentRunId = '{facts['run_id']}'"
    stages = client.search_runs([parent.info.experiment_id], nested)
    return parent.info.status, {run.info.status for run in stages}


def test_a_driver_that_slept_through_a_takeover(place: Place, undisturbed, seen) -> None:
    place = place.but(workers=1)  # the other core is the second driver's: those of a stopped one stay taken
    first = place.start()
    wait_for(lambda: place.parts() >= 2, first)
    first.send_signal(signal.SIGSTOP)
    assert ended(place.start(TAKE_OVER))[0] == 0
    assert place.table().equals(undisturbed)
    first.send_signal(signal.SIGCONT)
    status, said = ended(first)
    assert status == 1, said[-3000:]
    assert "writes nothing more and ends" in said
    assert place.table().equals(undisturbed)
    seen("a driver that is stopped, taken over, and goes on", "ends before it writes; same table")


def test_a_driver_that_is_told_to_end_gives_its_run_back(place: Place, undisturbed, seen) -> None:
    def meanwhile(driver: subprocess.Popen[str]) -> None:
        wait_for(lambda: place.parts() >= 2, driver)
        driver.terminate()

    said = place.run(meanwhile, ends=143)
    assert "terminated: the same command goes on" in said
    assert '"state": "released"' in "".join(
        file.read_text() for file in (storage.local_path(place.folder) / "job" / "owner").glob("*.json")
    )
    place.run()
    assert place.table().equals(undisturbed)
    seen("SIGTERM of the driver", "the run is given back; same command: same table")
