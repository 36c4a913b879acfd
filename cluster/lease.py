"""The lease of a run: a numbered file in its folder that only one session can have created, with that session's
heartbeat.

A session that takes a run creates `owner/00000007.json` in the run folder, which succeeds only if no such file exists
(`storage.create_bytes`: of many at once exactly one succeeds, on disks and on object stores). The highest number is the
owner, so no compare-and-swap is needed. The owner rewrites its file regularly with a new count, its heartbeat. Anyone
who wants to know whether the owner is alive watches for changes of the content by their own clock, so no two clocks
need to agree. A session that takes the run over creates the next number and removes the one before. The former owner
notices this at its next heartbeat, and before each write that another session could miss (`check`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Self

from cluster.process_identity import ProcessIdentity
from fgvr import storage
from fgvr.errors import UserError
from fgvr.redact import masked_words, safe

FOLDER = "owner"
HELD, RELEASED = "held", "released"
TELL_SECONDS = 180.0
_NUMBERED = re.compile(r"(\d{8,18})\.json")

log = logging.getLogger(__name__)

_ENDS = (
    "this session writes nothing more and ends. What it had finished is kept; `python pipelines/status.py` with the "
    "run's folder says how far the run is"
)
_LOCK = threading.Lock()


class LeaseLost(UserError):
    """Another session owns the run now: this one must not write any more."""


@dataclass(frozen=True)
class Owner:
    """The session that owns or owned a run, as its file describes it.

    Attributes:
        token: unique to this session.
        process: the process that drives the run.
        user: who started it.
        command: the command line, with secrets as `***`.
        job: id of its Ray job, if it is one.
        since: when it took the run, in seconds since 1970 by its own clock; only for display, never compared.
        beats: number of heartbeats so far.
        state: held or released.
    """

    token: str = ""
    process: ProcessIdentity = field(default_factory=ProcessIdentity)
    user: str = ""
    command: list[str] = field(default_factory=list)
    job: str = ""
    since: float = 0.0
    beats: int = 0
    state: str = HELD

    @classmethod
    def here(cls) -> Self:
        """This process as an owner that starts now."""
        command = masked_words(sys.orig_argv)
        return cls(uuid.uuid4().hex, ProcessIdentity.here(), _user(), command, _job(), time.time())

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The owner that `as_json` wrote; for unreadable data an owner of which nothing is known."""
        try:
            facts = json.loads(data)
            owner = cls(**{**facts, "process": ProcessIdentity(**facts["process"])})
            str(owner)
            words = [owner.token, owner.user, owner.job, owner.state, *owner.command]
            sound = all(isinstance(word, str) for word in words) and isinstance(owner.process.pid, int)
        # OSError: times out of range.
        except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
            return cls()
        return owner if sound else cls()

    def as_json(self) -> bytes:
        """The content of its file."""
        return json.dumps(asdict(self), indent=1).encode()

    @property
    def is_free(self) -> bool:
        """Whether the run can be taken: its session has released it, or its process has certainly ended."""
        return self.state == RELEASED or self.process.is_gone

    def __str__(self) -> str:
        if not self.token:
            return "a session whose file cannot be read"
        began = datetime.fromtimestamp(self.since).astimezone()
        words = f"process {self.process.pid} on {self.process.host}"
        words += f" (user {self.user})" if self.user else ""
        words += f", Ray job {self.job}" if self.job else ""
        words += f", since {began:%Y-%m-%d %H:%M:%S %Z} by its clock"
        return safe(f"{words}, with: {' '.join(self.command)}")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # the user of a container may have no name
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def _job() -> str:
    """The id that `ray job submit` gave to this driver; empty outside of a job."""
    try:
        facts = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(facts["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return ""


def file_of(folder: str, number: int) -> str:
    """The file of the owner with this number."""
    return storage.join(folder, FOLDER, f"{number:08d}.json")


def numbers(folder: str) -> list[int]:
    """Numbers of all existing owner files, ascending."""
    found = (_NUMBERED.fullmatch(name) for name in storage.list_files(storage.join(folder, FOLDER), ".json"))
    return sorted(int(match[1]) for match in found if match)


def newest(folder: str) -> tuple[int, bytes] | None:
    """Number and file of a run's latest owner; None where it never had one."""
    while there := numbers(folder):
        with suppress(FileNotFoundError):
            return there[-1], storage.read_bytes(file_of(folder, there[-1]))
        time.sleep(0.1)  # a newer file may just have been created, and a network drive may list it with a delay
    return None


@dataclass(frozen=True)
class Fence:
    """What is needed to check that a run still has the same owner; can be sent to other processes.

    Attributes:
        folder: the run folder.
        number: number of the owner.
        token: token of the owner.
    """

    folder: str
    number: int
    token: str

    @property
    def file(self) -> str:
        """The file of this owner."""
        return file_of(self.folder, self.number)

    def check(self) -> None:
        """Raise LeaseLost where the run has another owner, or none; errors of the storage are raised unchanged."""
        there = numbers(self.folder)
        if there and there[-1] > self.number:
            _, data = newest(self.folder) or (0, b"")
            raise LeaseLost(f"{self.folder}: {Owner.from_json(data)}, has taken this run over; {_ENDS}")
        try:
            own = Owner.from_json(storage.read_bytes(self.file))
        except FileNotFoundError:
            raise LeaseLost(
                f"{self.folder}: the file that says whose run it is, {self.file}, is gone; {_ENDS}"
            ) from None
        if own.token != self.token:
            raise LeaseLost(f"{self.folder}: {own}, has taken this run; {_ENDS}")

    def is_away(self) -> bool:
        """Whether the folder of owners is not visible at all, as when a network drive is away for a while."""
        return not numbers(self.folder)


class Lease:
    """The lease that this process holds on a run; thread-safe.

    Args:
        fence: its number, for checks.
        owner: the content of its file.
        on_lost: called once, on the thread that notices that another session has taken the run.
    """

    def __init__(self, fence: Fence, owner: Owner, on_lost: Callable[[], object] = lambda: None) -> None:
        self.fence = fence
        self.on_lost = on_lost
        self._owner = owner
        self._lock = threading.RLock()
        self._lost: str | None = None
        self._silent_since: float | None = None
        self._told = False

    @property
    def lost(self) -> str | None:
        """Why this session has lost the run, as far as it noticed; None while it owns the run."""
        return self._lost

    def check(self) -> None:
        """Raise LeaseLost where there is another owner; call before a write that another owner could miss or undo."""
        if self._lost is None:
            try:
                self.fence.check()
            except LeaseLost as error:
                self._lose(str(error))
        if self._lost is not None:
            raise LeaseLost(self._lost)

    def _lose(self, why: str) -> None:
        with self._lock:
            if self._lost is None:
                self._lost = why
                self.on_lost()

    def beat(self) -> None:
        """Write a heartbeat. Unreachable storage ends nothing: a takeover in the meantime is noticed later."""
        with self._lock:
            if self._lost is not None or self._owner.state == RELEASED:
                return
            try:
                if self.fence.is_away():
                    self._silent(FileNotFoundError(self.fence.file))
                    return
                self.check()
                self._write(replace(self._owner, beats=self._owner.beats + 1))
                self._silent_since, self._told = None, False
            except LeaseLost:
                return
            # Libraries of object stores raise errors without a common base class.
            except Exception as error:
                self._silent(error)

    def _silent(self, error: Exception) -> None:
        now = time.monotonic()
        self._silent_since = now if self._silent_since is None else self._silent_since
        log.debug("no heartbeat could be written at %s: %s", self.fence.file, error)
        if now - self._silent_since > TELL_SECONDS and not self._told:
            self._told = True
            log.warning(
                "%s: no heartbeat could be written for %.0f min (%s). The work goes on; a session on another machine "
                "could take the run for abandoned meanwhile",
                self.fence.folder,
                (now - self._silent_since) / 60,
                error,
            )

    def release(self) -> None:
        """Give the run back. If it is lost, its new owner reads in this session's file that this session has ended."""
        with self._lock:
            try:
                if Owner.from_json(storage.read_bytes(self.fence.file)).token == self._owner.token:
                    self._write(replace(self._owner, state=RELEASED))
            except FileNotFoundError:
                return
            except Exception as error:  # as above
                log.warning("%s could not be released: %s", self.fence.folder, error)

    def _write(self, owner: Owner) -> None:
        storage.write_bytes(self.fence.file, owner.as_json())
        self._owner = owner


def claim(folder: str, number: int, owner: Owner) -> Lease | None:
    """Take the run with this number; None where another session was faster.

    Files of earlier owners stay until `forget_earlier`, because they say whether these have ended.
    """
    fence = Fence(folder, number, owner.token)
    if not storage.create_bytes(fence.file, owner.as_json()):
        return None
    there = numbers(folder)
    if there and there[-1] > number:  # other owners have come and gone since we looked
        storage.remove(fence.file)
        return None
    return Lease(fence, owner)


def forget_earlier(lease: Lease) -> None:
    """Remove the owner files of earlier owners."""
    for number in numbers(lease.fence.folder):
        if number < lease.fence.number:
            storage.remove(file_of(lease.fence.folder, number))


_held: list[Lease] = []


def hold(lease: Lease) -> Callable[[], None]:
    """Register a lease for `check`; the returned function unregisters it."""
    with _LOCK:
        _held.append(lease)

    def end() -> None:
        with _LOCK:
            _held.remove(lease)

    return end


def held(uri: str | None = None) -> Iterator[Lease]:
    """Leases of this process: on the run that contains `uri`, or all."""
    with _LOCK:
        leases = list(_held)
    for lease in leases:
        if uri is None or f"{uri.rstrip('/')}/".startswith(f"{lease.fence.folder.rstrip('/')}/"):
            yield lease


def check(uri: str | None = None) -> None:
    """Raise LeaseLost where this process has lost the run; call before a write that another session could miss or undo.

    Does nothing where this process owns no run at `uri`: in a worker, a test, a notebook.
    """
    for lease in held(uri):
        lease.check()


def fence_of(uri: str) -> Fence | None:
    """The fence of the run that contains `uri`, for a process that has to check it; None where there is no such run."""
    return next((lease.fence for lease in held(uri)), None)
