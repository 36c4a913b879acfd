"""A cluster of two worker nodes for the whole suite, and the table of what was seen."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.local_cluster import LocalCluster, local_cluster
from tests.faults.job import Job, write_things
from tests.faults.running import Place, check_hashes

SEEN: list[tuple[str, str, float]] = []


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster(workers=2, cpus=1) as found:
        yield found


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store: making a new one takes longer than most faults."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("things"))
    write_things(folder)
    return folder


@pytest.fixture
def place(cluster: LocalCluster, tracking: str, things: str, tmp_path: Path) -> Place:
    return Place(str(tmp_path / "runs"), Job(things, str(tmp_path / "diary")), cluster, tracking)


@pytest.fixture(scope="session")
def undisturbed(
    cluster: LocalCluster, tracking: str, things: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], object]:
    """Rows of a run that nothing befell, which all others must equal."""
    folder = tmp_path_factory.mktemp("undisturbed")
    start = time.monotonic()
    whole = Place(str(folder / "runs"), Job(things, str(folder / "diary")), cluster, tracking)
    whole.run()
    SEEN.append(("none", "the run that the others are compared with", time.monotonic() - start))
    rows = whole.table()
    check_hashes(rows)
    return rows


@pytest.fixture
def seen() -> Callable[[str, str], None]:
    """Notes a line of the fault table, with the seconds of the test so far."""
    start = time.monotonic()
    return lambda fault, outcome: SEEN.append((fault, outcome, time.monotonic() - start))


def pytest_terminal_summary(terminalreporter) -> None:
    if SEEN:
        terminalreporter.write_line("\n| fault | outcome | seconds |\n|---|---|---|")
        for fault, outcome, seconds in SEEN:
            terminalreporter.write_line(f"| {fault} | {outcome} | {seconds:.0f} |")
