"""What benchmarks share, with numbers worked by hand."""

import argparse
import json
import subprocess
import sys
import textwrap

import pytest

from benchmarks import harness


def test_ways_take_turns_round_by_round():
    order = []
    found = harness.take_turns(
        {"a": lambda: order.append("a") or len(order), "b": lambda: order.append("b") or len(order)}, 2, log=False
    )
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": [1, 3], "b": [2, 4]}


def test_ratios_are_of_the_same_round():
    # 2/1, 6/2, 12/3, 20/4: 2, 3, 4, 5. The ratio of the medians would be 9/2.5.
    middle, low, high = harness.paired_ratio([2, 6, 12, 20], [1, 2, 3, 4])
    assert (middle, low, high) == (3.5, 2.25, 4.75)
    assert harness.paired_ratio([3.0], [2.0]) == (1.5, 1.5, 1.5)


def test_the_bootstrap_interval_against_the_normal_one():
    values = [float(number % 10) for number in range(400)]  # standard deviation 2.872, of the mean 0.1436
    low, high = harness.bootstrap(values, resamples=4000)
    assert low == pytest.approx(4.5 - 1.96 * 0.1436, abs=0.03)
    assert high == pytest.approx(4.5 + 1.96 * 0.1436, abs=0.03)


def test_mean_and_sample_deviation():
    assert harness.mean_and_deviation([1.0, 2.0, 4.5]) == "2.5 ± 1.8"  # √((2.25 + 0.25 + 4) / 2)
    assert harness.mean_and_deviation([1.0]) == "1.0"


def test_a_table_is_printed_and_kept(capsys, tmp_path):
    args = argparse.Namespace(json=tmp_path / "new" / "results.json")
    with harness.reporting(args) as report:
        report.say("two rows")
        table = report.table({"": "<6", "seconds": ">9.1f", "share": ">8.1%"})
        table.row("a", 1.25, 0.5)
        table.row("b", None, "–")
        report.facts["costs"] = [harness.Cost(1.5, 2.0)]
    assert (
        capsys.readouterr().out
        == "two rows\n        seconds   share\na           1.2   50.0%\nb                     –\n"
    )
    written = json.loads(args.json.read_text())
    assert written["results"] == [
        "two rows",
        {"heads": ["", "seconds", "share"], "rows": [["a", 1.25, 0.5], ["b", None, "–"]]},
    ]
    assert written["facts"] == {"costs": [{"cpu": 1.5, "wall": 2.0, "peak_mib": 0.0, "holders": 0}]}
    assert {"date", "command", "commit", "machine", "versions"} <= written.keys()


def test_results_are_kept_where_a_benchmark_fails(tmp_path):
    args = argparse.Namespace(json=tmp_path / "results.json")

    def half_way() -> None:
        with harness.reporting(args) as report:
            report.say("half")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        half_way()
    assert json.loads(args.json.read_text())["results"] == ["half"]


BUSY = """
    import os, subprocess, sys, time
    def burn(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end: pass
"""


def cost_of(program: str) -> harness.Cost:
    # In a process of its own: the harness makes orphans this process's children, which pytest must not become.
    measuring = f"""
import sys
from benchmarks import harness
harness.answer(harness.run_measured([sys.executable, "-c", {textwrap.dedent(BUSY) + textwrap.dedent(program)!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", measuring], capture_output=True, text=True, check=True, cwd=harness.ROOT
    )
    return harness.Cost(**json.loads(done.stdout.splitlines()[-1]))


def test_a_tree_costs_what_parents_children_and_orphans_use():
    cost = cost_of("""
        child = os.fork()
        if child == 0:
            if os.fork() == 0:  # its parent ends at once: an orphan, which nobody below the command waits for
                burn(0.5)
                os._exit(0)
            burn(0.4)
            os._exit(0)
        burn(0.3)
        os.waitpid(child, 0)
        time.sleep(0.2)
    """)
    assert 1.0 <= cost.cpu <= 1.7  # 1.2 and the start of Python; each of three ends loses 0.1 at most
    assert cost.peak_mib > 3


def test_children_of_a_parent_that_ignores_them_count():
    # As Ray's raylet does: the system then adds their times to nobody's.
    cost = cost_of("""
        import signal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if os.fork() == 0:
            burn(0.6)
            os._exit(0)
        time.sleep(2.0)
    """)
    assert 0.45 <= cost.cpu <= 1.1


def test_a_command_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        cost_of("sys.exit(3)")
