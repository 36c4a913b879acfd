"""Files that are none: pipes, devices, sockets and the kernel's own fail at once, whatever they are called."""

import os
import socket
from pathlib import Path

import pytest

from fgvr import storage
from fgvr.config.data import FolderSource, ImageLimits, ParquetSource, TableSource, WebDatasetSource
from fgvr.images.parquet import file_size, open_parquet, read_range
from fgvr.images.read import ImageError, read_image_bytes
from fgvr.schemas import Reason
from fgvr.sources.source import read_source

pytestmark = pytest.mark.timeout(60)
LIMITS = ImageLimits()


@pytest.fixture
def special(tmp_path: Path) -> dict[str, Path]:
    """A file of each kind, with a photo's name."""
    folder = tmp_path / "photos"
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # a socket's path must be short
    server.bind("socket.jpg")
    os.chdir(here)
    for name, target in {
        "zero.jpg": "/dev/zero",
        "tty.jpg": "/dev/tty",
        "kmsg.jpg": "/proc/kmsg",
        "environ.jpg": "/proc/self/environ",
        "again.jpg": "zero.jpg",
        "memory.jpg": "/proc/self/mem",
        "fd.jpg": "/dev/fd/0",
        "sys.jpg": "/sys/kernel/uevent_seqnum",
    }.items():
        (folder / name).symlink_to(target)
    server.close()
    return {path.name: path for path in folder.iterdir()}


def test_each_fails_at_once(special):
    assert len(special) == 10
    for name, path in special.items():
        with pytest.raises(ImageError) as caught:
            read_image_bytes(str(path), LIMITS)
        # A link to a file of the system says so before anything is asked of it.
        assert caught.value.reason in {Reason.UNREADABLE, Reason.NOT_FOUND, Reason.NOT_ALLOWED}, name
        with pytest.raises(OSError, match=r"regular file|No such"):
            storage.open_regular(path)


@pytest.mark.parametrize("path", ["/dev/zero", "/proc/kmsg", "/proc/self/environ", "/dev/stdin", "/dev/../dev/zero"])
def test_by_their_own_names(path):
    for ask in (file_size, lambda uri: read_range(uri, 0, 10), open_parquet, lambda uri: read_image_bytes(uri, LIMITS)):
        with pytest.raises((OSError, ImageError), match=r"regular file|No such|nothing at"):
            ask(path)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    """It is exchanged between the look at it and its opening."""
    os.mkfifo(tmp_path / "pipe.jpg")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"x")
    facts = photo.stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: facts)
    with pytest.raises(OSError, match="not a regular file"):
        storage.open_regular(tmp_path / "pipe.jpg")


def test_files_in_shared_memory_are_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "realpath", lambda path: "/dev/shm/" + Path(path).name)  # noqa: S108
    (tmp_path / "a.jpg").write_bytes(b"abc")
    with storage.open_regular(tmp_path / "a.jpg") as file:
        assert file.read() == b"abc"


def test_sources_go_on(special, tmp_path):
    """A folder, a table, tars and Parquet files that are none: rows with reasons, and an end."""
    folder = special["pipe.jpg"].parent
    (folder / "real.jpg").write_bytes(b"x")
    rows = read_source(FolderSource(path=str(folder)), "").rows["uri"].to_pylist()
    assert len(rows) == 11
    failed = 0
    for uri in rows:
        try:
            read_image_bytes(uri, LIMITS)
        except ImageError:
            failed += 1
    assert failed == 10
    (tmp_path / "list.csv").write_text("uri\n" + "\n".join(map(str, special.values())))
    for uri in read_source(TableSource(path=str(tmp_path / "list.csv")), "").rows["uri"].to_pylist():
        with pytest.raises(ImageError):
            read_image_bytes(uri, LIMITS)
    for ending, kind in ((".tar", WebDatasetSource), (".parquet", ParquetSource)):
        place = tmp_path / ending[1:]
        place.mkdir()
        os.mkfifo(place / f"pipe{ending}")
        with pytest.raises(Exception, match="not a regular file"):
            read_source(kind(path=str(place)), "")
