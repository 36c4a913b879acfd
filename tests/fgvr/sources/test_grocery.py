import json
import os
from pathlib import Path

import downloads
import pytest

from fgvr.config.data import LayoutSource
from fgvr.sources.source import read_source, source_state


@pytest.mark.parametrize("inside", ["", "dataset"])
def test_the_official_layout(tmp_path, inside):
    source = LayoutSource(name="grocery", path=str(downloads.grocery(tmp_path) / inside))
    rows = read_source(source, "").rows.to_pylist()
    assert [(row["uri"].removeprefix(f"{tmp_path}/dataset/"), row["split"], row["class_id"]) for row in rows] == [
        ("test/Fruit/Apple/Golden-Delicious/Golden-Delicious_001.jpg", "test", 0),
        ("train/Fruit/Apple/Golden-Delicious/Golden-Delicious_001.jpg", "train", 0),
        ("val/Vegetables/Onion/Yellow-Onion/Yellow-Onion_001.jpg", "val", 1),
    ]
    assert rows[0]["class_name"] == "Golden Delicious"
    assert json.loads(rows[2]["metadata"]) == {"coarse": "Onion"}
    assert len(source_state(source)) == 4


def test_the_real_data_if_it_is_here():
    place = os.environ.get("FGVR_DATA") or str(Path(__file__).parents[4] / "shared" / "data")
    if not (Path(place) / "grocery-store").is_dir():
        pytest.skip("the Grocery Store Dataset is not here: set FGVR_DATA to the folder that holds grocery-store/")
    listed = read_source(LayoutSource(name="grocery", path=f"{place}/grocery-store"), "")
    rows = listed.rows
    assert listed.remarks == ()  # the official numbers
    splits = rows["split"].to_pylist()
    assert [splits.count(name) for name in ("train", "val", "test")] == [2640, 296, 2485]
    assert len(set(rows["class_name"].to_pylist())) == 81
    assert all(Path(uri).is_file() for uri in rows["uri"].to_pylist())
