"""Exit status and last words of a command line, without a Ray session."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from botocore.exceptions import NoCredentialsError

from cluster import lease
from cluster.budget import BudgetReached
from cluster.lease import LeaseLost
from cluster.ownership import owned
from cluster.run import open_run, run_main
from cluster.run_record import recorded
from fgvr.config import Config, ConfigError, load_config
from fgvr.errors import UserError
from tests.cluster.leases import elsewhere, taken_by

PRESETS = Path(__file__).parents[2] / "pipelines" / "configs"


class Lost(UserError):
    """An error that is no ConfigError, as of a missing model."""


def raises(error: BaseException) -> Callable[[object], None]:
    def body(_given: object) -> None:
        raise error

    return body


def wrapped(_context: object) -> None:
    """As Ray does with what its workers raise."""
    raise RuntimeError("a task failed") from Lost("the photos are gone")


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str]]:
    """Runs a command line in a run that is none; its exit status and what it wrote."""

    @contextmanager
    def opened(config: Config) -> Iterator[None]:
        if config.run.name == "refused":
            raise Lost("no Ray cluster there")
        yield

    monkeypatch.setattr("cluster.run.open_run", opened)
    monkeypatch.setattr("cluster.run.show_progress", lambda: None)

    def ended(*argv: str, work: Callable[[object], None] = lambda _: None, **more: Any) -> tuple[object, str]:
        with pytest.raises(SystemExit) as left:
            run_main("A script.", PRESETS, work, argv=argv, **more)
        return left.value.code, capsys.readouterr().err

    return ended


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--near.lr", "-1"], "near.lr = -1"),
        (["--near.leraning_rate", "1"], "near.leraning_rate: there is no such field"),
        (["--config", "no_such_preset"], "--config no_such_preset"),
        (["--run.name", "refused"], "no Ray cluster there"),
    ],
)
def test_what_keeps_the_work_from_beginning_ends_with_2(end, argv, named) -> None:
    status, words = end(*argv)
    assert status == 2
    assert words.startswith("not started: ")
    assert named in words


def test_a_second_session_is_refused_before_anything_is_written_or_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.run.show_progress", lambda: None)
    monkeypatch.setattr("cluster.session.ray_session", lambda _: pytest.fail("Ray was started"))
    monkeypatch.setattr("cluster.tracked_run.tracked_run", lambda *_: pytest.fail("MLflow was started"))
    flags = ["--run.folder", str(tmp_path), "--run.name", "birds"]
    with owned(str(tmp_path / "birds")):
        there = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as left:
            run_main("A script.", PRESETS, lambda _: None, argv=flags)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"not started: run.folder, run.name: another session works on {tmp_path}/birds: process ")
    assert "--run.take_over true" in said
    assert sorted(tmp_path.rglob("*")) == there


def test_to_take_over_is_asked_once_and_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []

    @contextmanager
    def owns(folder: str, *, take_over: bool, **_: Any) -> Iterator[None]:
        given.append(take_over)
        yield

    @contextmanager
    def nothing(*_: object) -> Iterator[MagicMock]:
        yield MagicMock()

    for name in ("session.ray_session", "tracked_run.tracked_run"):
        monkeypatch.setattr(f"cluster.{name}", nothing)
    monkeypatch.setattr("cluster.metrics.endpoint", lambda: None)
    monkeypatch.setattr("cluster.run_folder.check_seen", lambda _: None)
    monkeypatch.setattr("cluster.run.owned", owns)
    config = load_config(["--run.folder", str(tmp_path), "--run.take_over", "true"], PRESETS, "")
    with open_run(config) as context:
        assert not context.config.run.take_over
    assert given == [True]
    assert "take_over: false" in (tmp_path / "demo" / "config.yaml").read_text()


def test_a_session_that_lost_its_run_writes_no_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "birds"

    def loses() -> None:
        with owned(str(folder), beat=60), recorded(str(folder)) as record:
            taken_by(folder, elsewhere())
            (folder / "session.json").write_text("the new owner's")
            record.stage("labels", "aa")
            lease.check(str(folder))

    with pytest.raises(LeaseLost):
        loses()
    assert (folder / "session.json").read_text() == "the new owner's"


@pytest.mark.parametrize("error", [ConfigError("clip.model: not there"), Lost("clip.model: not there")])
def test_the_kind_of_an_error_does_not_matter_but_when_it_comes(end, error) -> None:
    assert end(check=raises(error)) == (2, "not started: clip.model: not there\n")
    assert end(work=raises(error)) == (1, "stopped: clip.model: not there\n")


def test_what_a_worker_says_is_the_last_word(end) -> None:
    assert end(work=wrapped) == (1, "stopped: the photos are gone\n")


def test_ctrl_c_is_no_error(end) -> None:
    assert end(work=raises(KeyboardInterrupt())) == (
        130,
        "interrupted: the same command goes on from what is finished\n",
    )
    assert end(check=raises(KeyboardInterrupt())) == (130, "interrupted\n")


def test_to_be_told_to_end_is_no_error(end) -> None:
    assert end(work=raises(SystemExit(143))) == (143, "terminated: the same command goes on from what is finished\n")


def test_an_error_that_nobody_foresaw_is_shown_as_it_is(end) -> None:
    with pytest.raises(ZeroDivisionError):
        end(work=lambda _: 1 / 0)


def test_what_a_store_refuses_is_a_sentence_before_and_after_the_start(end) -> None:
    status, words = end(check=raises(NoCredentialsError()))
    assert status == 2
    assert words.startswith("not started: there are no credentials for it")
    status, words = end(work=raises(NoCredentialsError()))
    assert status == 1
    assert words.startswith("stopped: there are no credentials for it")
    assert "Traceback" not in words


def test_a_plan_is_shown_and_nothing_is_opened(end, capsys) -> None:
    given = {"plan": lambda config: f"a plan of {config.run.name}\n", "argv": ("--run.name", "mine", "--plan")}
    run_main("A script.", PRESETS, raises(AssertionError("it ran")), **given)
    assert capsys.readouterr().out == "a plan of mine\n"
    # What would keep it from starting is said below it.
    with pytest.raises(SystemExit) as left:
        run_main("A script.", PRESETS, raises(AssertionError("it ran")), check=raises(Lost("no model")), **given)
    out, err = capsys.readouterr()
    assert (left.value.code, out, err) == (2, "a plan of mine\n", "not started: no model\n")


def test_a_run_that_its_budget_stops_has_a_status_of_its_own(end: Callable[..., tuple[object, str]]) -> None:
    status, said = end(work=raises(BudgetReached("run.budget: US$ 4.9 of US$ 5 are spent")))
    assert status == 3
    assert said == "stopped: run.budget: US$ 4.9 of US$ 5 are spent\n"
