"""The identity of a process, precise enough to say for certain, from the same machine, that the process has ended.

A process id alone is not enough. Each container of a machine has ids of its own, and a machine reuses ids after a
reboot or a long uptime. So the identity also has the boot id, the namespace of the process ids, and the start time as
counted by the kernel, which does not depend on the adjustable clock.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BOOT = Path("/proc/sys/kernel/random/boot_id")
ENDED = {"Z", "X"}
"""States of an ended process whose parent has not collected its exit status."""


@dataclass(frozen=True)
class ProcessIdentity:
    """What identifies a process.

    Attributes:
        host: name of its machine, for display.
        boot: id of the machine's current boot; the network card's address where the system has no such id.
        namespace: namespace of the process ids, which each container may have; empty where the system has none.
        pid: process id in that namespace.
        born: ticks from the boot to its start; None where the system does not tell.
    """

    host: str = ""
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    born: int | None = None

    @classmethod
    def here(cls) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _boot(), _namespace(), pid, _born(pid))

    @property
    def is_within_sight(self) -> bool:
        """Whether this process can see the other one: same boot of the same machine, same namespace."""
        return bool(self.boot) and (self.boot, self.namespace) == (_boot(), _namespace())

    @property
    def is_alive(self) -> bool:
        """Whether it is certainly alive."""
        return self.is_within_sight and not self._is_gone()

    @property
    def is_gone(self) -> bool:
        """Whether it has certainly ended. For a process out of sight, neither is known."""
        return self.is_within_sight and self._is_gone()

    def _is_gone(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            pass
        stat = _stat(self.pid)
        if stat is None:  # invisible, as other users' processes where /proc hides them
            return False
        return stat[0] in ENDED or (self.born is not None and stat[1] != self.born)


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return f"{socket.gethostname()}/{uuid.getnode():x}"


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _born(pid: int) -> int | None:
    stat = _stat(pid)
    return None if stat is None else stat[1]


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time of a process; None where the system does not tell."""
    try:
        # The name may contain blanks and brackets. After it come fields 3, 4 …; the start time is field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
