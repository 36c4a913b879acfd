import json
import os
from pathlib import Path

import pytest

from fgvr.config.data import LayoutSource
from fgvr.datasets import SourceError, read_source, source_state

HEADER = (
    "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
    "Iconic Image Path (str),Product Description Path (str)\n"
)
CLASSES = HEADER + "Golden-Delicious,0,Apple,0,/i.jpg,/d.txt\nYellow-Onion,1,Onion,1,/i.jpg,/d.txt\n"


def layout(root: Path, **files: str) -> Path:
    folder = root / "dataset"
    folder.mkdir()
    contents = {
        "classes.csv": CLASSES,
        "train.txt": "train/Fruit/Apple/Golden-Delicious/Golden-Delicious_001.jpg, 0, 0\n\n",
        "val.txt": "val/Vegetables/Onion/Yellow-Onion/Yellow-Onion_001.jpg, 1, 1\n",
        "test.txt": "test/Fruit/Apple/Golden-Delicious/Golden-Delicious_001.jpg, 0, 0\n",
        **files,
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    return root


@pytest.mark.parametrize("inside", ["", "dataset"])
def test_the_official_layout(tmp_path, inside):
    source = LayoutSource(name="grocery", path=str(layout(tmp_path) / inside))
    rows = read_source(source, "").rows.to_pylist()
    assert [(row["uri"].removeprefix(f"{tmp_path}/dataset/"), row["split"], row["class_id"]) for row in rows] == [
        ("test/Fruit/Apple/Golden-Delicious/Golden-Delicious_001.jpg", "test", 0),
        ("train/Fruit/Apple/Golden-Delicious/Golden-Delicious_001.jpg", "train", 0),
        ("val/Vegetables/Onion/Yellow-Onion/Yellow-Onion_001.jpg", "val", 1),
    ]
    assert rows[0]["class_name"] == "Golden Delicious"
    assert json.loads(rows[2]["metadata"]) == {"coarse": "Onion"}
    assert len(source_state(source)) == 4


def test_messages(tmp_path):
    with pytest.raises(
        SourceError, match=r"classes.csv is missing; the official download .* holds dataset/classes.csv"
    ):
        read_source(LayoutSource(name="grocery", path=str(tmp_path)), "")
    with pytest.raises(SourceError, match=r"classes.csv is missing"):
        source_state(LayoutSource(name="grocery", path=str(tmp_path)))
    layout(tmp_path, **{"val.txt": "val/a.jpg, 99, 0\n"})
    with pytest.raises(SourceError, match=r"val.txt, line 1: 'val/a.jpg, 99, 0' is not `path, fine class id"):
        read_source(LayoutSource(name="grocery", path=str(tmp_path)), "")


def test_the_real_data_if_it_is_here():
    place = os.environ.get("FGVR_DATA") or str(Path(__file__).parents[4] / "shared" / "data")
    if not (Path(place) / "grocery-store").is_dir():
        pytest.skip("the Grocery Store Dataset is not here: set FGVR_DATA to the folder that holds grocery-store/")
    rows = read_source(LayoutSource(name="grocery", path=f"{place}/grocery-store"), "").rows
    splits = rows["split"].to_pylist()
    assert [splits.count(name) for name in ("train", "val", "test")] == [2640, 296, 2485]
    assert len(set(rows["class_name"].to_pylist())) == 81
    assert all(Path(uri).is_file() for uri in rows["uri"].to_pylist())
