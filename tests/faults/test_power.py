"""A machine that loses its power: what was renamed but not written would be there, and empty."""

import fcntl
import os
import posix
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from fgvr import storage, tables
from fgvr.tables import Table

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

JOURNAL_SECONDS = 7.0  # ext4 writes names every five seconds, and the bytes of new files after thirty
SHUT_DOWN, WITHOUT_WRITING = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH


@pytest.fixture
def weak_disk(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """An ext4 file system, whose folder the function gives after it lost its power; needs root and a loop device."""
    image, disk = tmp_path / "image", tmp_path / "weak"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(2**26)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    mount = ["mount", "-o", "loop", str(image), str(disk)]
    subprocess.run(mount, check=True)

    def power_lost() -> Path:
        time.sleep(JOURNAL_SECONDS)
        descriptor = os.open(disk, os.O_RDONLY)
        fcntl.ioctl(descriptor, SHUT_DOWN, struct.pack("I", WITHOUT_WRITING))
        os.close(descriptor)
        subprocess.run(["umount", str(disk)], check=True)
        subprocess.run(mount, check=True)
        return disk

    try:
        yield power_lost
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_machine_that_loses_its_power_keeps_what_is_finished(
    seen, weak_disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", posix.fsync)  # tests/conftest.py takes it away from all others
    rows = pa.table({"image_id": range(5000)})
    table = Table(str(tmp_path / "weak" / "labels"), "labels", "ab", 10_000, 0, 2, 5000, 1.0)
    for number in range(2):
        tables.write_part(table.uri, number, rows)
    with storage.new_file(table.path("scores")) as file:
        file.write(b"all of them")
    table.commit()
    kept = Table.load(str(weak_disk() / "labels"))
    assert kept.read().num_rows == 10_000
    assert storage.read_bytes(kept.path("scores")) == b"all of them"
    seen("a machine loses its power (ext4)", "what is finished is there, and whole")
