"""Which process something is: enough to say, from the same machine and for certain, that it has ended.

A process id alone says little. Containers of one machine have ids of their own each, a machine that starts again gives
the same ids anew, and so does one that runs for long. So there are also the machine's boot, the namespace of the ids,
and when the process began, counted by the kernel and by no clock that somebody sets.
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
"""States of a process that has ended, and whose parent has not asked how."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process.

    Attributes:
        host: name of its machine, for people.
        boot: of its machine, different after each; where the system has none, what its network card says.
        namespace: of the process ids, which a container has for itself; empty where there is no such thing.
        pid: in that namespace.
        born: ticks from the boot to its beginning; None where the system does not say.
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
        """Whether this process sees the other's ids: the same boot of the same machine, the same namespace."""
        return bool(self.boot) and (self.boot, self.namespace) == (_boot(), _namespace())

    @property
    def is_alive(self) -> bool:
        """It lives, for certain."""
        return self.is_within_sight and not self._is_gone()

    @property
    def is_gone(self) -> bool:
        """It has ended, for certain. Of a process out of sight neither is known."""
        return self.is_within_sight and self._is_gone()

    def _is_gone(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            pass
        stat = _stat(self.pid)
        if stat is None:  # not to be seen, as others' processes where /proc hides them
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
    """State and start of a process; None where the system does not say."""
    try:
        # The name may hold blanks and brackets itself. Behind it come fields 3, 4 …; the start is the 22nd.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
