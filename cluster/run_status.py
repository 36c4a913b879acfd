"""The progress of a run, read from the files in its folder: without Ray, without reading rows, without writing.

Finished stages are read from their manifests. For an unfinished stage, its plan gives the total number of rows, the
listing of its parts the finished rows, and the footers of the parts the failed ones.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypeVar

from cluster.lease import RELEASED, Owner
from cluster.ownership import BEAT, Seen, look
from cluster.run_record import CUT_OFF, FINISHED, RUNNING, STOPPED, Session
from cluster.stage_files import CLOCK, PROGRESS, RETRYING, TOO_MANY, Plan
from fgvr import storage, tables
from fgvr.errors import UserError
from fgvr.failures import Example, Failures
from fgvr.part_worker import REMARKS
from fgvr.sources.omissions import LeftOut
from fgvr.tables import Table

UNKNOWN = "unknown"
WAITING = "waiting"
WATCHED = 3 * BEAT
"""Longest time in seconds that a session on another machine is watched for a heartbeat."""
TAKE_OVER = "--run.take_over"
MOST_FOOTERS = 256
"""Most footers that are read; of more parts, a sample spread evenly over the table."""
THREADS = 32

Item = TypeVar("Item")
Found = TypeVar("Found")


class NoRun(UserError):
    """A folder holds no run."""


@dataclass(frozen=True)
class StageStatus:
    """The status of one stage.

    Attributes:
        name: name of its table.
        fingerprint: fingerprint of its settings.
        state: finished, running, stopped or cut off.
        rows: finished rows; 0 until the end for a stage without parts.
        rows_wanted: rows in the end; None where unknown.
        failed: failed rows so far; estimated where not all footers were read.
        failures: likewise, by reason.
        examples: one failed row per reason; empty for tables of earlier versions.
        table: the folder of the table.
        estimated: whether failures are estimated.
        seconds: wall time of all sessions, as of the last heartbeat.
        training: latest metrics of a training run.
        epochs: number of epochs of the whole training run.
        left_out: what a listing of photos left out, by reason and file extension (`fgvr.sources.omissions`).
        remarks: remarks in its manifest on how the table was made.
    """

    name: str
    fingerprint: str
    state: str
    rows: int = 0
    rows_wanted: int | None = None
    failed: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    estimated: bool = False
    seconds: float = 0.0
    training: dict[str, float] = field(default_factory=dict)
    epochs: float | None = None
    left_out: LeftOut = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    examples: dict[str, Example] = field(default_factory=dict)
    table: str = ""


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    Attributes:
        folder: the run folder.
        state: running, finished, stopped (by an error), cut off, waiting (a session waits until it is sure that the one
            before it was cut off), or unknown (without a session file).
        silent: seconds since the last heartbeat; for a session on another machine, seconds watched without one, or None
            where one was seen.
        session: the last session; None where there is no record.
        stages: the stages of that session, in order; without a session, all stages found.
        others: tables with other settings in the same folder.
        command: the command that continues the run; None where unknown.
        owner: the current or latest owner; None for a run of an earlier version.
        waiting: the session that waits for the owner.
    """

    folder: str
    state: str
    silent: float | None
    session: Session | None
    stages: list[StageStatus]
    others: int
    command: str | None
    owner: Owner | None = None
    waiting: Owner | None = None

    @property
    def by_config(self) -> str | None:
        """The same command with the resolved config of the run folder, in case the config file has changed since."""
        if self.session is None or self.command is None:
            return None
        command, config = self.session.command, ["--config", storage.join(self.folder, "config.yaml")]
        options = _first_option(command)
        if options is None:
            return None
        return continuing(self.session, [*command[:options], *_own_options(command[options:]), *config])


def run_status(folder: str, now: float | None = None, *, watched: float = WATCHED) -> RunStatus:
    """The status of the run in `folder`, a local path or a URL; raises NoRun.

    The lease decides whether a session is alive (`cluster.ownership.look`), only by this process's own clock.

    Args:
        folder: the run folder.
        now: seconds since 1970; None: now. Used only for runs of earlier versions, which have no lease.
        watched: longest time in seconds that a session on another machine is watched for a heartbeat.
    """
    folder = storage.absolute(folder)
    session = Session.read(folder)
    found = _tables(folder)
    seen = look(folder, watched)
    if session is None and not found and seen is None:
        raise NoRun(f"there is no run in {folder}: name a run's folder, as runs/demo or s3://bucket/runs/demo")
    if seen is not None:
        session = Session.read(folder)  # read again: watching may have taken a while
    state = _state(session, seen, now)
    asked = [(name, print_) for name, print_ in session.stages] if session is not None and session.stages else found
    last = asked[-1] if session is not None and asked else None
    stages = _parallel(
        lambda stage: _stage(folder, *stage, state=state if stage == last or state != RUNNING else CUT_OFF), asked
    )
    command = None if session is None else continuing(session, _without_take_over(session.command))
    others = len(set(found) - set(asked))
    silent = None if session is None else session.silent(now)
    if seen is not None and not seen.owner.process.is_within_sight:
        silent = seen.silent
    owner, waiting = (None, None) if seen is None else (seen.owner, seen.waiting)
    return RunStatus(folder, state, silent, session, stages, others, command, owner, waiting)


def _state(session: Session | None, seen: Seen | None, now: float | None) -> str:
    if seen is None:
        return UNKNOWN if session is None else session.state_now(now)
    if seen.is_alive:
        return RUNNING
    if seen.waiting is not None:
        return WAITING
    ended = session is not None and session.state != RUNNING
    return session.state if session is not None and ended and seen.owner.state == RELEASED else CUT_OFF


def _without_take_over(words: Sequence[str]) -> list[str]:
    """A given command without its request to take over, which should not be repeated."""
    kept, skip = [], False
    for word in words:
        name, _, value = word.partition("=")
        if skip and not word.startswith("--"):
            skip = False
            continue
        skip = name == TAKE_OVER and not value
        if name != TAKE_OVER:
            kept.append(word)
    return kept


def _first_option(words: Sequence[str]) -> int | None:
    """Where the options of a script begin, `python x.py …`, `fgvr run …` or `python -m fgvr run …`; None: not known."""
    for place, word in enumerate(words):
        if word.endswith(".py"):
            return place + 1
        if PurePath(word).stem == "fgvr" and place + 1 < len(words):
            return place + 2
    return None


def _own_options(words: Sequence[str]) -> list[str]:
    """Options of the script itself, such as `--stage near` of a sweep; config options have a dot in their names."""
    kept, own = [], False
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--").partition("=")[0]
            own = name != "config" and "." not in name
        if own:
            kept.append(word)
    return kept


def continuing(session: Session, words: Sequence[str]) -> str:
    """A session's command for a shell, valid in any folder."""
    command = shlex.join(words)
    if session.submitted:  # its working directory was a copy that ended with the job
        return f"ray job submit --working-dir . -- {command}"
    return f"cd {shlex.quote(session.folder)} && {command}"


def _tables(folder: str) -> list[tuple[str, str]]:
    """(name, fingerprint) of all folders below `tables/`, sorted."""
    place = storage.join(folder, "tables")
    names = storage.list_entries(place)[1]
    below = _parallel(lambda name: storage.list_entries(storage.join(place, name))[1], names)
    return [(name, found) for name, prints in zip(names, below, strict=True) for found in prints]


def _stage(folder: str, name: str, fingerprint: str, *, state: str) -> StageStatus:
    uri = storage.join(folder, "tables", name, fingerprint)
    try:
        done = Table.load(uri)
    except (FileNotFoundError, NotADirectoryError):
        return _unfinished(uri, name, fingerprint, CUT_OFF if state in {FINISHED, UNKNOWN} else state)
    return StageStatus(
        name,
        fingerprint,
        FINISHED,
        rows=done.rows,
        rows_wanted=done.rows,
        failed=done.failed,
        failures=dict(done.failures),
        seconds=done.seconds,
        left_out=done.extra.get("left_out", {}),
        remarks=tuple(done.extra.get(REMARKS, ())),
        examples=done.examples,
        table=uri,
    )


def _unfinished(uri: str, name: str, fingerprint: str, state: str) -> StageStatus:
    clock = _json(storage.join(uri, CLOCK))
    plan = Plan.read(uri)
    retried = _json(storage.join(uri, RETRYING))
    seconds = float(clock.get("seconds", 0.0)) + float(retried.get("seconds", 0.0))
    if plan is None:
        told = _json(storage.join(uri, TOO_MANY))
        found = Failures.from_json(told.get("failures", {}), told.get("examples"))
        return StageStatus(
            name,
            fingerprint,
            state,
            rows=told.get("rows", 0),
            rows_wanted=told.get("rows"),
            failed=found.counts.total(),
            failures=dict(found.counts),
            seconds=seconds,
            examples=found.examples,
            table=uri,
        )
    if plan.training is not None:
        training = _json(storage.join(uri, plan.training, PROGRESS))
        return StageStatus(name, fingerprint, state, seconds=seconds, training=training, epochs=plan.epochs)
    parts = sorted(tables.finished_parts(uri))
    found, share = _failures(uri, parts)
    return StageStatus(
        name,
        fingerprint,
        state,
        rows=sum(plan.rows_of(part) for part in parts),
        rows_wanted=plan.rows,
        failed=found.counts.total(),
        failures=dict(found.counts),
        estimated=share < 1,
        seconds=seconds,
        examples=found.examples,
        table=uri,
    )


def _failures(uri: str, parts: list[int]) -> tuple[Failures, float]:
    """Failed rows by reason with examples, and the share of the parts whose footers were read."""
    step = max(1, -(-len(parts) // MOST_FOOTERS))
    looked_at = parts[::step]
    found = Failures()
    for summary in _parallel(lambda part: tables.part_summary(uri, part), looked_at):
        found.add(Failures.from_json(summary["failures"], summary.get("examples")))
    share = len(looked_at) / len(parts) if parts else 1.0
    found.counts = Counter({reason: round(count / share) for reason, count in found.counts.items()})
    return found, share


def _parallel(work: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))


def _json(uri: str) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is none."""
    try:
        facts: dict[str, Any] = json.loads(storage.read_bytes(uri))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return facts


__all__ = [
    "CUT_OFF",
    "FINISHED",
    "RUNNING",
    "STOPPED",
    "UNKNOWN",
    "WAITING",
    "NoRun",
    "RunStatus",
    "StageStatus",
    "run_status",
]
