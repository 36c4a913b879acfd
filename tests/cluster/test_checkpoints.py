"""Which checkpoint a session goes on from, and whose it removes."""

import json
from pathlib import Path

from cluster import checkpoints
from cluster.checkpoints import TrainResult
from cluster.stage_files import clear_left, training_name
from fgvr import storage


def session_with(training: Path, *names: str, whole: str | None = None) -> Path:
    """A session's folder with checkpoints of these names, of which one is said to be whole."""
    folder = training / checkpoints.new_session(str(training))
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "state.pt").write_bytes(b"state")
    if whole is not None:
        checkpoints.note_checkpoint(str(folder), whole, {"epoch": 3.0})
    return folder


def left(training: Path) -> set[str]:
    return {str(path.relative_to(training)) for path in training.rglob("state.pt")}


def test_sessions_that_begin_at_once_write_into_folders_of_their_own(tmp_path: Path) -> None:
    names = {checkpoints.new_session(str(tmp_path)) for _ in range(50)}
    assert len(names) == 50
    assert {name.partition("-")[0] for name in names} == {"000001"}


def test_the_last_session_that_left_a_whole_one_counts(tmp_path: Path) -> None:
    training = tmp_path / "training"
    assert checkpoints.last_checkpoint(str(training)) is None
    first = session_with(training, "a", "b", whole="b")
    assert checkpoints.last_checkpoint(str(training)) == TrainResult({"epoch": 3.0}, f"{first}/b")
    second = session_with(training, "c")  # cut off while it wrote its first
    assert second.name.startswith("000002-")
    kept = checkpoints.last_checkpoint(str(training))
    assert kept == TrainResult({"epoch": 3.0}, f"{first}/b")
    checkpoints.forget_other_checkpoints(str(training), kept)
    assert left(training) == {f"{first.name}/a/state.pt", f"{first.name}/b/state.pt"}
    for number in range(12):  # above nine, too
        last = session_with(training, "d", whole="d")
        assert int(last.name.partition("-")[0]) == number + 2
    checkpoints.forget_other_checkpoints(str(training), checkpoints.last_checkpoint(str(training)))
    assert left(training) == {f"{last.name}/d/state.pt"}


def test_a_training_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    for name in ("checkpoint_2026-11-22_1", "checkpoint_2026-11-22_2", "checkpoint_of_a_dead_session"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.pt").write_bytes(b"state")
    snapshot = {"latest_checkpoint_result": {"checkpoint_dir_name": "checkpoint_2026-11-22_2", "metrics": {"loss": 1}}}
    (tmp_path / "checkpoint_manager_snapshot.json").write_text(json.dumps(snapshot))
    (tmp_path / "progress.json").write_text("{}")
    kept = checkpoints.last_checkpoint(str(tmp_path))
    assert kept == TrainResult({"loss": 1}, f"{tmp_path}/checkpoint_2026-11-22_2")
    checkpoints.forget_other_checkpoints(str(tmp_path), kept)
    assert left(tmp_path) == {"checkpoint_2026-11-22_2/state.pt"}
    assert (tmp_path / "progress.json").exists()
    checkpoints.forget_other_checkpoints(str(tmp_path), None)
    assert left(tmp_path) == set()


def test_in_a_store_without_folders() -> None:
    training = "memory://checkpoints/training"
    session = storage.join(training, checkpoints.new_session(training))
    storage.write_bytes(storage.join(session, "a", "state.pt"), b"state")
    checkpoints.note_checkpoint(session, "a", {})
    kept = checkpoints.last_checkpoint(training)
    assert kept is not None
    assert storage.read_bytes(storage.join(kept.checkpoint, "state.pt")) == b"state"
    storage.write_bytes(storage.join(training, checkpoints.new_session(training), "b", "state.pt"), b"half")
    checkpoints.forget_other_checkpoints(training, kept)
    assert storage.list_entries(training) == ([], [session.rpartition("/")[2]])


def test_of_a_finished_table_models_stay_and_checkpoints_go(tmp_path: Path) -> None:
    for name in (training_name(0), training_name(1), training_name(12), "model", "training-set", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"w")
    for name in ("plan.json", "clock.json", "ids.int64", "retrying.json", "too_many.json"):
        (tmp_path / name).write_text("{}")
    for name in ("manifest.json", "history.json", "part-00000000.parquet", "examples.parquet"):
        (tmp_path / name).write_text("{}")
    clear_left(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("examples.parquet", "history.json", "manifest.json", "model"),
        *("part-00000000.parquet", "teacher", "training-set"),
    ]
    clear_left(str(tmp_path / "nothing"))
