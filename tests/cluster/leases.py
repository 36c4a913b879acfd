"""Clocks that are turned by hand, and sessions of other machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.lease import Lease, Owner, claim, newest
from cluster.process_identity import ProcessIdentity

GONE = 2**22 + 1
"""Above the kernel's largest process id."""


@dataclass
class HandClock:
    """Seconds that pass only while somebody waits; at given ones something happens.

    Attributes:
        now: of this clock.
        events: what happens, by the second from which on it does.
    """

    now: float = 0.0
    events: dict[float, Callable[[], object]] = field(default_factory=dict)

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        for when in sorted(self.events):
            if when <= self.now:
                self.events.pop(when)()


def elsewhere(**changes: object) -> Owner:
    """An owner on another machine, whose clock is a day ahead."""
    here = Owner.here()
    process = replace(ProcessIdentity.here(), host="gpu-3", boot="of gpu-3", pid=4711)
    command = ["python", "pipelines/full.py", "--config", "my.yaml"]
    return replace(here, process=process, user="ann", command=command, since=here.since + 86400, **changes)


def dead_here() -> Owner:
    """An owner whose process was on this machine, and is gone."""
    return replace(Owner.here(), process=replace(ProcessIdentity.here(), pid=GONE))


def taken_by(folder: Path | str, owner: Owner) -> Lease:
    """The run in `folder` is the owner's."""
    last = newest(str(folder))
    lease = claim(str(folder), last[0] + 1 if last else 1, owner)
    assert lease is not None
    return lease


def owner_now(folder: Path | str) -> Owner:
    """The last owner, as its file says."""
    last = newest(str(folder))
    assert last is not None
    return Owner.from_json(last[1])
