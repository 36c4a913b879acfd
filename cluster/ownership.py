"""Taking, keeping and giving back a run: what happens when a session starts on a run that another one owns or owned.

A run is taken at once if its session has given it back, or if the session's process has certainly ended. Of a session
on another machine only the heartbeats are visible: the new session waits until none has come for `SILENCE` seconds of
its own clock. If heartbeats come, it is refused with a message that names the owner.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType

from cluster import lease
from cluster.heartbeat import leave
from cluster.lease import FOLDER, Lease, LeaseLost, Owner
from fgvr import storage
from fgvr.errors import UserError

BEAT = 10.0
"""Seconds between two heartbeats. Each takes three small requests to the storage."""
SILENCE = 90.0
"""Seconds without a heartbeat after which a session counts as ended: nine are missing then. Heartbeats can be late
where the storage throttles (15 s at a time), or where a C library holds the GIL, so that the thread cannot run; nothing
here holds it for more than seconds."""
HANDOVER = 30.0
"""Seconds that a session which takes over waits for the former owner to end: three heartbeats, each of which notices
it."""
LOOK = 1.0
AGAIN = 30.0
"""Seconds after which a session that should have ended gets its signal again."""
WAITING = "waiting-"
TERMINATED = (signal.SIGTERM, signal.SIGHUP)
TOLD = frozenset(128 + number for number in TERMINATED)
"""Exit statuses after these signals, by the convention of shells."""

log = logging.getLogger(__name__)

Clock = Callable[[], float]
Pause = Callable[[float], object]


class RunTaken(UserError):
    """Another session works on the run; the message names it and says how to take over."""


class OwnerUnreadable(UserError):
    """The owner file can be neither read nor created; the message names it."""


def acquire(folder: str, *, take_over: bool = False, clock: Clock = time.monotonic, pause: Pause = time.sleep) -> Lease:
    """Take the run in `folder`, which need not exist yet.

    Args:
        folder: the run folder, absolute.
        take_over: whether to take it from a working session, too.
        clock: returns seconds; only of this process.
        pause: waits for some seconds.

    Raises:
        RunTaken: another session works on it.
        OwnerUnreadable: something else lies in the place of the owner file.
    """
    me = Owner.here()
    waiting = _Waiting(folder, me)
    watch: _Watch | None = None
    tried = _Tried(folder)
    try:
        while True:
            found = lease.newest(folder)
            if found is None:
                mine = lease.claim(folder, 1, me)
            else:
                number, data = found
                other = Owner.from_json(data)
                if not take_over and not other.is_free:
                    if watch is None or watch.number != number:
                        watch = _Watch(number, data, clock())
                        waiting.begins(other)
                    if other.process.is_alive or watch.data != data:
                        raise RunTaken(_refusal(folder, other))
                    if clock() - watch.since < SILENCE:
                        waiting.sign()
                        pause(LOOK)
                        continue
                mine = lease.claim(folder, number + 1, me)
                if mine is not None and not other.is_free:
                    try:
                        _taken_over(mine, number, other, clock, pause, wait=take_over)
                    except BaseException:  # Ctrl-C while waiting: a notebook's process goes on, without the run
                        mine.release()
                        raise
            if mine is not None:
                lease.forget_earlier(mine)
                _forget_waiting(folder)
                return mine
            tried.check(found[0] + 1 if found else 1, clock())
            pause(LOOK)  # another session was faster
    finally:
        waiting.ends()


@dataclass
class _Tried:
    """A number that this session could not take: a faster session has it, so the next number is tried."""

    folder: str
    number: int = 0
    since: float = 0.0

    def check(self, number: int, now: float) -> None:
        """Raise OwnerUnreadable where no session has it and it still cannot be taken."""
        if self.number != number:
            self.number, self.since = number, now
        elif now - self.since > HANDOVER:
            raise OwnerUnreadable(
                f"{self.folder}: this session cannot make {lease.file_of(self.folder, number)}, which says whose run "
                "it is: something that is no file of this program stands in its place. Remove it, or give this run "
                "another --run.name"
            )


@dataclass(frozen=True)
class _Watch:
    """Number of another owner, and the content of its file when this session first looked."""

    number: int
    data: bytes
    since: float


class _Waiting:
    """Says on the console and in the run folder (for status.py) that this session waits for another's heartbeats."""

    def __init__(self, folder: str, me: Owner) -> None:
        self._folder, self._me, self._told = folder, me, False
        self._file = storage.join(folder, FOLDER, f"{WAITING}{me.token}.json")

    def begins(self, other: Owner) -> None:
        if other.process.is_alive:
            return
        self._told = True
        log.warning(
            "%s: a session did not record that it ended: %s. Waiting for a heartbeat of it, at most %.0f s; without "
            "one this session goes on (--run.take_over true: at once)",
            self._folder,
            other,
            SILENCE,
        )

    def sign(self) -> None:
        self._me = replace(self._me, beats=self._me.beats + 1)
        leave(self._file, self._me.as_json())

    def ends(self) -> None:
        if self._told:
            with suppress(OSError):
                storage.remove(self._file)


def _refusal(folder: str, other: Owner) -> str:
    if other.job:
        stop = f"stop it (ray job stop {other.job})"
    else:
        stop = f"stop it (kill {other.process.pid}, on {other.process.host})"
    return (
        f"run.folder, run.name: another session works on {folder}: {other}.\n"
        "Two at once would undo each other's work. `python pipelines/status.py` with the run's folder says how far it "
        f"is; wait for it, {stop}, give this run another --run.name, or take the run over from it: --run.take_over true"
    )


def _taken_over(mine: Lease, number: int, other: Owner, clock: Clock, pause: Pause, *, wait: bool) -> None:
    """Log the takeover; if the former owner may still work, wait until it has ended or must have noticed the loss."""
    folder, end = mine.fence.folder, clock() + HANDOVER
    log.warning("%s: taken over from %s", folder, other)
    if not wait:
        return
    log.warning("%s: waiting at most %.0f s until that session has stopped", folder, HANDOVER)
    while clock() < end:
        with suppress(FileNotFoundError):
            if not Owner.from_json(storage.read_bytes(lease.file_of(folder, number))).is_free:
                pause(LOOK)
                continue
        return
    log.warning("%s: that session may still be at work; it stops before it writes anything that could do harm", folder)


def _forget_waiting(folder: str) -> None:
    """Remove the files of waiting sessions: those that still wait write them again."""
    for name in _waiting(folder):
        with suppress(FileNotFoundError):  # it has just stopped waiting
            storage.remove(storage.join(folder, FOLDER, name))


@dataclass(frozen=True)
class Seen:
    """What another process can find out about the owner of a run.

    Attributes:
        owner: the current or latest owner.
        is_alive: whether its process lives on this machine, or a heartbeat came during the watch.
        waiting: a session that waits for the owner's heartbeats to stop; None where there is none.
        silent: seconds of watching without a heartbeat; None where there was no need to watch.
    """

    owner: Owner
    is_alive: bool
    waiting: Owner | None = None
    silent: float | None = None


def look(folder: str, seconds: float, *, clock: Clock = time.monotonic, pause: Pause = time.sleep) -> Seen | None:
    """Find out whether the owner of a run is alive; None for a run that never had one. Writes nothing.

    Args:
        folder: the run folder.
        seconds: longest watch of an owner on another machine.
        clock: returns seconds; only of this process.
        pause: waits for some seconds.
    """
    first, waiting = lease.newest(folder), _waiting(folder)
    if first is None:
        return None
    owner, begin = Owner.from_json(first[1]), clock()
    if owner.is_free or owner.process.is_alive:
        return Seen(owner, not owner.is_free, _who_waits(folder, waiting))
    if seconds:
        log.warning("%s: watching for a heartbeat of %s, at most %.0f s", folder, owner, seconds)
    while clock() - begin < seconds:
        pause(LOOK)
        now = lease.newest(folder)
        if now is not None and now != first:
            owner = Owner.from_json(now[1])
            return Seen(owner, not owner.is_free, _who_waits(folder, waiting))
    return Seen(owner, False, _who_waits(folder, waiting), clock() - begin)


def _waiting(folder: str) -> dict[str, bytes]:
    """The files of waiting sessions, by name."""
    place, found = storage.join(folder, FOLDER), {}
    for name in storage.list_files(place, ".json"):
        if name.startswith(WAITING):
            with suppress(FileNotFoundError):
                found[name] = storage.read_bytes(storage.join(place, name))
    return found


def _who_waits(folder: str, before: dict[str, bytes]) -> Owner | None:
    """A session that still waits: it lives on this machine, or has written its file again since `before`."""
    for name, data in _waiting(folder).items():
        session = Owner.from_json(data)
        if session.process.is_alive or before.get(name, data) != data:
            return session
    return None


@contextmanager
def owned(
    folder: str, *, take_over: bool = False, beat: float = BEAT, on_lost: Callable[[], object] = lambda: None
) -> Iterator[Lease]:
    """Own the run in `folder`, with heartbeats, until the block ends in any way; then give it back.

    SIGTERM and SIGHUP leave the block by SystemExit. So does the loss of the run, after which LeaseLost is raised.

    Args:
        folder: the run folder, absolute.
        take_over: whether to take it from a working session, too.
        beat: seconds between two heartbeats.
        on_lost: called once when the run is lost, on the thread that notices it, before the block is left.

    Raises:
        RunTaken: another session works on it.
        LeaseLost: another session took it over in the meantime.
    """
    mine = acquire(folder, take_over=take_over)
    mine.on_lost = on_lost
    with ExitStack() as stack:
        stack.callback(mine.release)
        stack.callback(lease.hold(mine))
        stack.enter_context(ends_when_told())
        stack.enter_context(_beating(mine, beat))
        try:
            yield mine
        except BaseException as error:
            if mine.lost is not None:
                raise LeaseLost(mine.lost) from error
            raise
        if mine.lost is not None:
            raise LeaseLost(mine.lost)


@contextmanager
def ends_when_told() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit, so that resources are released; Ray's start undoes this, so call it
    again afterwards. Does nothing outside the main thread, and an ignored signal (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in TERMINATED}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _beating(mine: Lease, beat: float) -> Iterator[None]:
    stop = threading.Event()
    tell = threading.current_thread() is threading.main_thread()
    thread = threading.Thread(target=_beats, args=(mine, beat, stop, tell), name="owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=beat)


def _beats(mine: Lease, beat: float, stop: threading.Event, tell: bool) -> None:
    """Send heartbeats until the run is lost; then stop the main thread, unless a check has raised the loss already.

    The loop looks every second at a clock that runs while the machine sleeps: a laptop that wakes up notices at once.
    """
    last = _awake_or_not()
    while mine.lost is None:
        if stop.wait(min(LOOK, beat)):
            return
        if _awake_or_not() - last >= beat:
            mine.beat()
            last = _awake_or_not()
            if mine.lost is not None:
                log.warning("%s", mine.lost)
                break
    else:  # a check noticed it first, and raises there
        if stop.wait(AGAIN):
            return
    while tell:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if stop.wait(AGAIN):
            return


def _awake_or_not() -> float:
    """Seconds, including those in which the machine slept, where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
