"""Generated pictures through Ray: parts of a pool, and a job that goes on."""

from pathlib import Path

import pyarrow.compute as pc
import pytest

from fgvr.tables import MANIFEST, part_name
from tests.e2e.runs import flags, run, table


@pytest.mark.slow
def test_a_killed_job_goes_on_behind_its_last_part(tmp_path: Path) -> None:
    place = str(tmp_path)
    options = flags(
        place,
        augment__alpha="0.5",
        augment__top_k="3",
        augment__ranked_by="zero_shot",
        augment__generator__kind="drawn",
        augment__workers__rows_per_part="32",
    )
    run("augment", options)
    whole = table(place, "synthetic")
    assert (whole.rows, whole.parts, whole.failed) == (36 * 2 * 2, 5, 0)
    rows, folder = whole.read(), Path(whole.uri)
    # As a driver leaves it that was killed behind the third part:
    for name in (MANIFEST, part_name(3), part_name(4)):
        (folder / name).unlink()
    stamps = [(folder / part_name(number)).stat().st_mtime_ns for number in range(3)]
    run("augment", options)
    assert [(folder / part_name(number)).stat().st_mtime_ns for number in range(3)] == stamps
    assert table(place, "synthetic").read().equals(rows)
    assert 0 < pc.sum(rows["kept"]).as_py() <= whole.rows
