"""Starts the fault suite's job, does something to it, and compares what is left with what must be there."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pyarrow as pa

from cluster.local_cluster import LocalCluster
from fgvr import storage
from fgvr.tables import MANIFEST, Table
from tests.faults.job import EMPTY, ROWS, Job
from tests.faults.sick_workers import Diary

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 180.0
"""No job of this suite takes a third of it: one that does has hung, and the test fails."""

QUICK = {"cluster.limits.start_minutes": "0.25", "cluster.limits.silent_minutes": "0.25"}


@dataclass
class Place:
    """A run of its own: its folder, its diary, the cluster it runs on, and what else the environment says."""

    folder: str
    job: Job
    cluster: LocalCluster
    tracking: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def diary(self) -> Diary:
        return Diary(self.job.diary)

    def but(self, **changes: object) -> "Place":
        """The same run with another job."""
        return replace(self, job=replace(self.job, **changes))

    def start(self, limits: dict[str, str] | None = None) -> subprocess.Popen[str]:
        flags = {"run.folder": self.folder, "run.name": "job", "run.max_error_share": "0.1"}
        flags |= {"cluster.address": self.cluster.address, "tracking.uri": self.tracking} | (QUICK | (limits or {}))
        command = [sys.executable, "-m", "tests.faults.job"]
        command += [word for name, value in flags.items() for word in (f"--{name}", value)]
        env = self.cluster.environment() | self.job.environment() | self.environment
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(
        self,
        meanwhile: Callable[[subprocess.Popen[str]], None] | None = None,
        *,
        ends: int = 0,
        limits: dict[str, str] | None = None,
    ) -> str:
        """Run the job to its end, which must have that exit status; returns what it wrote."""
        driver = self.start(limits)
        try:
            if meanwhile is not None:
                meanwhile(driver)
            text, _ = driver.communicate(timeout=HANG_SECONDS)
        finally:
            if driver.poll() is None:
                driver.kill()
        assert driver.returncode == ends, f"exit status {driver.returncode}:\n{text[-6000:]}"
        return text

    def parts(self) -> int:
        """Finished parts so far."""
        place = storage.join(self.folder, "job", "tables", "hashes")
        fs, path = storage.resolve(place)
        fs.invalidate_cache()
        return sum("/part-" in name for name in fs.find(path)) if fs.exists(path) else 0

    def table(self, name: str = "hashes") -> pa.Table:
        """The finished table; exactly one must be there, and its manifest must tell of it."""
        fs, path = storage.resolve(storage.join(self.folder, "job", "tables", name))
        fs.invalidate_cache()
        (manifest,) = [file for file in fs.find(path) if file.endswith(MANIFEST)]
        prefix = "" if storage.is_local(self.folder) else "s3://"
        table = Table.load(f"{prefix}{manifest.removesuffix('/' + MANIFEST)}")
        rows = table.read()
        assert table.rows == rows.num_rows
        return rows


def last_words(text: str) -> str:
    """What a run says when it stops."""
    assert "stopped:" in text, text[-6000:]
    return text[text.index("stopped:") :]


def check_hashes(rows: pa.Table, *failed: int) -> None:
    """Every row once, in order: its digest by hashlib, or its reason; `failed` rows died with their workers."""
    found = rows.to_pylist()
    assert [row["image_id"] for row in found] == list(range(ROWS))
    for number, row in enumerate(found):
        if number == EMPTY or number in failed:
            reason = "empty_file" if number == EMPTY else "engine_error"
            assert (row["digest"], row["error"]["reason"]) == (None, reason)
        else:
            digest = hashlib.sha256(bytes([number]) * (number + 1)).hexdigest()
            assert (row["digest"], row["error"]) == (digest, None)


def wait_for(something: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
    """Until it is there; the test fails when the driver ends before or it takes too long."""
    end = time.monotonic() + HANG_SECONDS
    while not something():
        assert driver.poll() is None, driver.communicate()[0][-6000:]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def kill_node(cluster: LocalCluster, number: int) -> None:
    """All processes of a node at once, as where its machine is switched off."""
    top = psutil.Process(cluster.nodes[number])
    for process in [top, *top.children(recursive=True)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
