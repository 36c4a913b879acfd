"""Processes that live, have ended, wait to be asked how, or had their id given to another one."""

import os
import subprocess
import sys
from dataclasses import replace

from cluster.process_identity import ProcessIdentity


def identity_of(pid: int) -> ProcessIdentity:
    """Read by an independent way: psutil's start of the process in ticks."""
    import psutil

    ticks = round((psutil.Process(pid).create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK"))
    return replace(ProcessIdentity.here(), pid=pid, born=ticks)


def test_this_process_lives_and_began_when_psutil_says() -> None:
    here = ProcessIdentity.here()
    assert (here.is_alive, here.is_gone, here.pid) == (True, False, os.getpid())
    assert here.born is not None
    assert abs(here.born - (identity_of(os.getpid()).born or 0)) <= 100  # psutil's boot is known to a second only


def test_a_process_that_ended_is_gone_even_where_nobody_asked_how() -> None:
    script = "from cluster.process_identity import ProcessIdentity as P; print(P.here().born, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    other = replace(ProcessIdentity.here(), pid=child.pid, born=int(child.stdout.readline()))
    assert (other.is_alive, other.is_gone) == (True, False)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert other.is_gone
    child.communicate()
    assert other.is_gone


def test_an_id_that_another_process_has_now() -> None:
    here = ProcessIdentity.here()
    assert here.born is not None
    assert replace(here, born=here.born - 1).is_gone


def test_of_processes_out_of_sight_nothing_is_known() -> None:
    here = ProcessIdentity.here()
    others = [
        replace(here, boot="another machine, or this one before it was started again"),
        replace(here, namespace="pid:[1]"),  # another container, where this id is another process
        ProcessIdentity(),
    ]
    for other in others:
        for pid in (here.pid, 2**22 + 1):
            assert not replace(other, pid=pid).is_alive
            assert not replace(other, pid=pid).is_gone
