"""Taking a run, keeping it, giving it back: what happens when a session begins where another one works, or did.

A session that ended gave its run back, and one whose process is certainly gone has none: such a run is taken at once.
Of a session on another machine only its signs of life can be seen: there the new one waits until they have failed to
come for `SILENCE` seconds of its own clock. While they come it is refused, in a sentence that names the other.
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
"""Seconds between two signs of life. Each is three small requests to the storage."""
SILENCE = 90.0
"""Seconds without one after which a session is taken for ended: nine that did not come. One is late where the storage
asks to slow down (15 s at a time), or where a C library holds the interpreter's lock, which keeps the thread from
running; nothing here holds it for more than seconds."""
HANDOVER = 30.0
"""Seconds that who takes a run over waits for the other to end: three signs of life, at each of which it would see."""
LOOK = 1.0
AGAIN = 30.0
"""Seconds after which a session that should have ended is told once more."""
WAITING = "waiting-"
TERMINATED = (signal.SIGTERM, signal.SIGHUP)
TOLD = frozenset(128 + number for number in TERMINATED)
"""Exit statuses after them, as shells have it."""

log = logging.getLogger(__name__)

Clock = Callable[[], float]
Pause = Callable[[float], object]


class RunTaken(UserError):
    """Another session works on the run; the message names it, and says how to take over."""


class OwnerUnreadable(UserError):
    """What should say whose a run is can be neither read nor made; the message names it."""


def acquire(folder: str, *, take_over: bool = False, clock: Clock = time.monotonic, pause: Pause = time.sleep) -> Lease:
    """Own the run in `folder`; a name that is not there yet is one, too.

    Args:
        folder: of the run, absolute.
        take_over: from a session that works, too.
        clock: seconds, of this process alone.
        pause: waits.

    Raises:
        RunTaken: another session works on it.
        OwnerUnreadable: something else is where its owner should stand.
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
                    except BaseException:  # Ctrl-C while it waits: a notebook's process lives on, without the run
                        mine.release()
                        raise
            if mine is not None:
                lease.forget_earlier(mine)
                _forget_waiting(folder)
                return mine
            tried.check(found[0] + 1 if found else 1, clock())
            pause(LOOK)  # another session was quicker
    finally:
        waiting.ends()


@dataclass
class _Tried:
    """The number that this session could not take: who was quicker has it, and then the next one is tried."""

    folder: str
    number: int = 0
    since: float = 0.0

    def check(self, number: int, now: float) -> None:
        """Raises OwnerUnreadable where nobody has it and it cannot be taken either."""
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
    """Another owner's number, and what its file held when this session first looked."""

    number: int
    data: bytes
    since: float


class _Waiting:
    """Says on the console and in the run folder (for status.py) that this session waits for another one's signs."""

    def __init__(self, folder: str, me: Owner) -> None:
        self._folder, self._me, self._told = folder, me, False
        self._file = storage.join(folder, FOLDER, f"{WAITING}{me.token}.json")

    def begins(self, other: Owner) -> None:
        if other.process.is_alive:
            return
        self._told = True
        log.warning(
            "%s: a session never said that it ended: %s. Waiting for a sign of life of it, at most %.0f s; without one "
            "this session goes on (--run.take_over true: at once)",
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
    """Say so and, where the other may be at work, wait until it has ended, or would have seen that it lost the run."""
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
    log.warning("%s: that session may still be at work; it stops before it writes what could hurt", folder)


def _forget_waiting(folder: str) -> None:
    """Signs of sessions that wait: those that still do leave another one."""
    for name in _waiting(folder):
        with suppress(FileNotFoundError):  # it has just ended its wait
            storage.remove(storage.join(folder, FOLDER, name))


@dataclass(frozen=True)
class Seen:
    """What can be told of a run's owner without being it.

    Attributes:
        owner: that has the run, or had it last.
        is_alive: its process lives here, or a sign of life came while somebody watched.
        waiting: a session that waits for this one's signs to fail; None where there is none.
        silent: seconds that were watched without a sign of life; None where none needed to be.
    """

    owner: Owner
    is_alive: bool
    waiting: Owner | None = None
    silent: float | None = None


def look(folder: str, seconds: float, *, clock: Clock = time.monotonic, pause: Pause = time.sleep) -> Seen | None:
    """Whether a run has an owner that lives; None for a run that never had one. Nothing is written.

    Args:
        folder: of the run.
        seconds: an owner on another machine is watched at most.
        clock: seconds, of this process alone.
        pause: waits.
    """
    first, waiting = lease.newest(folder), _waiting(folder)
    if first is None:
        return None
    owner, begin = Owner.from_json(first[1]), clock()
    if owner.is_free or owner.process.is_alive:
        return Seen(owner, not owner.is_free, _who_waits(folder, waiting))
    if seconds:
        log.warning("%s: watching for a sign of life of %s, at most %.0f s", folder, owner, seconds)
    while clock() - begin < seconds:
        pause(LOOK)
        now = lease.newest(folder)
        if now is not None and now != first:
            owner = Owner.from_json(now[1])
            return Seen(owner, not owner.is_free, _who_waits(folder, waiting))
    return Seen(owner, False, _who_waits(folder, waiting), clock() - begin)


def _waiting(folder: str) -> dict[str, bytes]:
    """What sessions that wait have left, by name."""
    place, found = storage.join(folder, FOLDER), {}
    for name in storage.list_files(place, ".json"):
        if name.startswith(WAITING):
            with suppress(FileNotFoundError):
                found[name] = storage.read_bytes(storage.join(place, name))
    return found


def _who_waits(folder: str, before: dict[str, bytes]) -> Owner | None:
    """One that waits still: it lives here, or has left another sign since."""
    for name, data in _waiting(folder).items():
        session = Owner.from_json(data)
        if session.process.is_alive or before.get(name, data) != data:
            return session
    return None


@contextmanager
def owned(
    folder: str, *, take_over: bool = False, beat: float = BEAT, on_lost: Callable[[], object] = lambda: None
) -> Iterator[Lease]:
    """Own the run in `folder` as long as the block lasts, with signs of life; it is given back however the block ends.

    A process that is told to end (SIGTERM, SIGHUP) leaves the block by SystemExit; one that loses the run, too, and
    then LeaseLost is raised behind it.

    Args:
        folder: of the run, absolute.
        take_over: from a session that works, too.
        beat: seconds between two signs of life.
        on_lost: called once when the run is lost, on the thread that sees it, before the block is left.

    Raises:
        RunTaken: another session works on it.
        LeaseLost: another session took it over meanwhile.
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
    """SIGTERM and SIGHUP raise SystemExit, so that what has to be given back is; Ray's start undoes it, then it is due
    again. Outside the main thread nothing happens, and a signal that is ignored (nohup) stays so.
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
    """Signs of life until the run is lost; then, where nobody has raised it yet, the main thread is told to end.

    Looked at every second by a clock that goes on while the machine sleeps: a laptop that wakes up finds out at once.
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
    else:  # seen where it was checked, which raises there
        if stop.wait(AGAIN):
            return
    while tell:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if stop.wait(AGAIN):
            return


def _awake_or_not() -> float:
    """Seconds, those in which the machine slept included where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
