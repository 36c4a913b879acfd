"""The record of a session in the run folder: its command, heartbeat and stages, and how it ended.

`session.json` in the run folder is written when a session starts, every half minute, at every stage and at the end. So
a session without a recorded end was cut off. Whether a session is alive is decided by the run's lease
(`cluster.lease`), not here; the times here are from its own clock. Secrets are masked.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from cluster import lease
from cluster.heartbeat import beating, leave
from cluster.lease import LeaseLost
from fgvr import storage
from fgvr.errors import user_error_in
from fgvr.redact import masked_words, safe

FILE = "session.json"
BEAT = 30.0
PATIENCE = 3 * BEAT
RUNNING, FINISHED, STOPPED, CUT_OFF = "running", "finished", "stopped", "cut off"

log = logging.getLogger(__name__)


@dataclass
class Session:
    """One session of a run, as recorded in its file.

    Attributes:
        command: the command line as given, with secrets as `***`.
        folder: its working directory.
        submitted: whether it was sent to a cluster with `ray job submit`.
        host: name of the machine.
        pid: process id of the driver.
        started: start time, seconds since 1970.
        beat: time of the last heartbeat.
        state: running, finished or stopped.
        message: why it stopped.
        stages: (table, fingerprint) of every requested stage, in order.
        metrics: the Prometheus endpoint, if there is one.
    """

    command: list[str] = field(default_factory=list)
    folder: str = ""
    submitted: bool = False
    host: str = ""
    pid: int = 0
    started: float = 0.0
    beat: float = 0.0
    state: str = RUNNING
    message: str = ""
    stages: list[list[str]] = field(default_factory=list)
    metrics: str | None = None

    @classmethod
    def here(cls) -> Self:
        """The session of this process, which starts now."""
        return cls(
            command=masked_words(sys.orig_argv),
            folder=str(Path.cwd()),
            submitted="RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=time.time(),
            beat=time.time(),
        )

    @classmethod
    def read(cls, folder: str) -> Self | None:
        """The last session of a run; None where there is no record that this version can read."""
        try:
            return cls(**json.loads(storage.read_bytes(storage.join(folder, FILE))))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def silent(self, now: float | None = None) -> float:
        """Seconds since the last heartbeat; 0 where the clocks of two machines would make them negative."""
        return max(0.0, (time.time() if now is None else now) - self.beat)

    def state_now(self, now: float | None = None) -> str:
        """Its state, or `cut off` where it recorded no end and sends no heartbeats.

        Used for runs of earlier versions, which have no lease; it relies on synchronised clocks.
        """
        if self.state != RUNNING:
            return self.state
        here = self.host == socket.gethostname() and not self.submitted  # a job's container has its own process ids
        return RUNNING if self.silent(now) < PATIENCE and not (here and not _is_alive(self.pid)) else CUT_OFF


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class RunRecord:
    """Writes a run's `session.json`; thread-safe."""

    def __init__(self, folder: str) -> None:
        self._file = storage.join(folder, FILE)
        self._session = Session.here()
        self._lock = threading.Lock()

    def stage(self, name: str, fingerprint: str) -> None:
        """Record that a stage was requested."""
        if [name, fingerprint] not in self._session.stages:
            self._session.stages.append([name, fingerprint])
            self.write()

    def serves(self, metrics: str | None) -> None:
        """Record where Prometheus finds this session's metrics."""
        self._session.metrics = metrics
        self.write()

    def ended(self, state: str, message: str = "") -> None:
        """Record how the session ended."""
        self._session.state, self._session.message = state, message
        self.write()

    def write(self) -> None:
        """Write a heartbeat with the whole record; a failed write does not stop the run.

        A session that has lost its run writes nothing: the file belongs to the new owner.
        """
        with self._lock:
            try:
                lease.check(self._file)
            except LeaseLost:
                return
            # As in `leave`: a heartbeat that cannot be written stops nothing.
            except Exception as error:
                log.debug("no heartbeat could be written at %s: %s", self._file, error)
                return
            self._session.beat = time.time()
            leave(self._file, json.dumps(asdict(self._session), indent=1).encode())


@contextmanager
def recorded(folder: str, beat: float = BEAT) -> Iterator[RunRecord]:
    """Within the block, keep the record of a session; at the end record how it ended."""
    record = RunRecord(folder)
    record.write()
    state, message = FINISHED, ""
    try:
        with beating(record.write, beat, last=beat):
            yield record
    except BaseException as error:
        state = STOPPED
        message = safe(str(user_error_in(error) or error).strip() or type(error).__name__)[:4000]
        raise
    finally:
        record.ended(state, message)
