from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fgvr.schemas import SAMPLES
from fgvr.sources import sorted_runs
from fgvr.sources.rows import LISTING, SourceError, chunk, collect
from fgvr.storage_errors import StorageFull


def test_sorted_dense_and_typed():
    listed = collect([chunk(uri=["/b", "/c"]), chunk(uri=["/a"], split=["test"], class_name=["gull"])], "here")
    assert listed.rows.schema.equals(SAMPLES)
    assert listed.rows.to_pylist() == [
        {"image_id": 0, "uri": "/a", "split": "test", "class_id": 0, "class_name": "gull", "metadata": None},
        {"image_id": 1, "uri": "/b", "split": "train", "class_id": None, "class_name": None, "metadata": None},
        {"image_id": 2, "uri": "/c", "split": "train", "class_id": None, "class_name": None, "metadata": None},
    ]


def test_of_equal_uris_the_first_listed_stays():
    chunks = [
        chunk(uri=["/b", "/a", "/b"], class_name=["tern", "gull", "tern"]),
        chunk(uri=["/b", "", "/a"], class_name=["gull", "x", "gull"], split=["train", "train", "test"]),
    ]
    listed = collect(chunks, "here")
    assert listed.rows.select(["uri", "class_name"]).to_pylist() == [
        {"uri": "/a", "class_name": "gull"},
        {"uri": "/b", "class_name": "tern"},
    ]
    # three repeats; /b comes again as a gull and /a in another split
    assert (listed.duplicates, listed.conflicts, listed.without_uri) == (3, 2, 1)


def test_classes_are_numbered_by_sorted_names():
    listed = collect([chunk(uri=list("dcba"), class_name=["tern", None, "gull", "tern"])], "here")
    assert listed.rows["class_id"].to_pylist() == [1, 0, None, 1]


def test_given_class_ids_stay_and_must_fit_the_names():
    rows = collect([chunk(uri=list("ab"), class_name=["tern", "gull"], class_id=[7, 3])], "here").rows
    assert rows["class_id"].to_pylist() == [7, 3]
    with pytest.raises(SourceError, match="here: class_id 7 stands for more than one class"):
        collect([chunk(uri=list("ab"), class_name=["tern", "gull"], class_id=[7, 7])], "here")


def test_nothing_listed():
    with pytest.raises(SourceError, match=r"here: no image is listed there \(2 rows without a URI\)"):
        collect([chunk(uri=["", None])], "here")


def test_order_does_not_depend_on_the_listing():
    uris = [f"/photos/{n:05d}.jpg" for n in range(2000)]
    shuffled = np.random.default_rng(0).permutation(uris)
    chunks = [chunk(uri=list(part)) for part in np.array_split(shuffled, 7)]
    assert collect(chunks, "here").rows["uri"].to_pylist() == uris


def test_parts_are_full_but_the_last():
    listed = collect([chunk(uri=[f"/{n:03d}" for n in range(25)])], "here")
    assert [part.num_rows for part in listed.parts(10)] == [10, 10, 5]


def test_any_order_in_many_runs_is_as_sorting_everything_at_once(monkeypatch):
    """Runs and blocks of a few rows, many repeats: against Python's own stable sort."""
    monkeypatch.setattr(sorted_runs, "BLOCK_ROWS", 7)
    rng = np.random.default_rng(0)
    listed = [(f"/{rng.integers(60):02d}é.jpg", f"bird {rng.integers(3)}") for _ in range(400)]
    runs = sorted_runs.SortedRuns(LISTING, "uri", run_bytes=2_000)
    for part in range(0, 400, 16):
        uris, names = zip(*listed[part : part + 16], strict=True)
        runs.add(chunk(uri=list(uris), class_name=list(names)))
    blocks = list(runs)
    assert len(runs._runs) > 5
    assert len(blocks) > 10
    pairs = [(row["uri"], row["class_name"]) for row in pa.concat_tables(blocks).to_pylist()]
    assert sorted(pairs) == sorted(listed)
    assert [uri for uri, _ in pairs] == sorted(uri for uri, _ in listed)
    first = dict(reversed(listed))  # of a repeated key a dictionary keeps the last value
    assert dict(reversed(pairs)) == first

    monkeypatch.setattr("fgvr.sources.rows.SortedRuns", lambda *a: sorted_runs.SortedRuns(*a, run_bytes=2_000))
    chunks = [chunk(uri=[uri], class_name=[name]) for uri, name in listed]
    found = collect(chunks, "here")
    assert [(row["uri"], row["class_name"]) for row in found.rows.to_pylist()] == sorted(first.items())
    assert found.duplicates == 400 - len(first)
    assert found.conflicts == sum(first[uri] != name for uri, name in listed)
    assert pa.concat_tables(found.parts(9)).equals(found.rows)


def test_a_spool_is_read_again_from_its_file():
    spool = sorted_runs.Spool(LISTING, memory_bytes=1_000)
    for n in range(50):
        spool.append(chunk(uri=[f"/{n}", f"/{n}b"]))
    folder = spool._folder.name
    for _ in range(2):
        assert [uri.as_py() for table in spool for uri in table["uri"]] == [
            f"/{n}{x}" for n in range(50) for x in ("", "b")
        ]
    assert Path(folder).is_dir()
    del spool
    assert not Path(folder).exists()


def test_a_full_disk_under_a_long_listing_is_told(monkeypatch):
    monkeypatch.setattr(sorted_runs.Spool, "_path", Path("/dev/full"))
    spool = sorted_runs.Spool(LISTING, memory_bytes=1_000)
    with pytest.raises(StorageFull, match=r"no space is left there .*TMPDIR"):
        spool.append(chunk(uri=[f"/{number}" for number in np.random.default_rng(0).integers(0, 2**60, 100_000)]))


def test_half_a_million_rows_without_python_objects_a_row():
    numbers = np.random.default_rng(0).permutation(500_000)
    uris = pa.compute.binary_join_element_wise("s3://bucket/photos/", pa.array(numbers).cast(pa.string()), "")
    listing = pa.table(
        [uris.cast(pa.large_string()), *(pa.nulls(len(uris), field.type) for field in LISTING if field.name != "uri")],
        schema=LISTING,
    )
    rows = collect([listing], "here").rows
    assert rows.num_rows == 500_000
    assert rows["image_id"].to_numpy()[-1] == 499_999
