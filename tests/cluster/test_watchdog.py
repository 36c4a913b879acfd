"""Processes that the watchdog ends; children, since they are really ended."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.watchdog import is_out_of_memory

CHILD = """
import sys, time
from cluster import watchdog
from fgvr import liveness

class Board:
    def alive(self, text): pass
    def last_words(self, text): print(text, flush=True)

watchdog.GRACE_SECONDS = 0.5
dog = watchdog.Watchdog(Board())
with dog.over("label, part 3", 0.5 / 60, "cluster.limits.silent_minutes"):
    exec(sys.argv[1])
print("survived", flush=True)
time.sleep(1.5)  # the limit holds inside the block alone
print("left", flush=True)
"""


def child(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CHILD, code], capture_output=True, text=True, timeout=60, check=False)


def test_a_hang_ends_the_process_with_last_words_and_where_it_hung() -> None:
    done = child("def stuck(): time.sleep(60)\nstuck()")
    assert done.returncode == 1
    assert done.stdout.startswith("label, part 3: nothing was finished for 0.0 min, the limit is cluster.limits.silent")
    assert "in stuck" in done.stderr


def test_last_words_name_what_was_worked_on_and_not_only_the_part() -> None:
    done = child(
        "names = [liveness.doing(f'reading https://shop.example/{n}.jpg') for n in range(5)]\n"
        "[name.__enter__() for name in names]\ntime.sleep(60)"
    )
    assert done.returncode == 1
    assert "; worked on: reading https://shop.example/0.jpg for 0.0 min, reading" in done.stdout
    assert "2.jpg for 0.0 min and 2 more (the stack traces" in done.stdout


def test_one_wait_inside_the_block_stays_below_its_limit() -> None:
    done = child("print('at most', liveness.longest_wait(300))")
    assert done.stdout.split("\n")[0] == "at most 0.25"  # of half a second


def test_progress_keeps_it_alive_at_any_length() -> None:
    done = child("for _ in range(20): time.sleep(0.1); liveness.beat()")
    assert done.stdout.split() == ["survived", "left"]
    assert done.returncode == 0


def test_a_library_that_never_lets_python_run_is_ended_too() -> None:
    start = time.monotonic()
    # One bytecode of C that keeps the interpreter's lock: a hopeless regular expression.
    done = child("import re; re.match(r'(a+)+$', 'a' * 60 + 'b')")
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(("error", "is_it"), [(MemoryError(), True), (RuntimeError("CUDA"), False)])
def test_what_counts_as_out_of_memory(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it


def test_torchs_own_error_counts() -> None:
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert Path(torch.__file__).exists()
