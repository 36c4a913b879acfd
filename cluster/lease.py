"""Who owns a run: a numbered file in its folder that one session alone can have made, with signs of life in it.

`owner/00000007.json` in the run folder is made by whoever takes the run, and only where no such file is
(`storage.create_bytes`: of many at once one succeeds, on disks and on object stores). The highest number is the owner;
nothing is ever compared and swapped. The owner rewrites its file with a new count again and again. Whoever wants to
know whether it lives watches whether the content changes, on a clock of their own: no two clocks need to agree. Who
takes a run over makes the next number, and removes the one before: its owner finds that out at its next sign of life,
and before each of its writes that another session could miss (`check`).
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


class LeaseLost(UserError):
    """Another session owns the run now: this one must write nothing more."""


@dataclass(frozen=True)
class Owner:
    """A session that has a run, or had it, as its file says.

    Attributes:
        token: no other session has it.
        process: that drives the run.
        user: who started it.
        command: the command line, with `***` for secrets.
        job: id of the Ray job that it is, if it is one.
        since: when it took the run, seconds since 1970 by its own clock; for people, never compared.
        beats: signs of life so far.
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
        """This process, as an owner that begins now."""
        command = masked_words(sys.orig_argv)
        return cls(uuid.uuid4().hex, ProcessIdentity.here(), _user(), command, _job(), time.time())

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """As `as_json` wrote it; what cannot be read is an owner of whom nothing is known."""
        try:
            facts = json.loads(data)
            owner = cls(**{**facts, "process": ProcessIdentity(**facts["process"])})
            str(owner)
            words = [owner.token, owner.user, owner.job, owner.state, *owner.command]
            sound = all(isinstance(word, str) for word in words) and isinstance(owner.process.pid, int)
        # OSError: times that no clock has.
        except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
            return cls()
        return owner if sound else cls()

    def as_json(self) -> bytes:
        """As a file holds it."""
        return json.dumps(asdict(self), indent=1).encode()

    @property
    def is_free(self) -> bool:
        """The run is anybody's: its session said that it ended, or its process has ended for certain."""
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
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def _job() -> str:
    """The id that `ray job submit` gave this driver; empty where it is none."""
    try:
        facts = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(facts["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return ""


def file_of(folder: str, number: int) -> str:
    """The file of a run's owner with that number."""
    return storage.join(folder, FOLDER, f"{number:08d}.json")


def numbers(folder: str) -> list[int]:
    """Numbers of the owners whose files are there, ascending."""
    found = (_NUMBERED.fullmatch(name) for name in storage.list_files(storage.join(folder, FOLDER), ".json"))
    return sorted(int(match[1]) for match in found if match)


def newest(folder: str) -> tuple[int, bytes] | None:
    """Number and file of a run's last owner; None where it never had one."""
    while there := numbers(folder):
        with suppress(FileNotFoundError):
            return there[-1], storage.read_bytes(file_of(folder, there[-1]))
        time.sleep(0.1)  # another one has just been made, and a network drive may list it a little later
    return None


@dataclass(frozen=True)
class Fence:
    """What it takes to see whether a run is still whose it was; travels to other processes.

    Attributes:
        folder: of the run.
        number: of the owner.
        token: its token.
    """

    folder: str
    number: int
    token: str

    @property
    def file(self) -> str:
        """The owner's own file."""
        return file_of(self.folder, self.number)

    def check(self) -> None:
        """Raise LeaseLost where the run has another owner, or none; what storage refuses is raised as it is."""
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
        """Whether the folder of owners cannot be seen at all, as where a network drive is not there for a while."""
        return not numbers(self.folder)


_ENDS = (
    "this session writes nothing more and ends. What it had finished is kept; `python pipelines/status.py` with the "
    "run's folder says how far the run is"
)


class Lease:
    """A run that this process owns; safe for several threads.

    Args:
        fence: the number that it has.
        owner: what its file says.
        on_lost: called once, on the thread that sees it, when another session has taken the run.
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
        """Why this session owns the run no longer, as far as was seen; None while it does."""
        return self._lost

    def check(self) -> None:
        """To be called before what another owner could miss or undo: raises LeaseLost where there is another one."""
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
        """A sign of life. Storage that is away for a while ends nothing: who took the run meanwhile is seen later."""
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
            # An object store's library raises errors of its own, of no common kind.
            except Exception as error:
                self._silent(error)

    def _silent(self, error: Exception) -> None:
        now = time.monotonic()
        self._silent_since = now if self._silent_since is None else self._silent_since
        log.debug("no sign of life could be left at %s: %s", self.fence.file, error)
        if now - self._silent_since > TELL_SECONDS and not self._told:
            self._told = True
            log.warning(
                "%s: no sign of life could be left for %.0f min (%s). The work goes on; a session on another machine "
                "could take the run for abandoned meanwhile",
                self.fence.folder,
                (now - self._silent_since) / 60,
                error,
            )

    def release(self) -> None:
        """The run is anybody's. Where it is lost, who took it reads in this session's own file that this one ended."""
        with self._lock:
            try:
                if Owner.from_json(storage.read_bytes(self.fence.file)).token == self._owner.token:
                    self._write(replace(self._owner, state=RELEASED))
            except FileNotFoundError:
                return
            except Exception as error:  # as above
                log.warning("%s could not be given back: %s", self.fence.folder, error)

    def _write(self, owner: Owner) -> None:
        storage.write_bytes(self.fence.file, owner.as_json())
        self._owner = owner


def claim(folder: str, number: int, owner: Owner) -> Lease | None:
    """Take the run with that number; None where another session was quicker.

    Files of earlier owners stay until `forget_earlier`: they say whether these have ended.
    """
    fence = Fence(folder, number, owner.token)
    if not storage.create_bytes(fence.file, owner.as_json()):
        return None
    there = numbers(folder)
    if there and there[-1] > number:  # others have come and gone since we looked
        storage.remove(fence.file)
        return None
    return Lease(fence, owner)


def forget_earlier(lease: Lease) -> None:
    """Remove the files of earlier owners."""
    for number in numbers(lease.fence.folder):
        if number < lease.fence.number:
            storage.remove(file_of(lease.fence.folder, number))


_held: list[Lease] = []
_LOCK = threading.Lock()


def hold(lease: Lease) -> Callable[[], None]:
    """Make it one that `check` knows, until the function that is returned is called."""
    with _LOCK:
        _held.append(lease)

    def end() -> None:
        with _LOCK:
            _held.remove(lease)

    return end


def held(uri: str | None = None) -> Iterator[Lease]:
    """Leases of this process: on the run that `uri` lies in, or all."""
    with _LOCK:
        leases = list(_held)
    for lease in leases:
        if uri is None or f"{uri.rstrip('/')}/".startswith(f"{lease.fence.folder.rstrip('/')}/"):
            yield lease


def check(uri: str | None = None) -> None:
    """Before a write that another session could miss or undo: raises LeaseLost where this one has lost the run.

    Nothing happens where this process owns no run at `uri`: a worker, a test, a notebook.
    """
    for lease in held(uri):
        lease.check()


def fence_of(uri: str) -> Fence | None:
    """The fence of the run that `uri` lies in, for a process that is to check it; None where there is no such run."""
    return next((lease.fence for lease in held(uri)), None)
