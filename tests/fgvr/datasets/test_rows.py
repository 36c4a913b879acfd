import numpy as np
import pyarrow as pa
import pytest

from fgvr.datasets.rows import LISTING, SourceError, chunk, collect
from fgvr.schemas import SAMPLES


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
