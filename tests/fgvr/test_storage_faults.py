import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError

from fgvr import storage
from fgvr.storage_errors import StorageFull, _Passing, patient


def written_in_pieces(place: Path, data: bytes) -> None:
    with storage.new_file(place) as file:
        file.write(data)


def copied(place: Path, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / place.name).write_bytes(data)
        storage.put_folder(Path(folder), place.parent)


@pytest.mark.parametrize("write", [storage.write_bytes, written_in_pieces, copied])
def test_a_full_disk_is_told_as_one_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    write(tmp_path / "table", b"before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull, match=r"table: no space is left there .* give the same command again"):
            write(tmp_path / "table", b"after")
    assert [file.name for file in tmp_path.iterdir()] == ["table"]
    assert storage.read_bytes(tmp_path / "table") == b"before"


def test_other_errors_of_a_disk_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        storage.write_bytes(tmp_path / "file" / "inside", b"")


def refused(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (refused("SlowDown"), True),
        (refused("InternalError", 500), True),
        (refused("503", 503), True),
        (EndpointConnectionError(endpoint_url="http://x"), True),
        (ConnectTimeoutError(endpoint_url="http://x"), True),
        (refused("AccessDenied", 403), False),
        (refused("NoSuchBucket", 404), False),
        (refused("InvalidAccessKeyId", 403), False),
        (FileNotFoundError("a"), False),
    ],
)
def test_what_may_pass_by_itself(error: Exception, passes: bool) -> None:
    assert _Passing()(error) is passes


def test_only_s3_is_told_how_to_try_again() -> None:
    assert patient("/a") == patient("gs://b/c") == {}
    assert patient("s3://b/c")["config_kwargs"]["retries"]["total_max_attempts"] == 1


def test_a_stores_tries_are_signs_of_life_and_none_of_them_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    monkeypatch.setattr("fgvr.storage_errors.liveness.beat", lambda: beats.append(1))
    passing = _Passing()
    assert passing(refused("SlowDown"))
    assert passing(ConnectTimeoutError(endpoint_url="http://x"))
    assert len(beats) == 2
    assert not passing(refused("AccessDenied"))
    assert len(beats) == 2
    waits = patient("s3://bucket/a")["config_kwargs"]
    assert waits["connect_timeout"] <= 15
    assert waits["read_timeout"] <= 60
