"""A pool of processes that compute the parts of a table: it grows, shrinks, and replaces dead processes.

A process is a Ray actor (`cluster.part_actor`) that computes one part at a time; Ray only places it and reports its
death. The pool knows whether it is placed, whether its model is loaded, and which parts it has.

A process that dies over its parts is replaced, and they are given to others; `cluster.quarantine` counts what they end.
One that dies before its model is loaded is replaced a few times, because a machine may be to blame, and then no more:
three such deaths end the stage however large its pool may grow, those of processes that began together counting as one.
While others compute it may be one machine alone: then the next process that is placed there keeps its place and loads
nothing, until one has come up somewhere, or the last one that computes is gone: then starts are tried anew.

A model may load everywhere and break at its first work. So a pool loads no more models than it begins with before one
has worked for a while; and after a death over a part before any part is done, a smoke test comes first: one process
computes a single row, of a part that has killed nobody if there is one. If it can, the model works, and the part is
treated as any other (its rows may be to blame). If deaths go on, the third ends the stage, again counting those that
began together as one.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

from cluster.heartbeat import Heartbeats
from cluster.part_actor import STOPPED, StageStopped
from cluster.stall import LOOK_SECONDS, StallDetector
from fgvr.errors import UserError

log = logging.getLogger(__name__)

TRIES = 3
TRUST_SECONDS = 10.0
"""A process that has computed for so long does not break at its first work: others may load the model, too."""
MOST_WORDS = 500
"""Characters of Ray's own words."""
AHEAD = 2
"""Most parts that a process has at a time, so that it need not wait for the driver between two of them."""


class WorkersDoNotStart(UserError):
    """One worker after another died while it loaded its model."""


class WorkersDied(UserError):
    """One worker after another died on the same work, or at its first work."""


class Process(Protocol):
    """A process with the methods of `cluster.part_actor.PartActor`, which may still wait to be placed."""

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        """Queue a call after the earlier ones; its result raises RayActorError if the process is dead."""
        ...

    def end(self) -> None:
        """Kill it at once."""
        ...


class Part(NamedTuple):
    """A part to compute: its number, and whether only its failed rows are retried."""

    number: int
    again: bool = False


class Gate:
    """What a job's owner is told of its parts, and asked before another one is begun; this one lets all pass."""

    def may_begin(self, part: Part, under_way: int) -> bool:
        """Whether a part may be begun beside so many others."""
        return True

    def check(self, part: Part) -> None:
        """Raise a UserError if a part may not be begun, although nothing is under way."""

    def done(self, summary: dict[str, Any]) -> None:
        """Take note of a part's summary, before another part is begun; may take something out of it."""

    def lost(self, heartbeats: Heartbeats) -> None:
        """A process has died, of which the heartbeats tell what it last said."""


OPEN = Gate()


class _State(Enum):
    PLACING = auto()  # it may lack resources
    HELD = auto()  # it is placed, but must not load anything yet
    STARTING = auto()  # it is loading the model
    READY = auto()


@dataclass(eq=False)
class _Member:
    process: Process
    state: _State = _State.PLACING
    parts: list[Part] = field(default_factory=list)  # the parts that it has, in order
    since: float = 0.0  # when it got the first of them, having had none
    tests: bool = False  # it computes a single row as a smoke test
    was_up: bool = False  # for an earlier job: so its death does not mean that models cannot be loaded


class _Answer(NamedTuple):
    member: _Member
    method: str
    part: Part | None
    future: Future[Any]


class Pool:
    """Processes with the same resources, for one job after the other.

    Args:
        spawn: requests a process, which is placed when resources are free.
        heartbeats: the heartbeats of its processes.
        place_minutes: longest wait for an answer or a heartbeat.
    """

    def __init__(self, spawn: Callable[[], Process], heartbeats: Heartbeats, place_minutes: float) -> None:
        self.heartbeats = heartbeats
        self.keeps_idle = False
        """Whether idle processes are kept for the next job."""
        self.starved: Callable[[], None] = lambda: None
        """Called when a process waits in vain to be placed."""
        self._spawn, self._minutes = spawn, place_minutes
        self._members: dict[_Member, None] = {}
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._loss: BaseException | None = None  # of the last process that died
        self._deaths = 0  # while they started, since one has come up or the last one that was up is gone

    def __len__(self) -> int:
        return len(self._members)

    def run(
        self,
        name: str,
        packed: Any,
        parts: Iterable[Part],
        *,
        at_once: int,
        most: int,
        lives: int,
        waits_for: Callable[[int], str],
        gate: Gate = OPEN,
    ) -> Iterator[dict[str, Any]]:
        """Yield the summaries of a job's parts as they are finished.

        Args:
            name: name of the job.
            packed: the argument of `PartActor.take`.
            parts: the parts to compute.
            at_once: number of processes to start with, all at the same time.
            most: largest number of processes.
            lives: number of deaths on one part after which the job is given up.
            waits_for: says what the driver waits for, given the number of parts left.
            gate: told of all parts.

        Raises:
            UserError: the gate lets no further part begin.
            StageStopped: a process reported an error that the user has to fix.
            WorkersDoNotStart: no process can be started.
            WorkersDied: too many processes died on one part, or at their first work.
            Stalled: there was no answer and no heartbeat for too long.
        """
        self._name, self._packed, self._at_once, self._most = name, packed, at_once, most
        self._lives, self._ended, self._tested, self._gate = lives, Counter[Part](), Counter[Part](), gate
        self._waiting, self._loads, self._works, self._broken, self._begun = deque(parts), False, False, 0, 0
        self.heartbeats.forget()  # last words of an earlier job are none of this one's
        self._left = len(self._waiting)
        for number, member in enumerate(list(self._members)):
            if number < most:
                member.was_up = True
                self._start(member)
            else:
                self._end(member)
        pulse = StallDetector(self.heartbeats)
        while self._left:
            if self._waiting and not self._under_way:
                gate.check(self._waiting[0])
            self._resize()
            try:
                answer = self._answers.get(timeout=min(LOOK_SECONDS, self._minutes * 15))
            except queue.Empty:
                if any(member.state is _State.PLACING for member in self._members):
                    self.starved()
                self._admit()
                pulse.look(self._minutes, lambda: waits_for(self._left))
                continue
            pulse.heard()
            summary = self._take(answer)
            if summary is not None:
                self._left -= 1
                yield summary
        for member in [each for each in self._members if each.state is not _State.READY or each.tests]:
            self._end(member)
        self._packed = None  # it may hold the ids of a table, which an idle pool need not keep in the object store

    def close(self) -> None:
        """End all processes and delete their heartbeats."""
        for member in list(self._members):
            self._end(member)
        self.heartbeats.forget()

    def _take(self, answer: _Answer) -> dict[str, Any] | None:
        """Handle an answer; returns the summary if it is that of a finished part."""
        from ray.exceptions import RayError, RayTaskError

        member, method, part, future = answer
        if member not in self._members:
            return None
        error = future.exception()
        if isinstance(error, RayError) and not isinstance(error, RayTaskError):
            self._lost(member, error)
            return None
        if error is not None:
            raise error
        said = future.result()
        if part is not None:
            member.parts.remove(part)
            self._gate.done(said)
            if STOPPED in said:
                raise StageStopped(said[STOPPED])
            if self._works:
                self._feed(member)
            else:
                self._work_is_proven()
            return dict(said)
        if method == "placed":
            member.state = _State.HELD
            self._admit()
        elif said is not None:
            raise StageStopped(said)
        elif method == "smoke_test":
            member.tests = False
            self._work_is_proven()
        else:
            self._came_up(member)
        return None

    def _admit(self) -> None:
        """Let held processes load the model, as far as they may."""
        for member in [each for each in self._members if each.state is _State.HELD]:
            if not self._may_start():
                return
            self._start(member)

    def _may_start(self) -> bool:
        """Whether one more process may load the model."""
        if max(self._deaths, self._broken) >= self._most_deaths:
            return False
        loaded = sum(each.state in {_State.STARTING, _State.READY} for each in self._members)
        if self._broken:  # so many in all: but there is always one that can show that the model works
            return loaded == 0 or (loaded < self._at_once and self._begun < self._most_deaths)
        return self._works or loaded < self._at_once or self._is_trusted()

    def _is_trusted(self) -> bool:
        """Whether a process has computed for so long that the model works, though no part is done yet."""
        now = time.monotonic()
        return any(each.parts and now - each.since >= TRUST_SECONDS for each in self._members)

    def _start(self, member: _Member) -> None:
        member.state = _State.STARTING
        self._begun += not member.was_up
        self._ask(member, None, "take", self._name, self._packed)

    def _came_up(self, member: _Member) -> None:
        member.state, self._loads, self._deaths = _State.READY, True, 0
        self._feed(member)
        self._admit()

    def _work_is_proven(self) -> None:
        """The model works: deaths before say nothing of it."""
        self._works, self._broken = True, 0
        for member in self._members:
            self._feed(member)
        self._admit()

    def _lost(self, member: _Member, error: BaseException) -> None:
        """A process is dead: others get its parts, and it is replaced if needed."""
        log.debug("%s: a worker is gone: %s", self._name, error)
        self._loss = error
        self._gate.lost(self.heartbeats)
        had_loaded = member.was_up or member.state is _State.READY
        taken_away = getattr(error, "preempted", False)  # with its node: that is nobody's fault
        self._end(member)
        if had_loaded and not self._at_work():
            self._deaths = 0  # starts are tried anew
        elif not had_loaded and not taken_away:
            self._deaths += 1
        if (member.parts or member.tests) and not self._works and not taken_away:
            self._broken += 1
        if member.parts and not taken_away:
            self._ended[member.parts[0]] += 1  # those behind it were not begun
            if self._ended[member.parts[0]] >= self._lives:
                raise WorkersDied(
                    f"{self._name}: {self._lives} workers died over the same work; {self._last_said()}"
                ) from error
        self._waiting.extendleft(reversed(member.parts))
        for other in self._members:
            self._feed(other)
        self._admit()

    @property
    def _most_deaths(self) -> int:
        """Number of deaths without a success after which the job ends; processes started together count as one try."""
        return TRIES + self._at_once - 1

    def _resize(self) -> None:
        """Have as many processes as there is work for, but only the initial number until one has come up."""
        if self._deaths >= self._most_deaths and not self._at_work():
            raise self._given_up()
        if self._broken >= self._most_deaths and not any(each.parts or each.tests for each in self._members):
            raise self._broken_at_work()
        if len(self._waiting) >= self._most == len(self._members):
            return
        busy = sum(bool(member.parts) for member in self._members)
        most = self._most if self._loads and not self._broken else self._at_once
        wanted = min(most, busy + len(self._waiting))
        if not self._waiting:
            for member in [each for each in self._members if self._is_spare(each)]:
                self._end(member)
        while len(self._members) < wanted:
            member = _Member(self._spawn())
            self._members[member] = None
            self._ask(member, None, "placed")

    def _is_spare(self, member: _Member) -> bool:
        """Whether a process has nothing to do, because no part waits any more."""
        return not member.parts and not (self.keeps_idle and member.state in {_State.STARTING, _State.READY})

    def _at_work(self) -> bool:
        return any(each.state in {_State.STARTING, _State.READY} for each in self._members)

    def _given_up(self) -> WorkersDoNotStart:
        return WorkersDoNotStart(
            f"{self._name}: {self._deaths} workers died one after the other while they started, and none came up; "
            f"{self._last_said()}. Rows that are done are kept; mend the cause and give the same command again"
        )

    def _broken_at_work(self) -> WorkersDied:
        return WorkersDied(
            f"{self._name}: {self._broken} workers loaded what they need and died at their first work; "
            f"{self._last_said()}. Rows that are done are kept; mend the cause and give the same command again"
        )

    def _last_said(self) -> str:
        """Why the last process died: its own words, or Ray's where it could not even begin."""
        words = self.heartbeats.all_words()
        if words:
            return f"the last one said: {words[-1]}"
        lines = [line.strip() for line in str(self._loss).splitlines() if line.strip()]
        return f"Ray said of the last one ({type(self._loss).__name__}): {lines[-1][:MOST_WORDS] if lines else ''}"

    @property
    def _under_way(self) -> int:
        """Number of parts that processes have."""
        return sum(len(member.parts) for member in self._members)

    def _feed(self, member: _Member) -> None:
        """Give parts to a ready process: one at the end of a table, otherwise some ahead."""
        if member.state is not _State.READY or member.tests:
            return
        if self._broken:
            if not member.parts:
                self._test(member)
            return
        if not member.parts:
            member.since = time.monotonic()
        ahead = AHEAD if len(self._waiting) >= len(self._members) else 1
        while self._waiting and len(member.parts) < ahead and self._gate.may_begin(self._waiting[0], self._under_way):
            part = self._waiting.popleft()
            member.parts.append(part)
            self._ask(member, part, "compute", *part)

    def _test(self, member: _Member) -> None:
        """Let a process compute one row, unless another one does, or enough have died: does the model work at all?"""
        if self._broken >= self._most_deaths or any(other.tests for other in self._members):
            return
        # A row that kills its worker must not look like a broken model: no part and no row is tried twice if there is
        # another one.
        part = min(self._waiting, key=lambda each: self._ended[each] + self._tested[each])
        member.tests = True
        self._ask(member, None, "smoke_test", part.number, self._ended[part] + self._tested[part])
        self._tested[part] += 1

    def _ask(self, member: _Member, part: Part | None, method: str, *arguments: Any) -> None:
        answered = member.process.call(method, *arguments)
        answered.add_done_callback(lambda future: self._answers.put(_Answer(member, method, part, future)))

    def _end(self, member: _Member) -> None:
        del self._members[member]
        member.process.end()


class ActorProcess:
    """A process that is a Ray actor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        """See `Process`."""
        answer: Future[Any] = getattr(self._handle, method).remote(*arguments).future()
        return answer

    def end(self) -> None:
        """See `Process`."""
        import ray

        with suppress(
            ray.exceptions.RayError, RuntimeError, OSError, ValueError
        ):  # Ray has ended, and the process with it
            ray.kill(self._handle)
