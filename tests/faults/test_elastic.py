"""An elastic training on a cluster to which a node comes, and from which it goes."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.local_cluster import another_node, local_cluster
from tests.faults.elastic import EPOCHS
from tests.faults.running import HANG_SECONDS, ROOT, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_it_grows_with_a_node_that_comes_and_shrinks_when_it_goes(tmp_path: Path, seen) -> None:
    diary = tmp_path / "diary"

    def epochs() -> list[tuple[int, int]]:
        lines = diary.read_text().splitlines() if diary.exists() else []
        return [(int(epoch), int(workers)) for epoch, workers in map(str.split, lines)]

    with local_cluster(workers=1, cpus=1) as cluster:
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.elastic", cluster.address, str(tmp_path)],
            cwd=ROOT, env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            wait_for(lambda: (2, 1) in epochs(), driver)
            with another_node(cluster, cpus=1):
                wait_for(lambda: [workers for _, workers in epochs()].count(2) >= 3, driver)
            together = len(epochs())
            wait_for(lambda: len(epochs()) > together and epochs()[-1][1] == 1, driver)
            text, _ = driver.communicate(timeout=HANG_SECONDS)
        finally:
            driver.kill()
    assert driver.returncode == 0, text[-6000:]
    assert f"epochs: {EPOCHS}" in text
    done = [epoch for epoch, _ in epochs()]
    assert sorted(set(done)) == list(range(1, EPOCHS + 1))
    again = len(done) - EPOCHS
    assert again <= 6, "epochs behind the last checkpoint, twice; a checkpoint is written after each"
    seen("a node joins and leaves an elastic training", f"1, 2, 1 workers; all {EPOCHS} epochs, {again} of them again")
