"""A full disk, and an object store that answers badly for a while."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs

from cluster.local_cluster import LocalCluster, free_port, local_cluster
from fgvr import storage
from fgvr.neighbours import search_worker
from fgvr.storage_errors import StorageFull
from tests.faults.bad_s3 import Plan, bad_proxy
from tests.faults.job import Job, write_things
from tests.faults.running import Place, check_hashes, last_words, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of three megabytes in memory; mounting it needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                break
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - left)
    return filler


def test_vectors_of_a_search_that_do_not_fit_on_the_disk_are_told(seen, small_disk: Path) -> None:
    ids, vectors = np.arange(4000), np.ones((4000, 512), np.float16)  # 4 MB
    blocks = ((ids[at : at + 500], vectors[at : at + 500]) for at in range(0, 4000, 500))
    with pytest.raises(StorageFull, match=r"vectors\.npy: no space is left there"):
        search_worker.write(str(small_disk / "shard"), ids, 512, blocks)
    assert list((small_disk / "shard").iterdir()) == []
    seen("no space left for the vectors of a search", "stops and says so")


def test_the_disk_is_full(place: Place, undisturbed, seen, small_disk: Path) -> None:
    filler = fill(small_disk, left=13 * 4096)
    own = Place(str(small_disk / "runs"), place.job, place.cluster, place.tracking)
    text = own.run(ends=1)
    end = last_words(text)
    assert "no space is left there" in end
    assert "give the same command again" in end
    before = own.parts()
    assert before < 8
    filler.unlink()
    own.run()
    assert own.table().equals(undisturbed)
    seen(
        "no space left on the disk (ENOSPC)",
        f"stops and says so after {before} of 8 parts; room made, same command: same table",
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan()


@pytest.fixture(scope="module")
def bucket(plan: Plan) -> Iterator[str]:
    """A bucket behind the proxy; this process's environment and that of all it starts name the proxy."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with bad_proxy(port, plan) as url, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", url)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            for _ in range(120):
                try:
                    s3fs.S3FileSystem().makedirs("bad", exist_ok=True)
                    break
                except OSError:
                    time.sleep(0.5)
            write_things("s3://bad/things")
            yield "s3://bad"
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.terminate()
            server.wait(timeout=20)


@pytest.fixture(scope="module")
def near_bucket(bucket: str) -> Iterator[LocalCluster]:
    """Nodes whose environment knows the bucket."""
    with local_cluster(workers=2, cpus=1) as found:
        yield found


BADLY = [
    ("SlowDown", 2, 10**9),
    ("InternalError", 2, 10**9),
    ("breaks", 3, 10**9),
    ("refuses", 2, 10**9),
    ("hangs", 12, 2),
]


@pytest.mark.parametrize(("kind", "every", "at_most"), BADLY)
def test_every_operation_gets_through(bucket: str, plan: Plan, seen, kind: str, every: int, at_most: int) -> None:
    """Writing, reading, listing, asking and removing, without a job around it."""
    folder = f"{bucket}/operations-{kind}"
    plan.start(kind, every, at_most)
    for number in range(10):
        storage.write_bytes(f"{folder}/{number}", bytes([number]) * 1000)
    assert [storage.read_bytes(f"{folder}/{number}") for number in range(10)] == [bytes([n]) * 1000 for n in range(10)]
    assert storage.list_files(folder) == [str(number) for number in range(10)]
    storage.remove(f"{folder}/3")
    assert not storage.exists(f"{folder}/3")
    assert storage.exists(f"{folder}/4")
    befallen, asked = plan.befallen, plan.seen
    plan.start("none", 1)
    assert befallen >= 2
    seen(f"S3: {kind}, single operations", f"{befallen} of {asked} requests; asked again; right content")


@pytest.mark.parametrize(("kind", "every", "at_most"), BADLY)
def test_a_store_that_answers_badly(
    bucket: str, near_bucket: LocalCluster, plan: Plan, tracking: str, tmp_path: Path, seen, kind: str, every, at_most
) -> None:
    job = Job(f"{bucket}/things", str(tmp_path / "diary"))
    place = Place(f"{bucket}/{kind}", job, near_bucket, tracking)
    plan.start(kind, every, at_most)
    place.run(limits={"cluster.limits.silent_minutes": "5", "cluster.limits.start_minutes": "5"})
    befallen, asked = plan.befallen, plan.seen
    plan.start("none", 1)
    assert befallen >= 2
    check_hashes(place.table())
    seen(f"S3: {kind}", f"{befallen} of {asked} requests; asked again; same rows")


def test_a_store_that_is_away_for_twenty_seconds(
    bucket: str, near_bucket: LocalCluster, plan: Plan, tracking: str, tmp_path: Path, seen
) -> None:
    job = Job(f"{bucket}/things", str(tmp_path / "diary"))
    place = Place(f"{bucket}/away", job, near_bucket, tracking)

    def meanwhile(driver: subprocess.Popen[str]) -> None:
        wait_for(lambda: place.parts() >= 1, driver)
        plan.start("refuses", 1)
        threading.Timer(20, plan.start, ("none", 1)).start()

    text = place.run(meanwhile, limits={"cluster.limits.silent_minutes": "5", "cluster.limits.start_minutes": "5"})
    check_hashes(place.table())
    assert text
    seen("S3: every connection is broken for 20 s", "waited for; same rows")
