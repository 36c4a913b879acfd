"""Splits by groups: no group on both sides, the asked share, the same whatever the file's form and order; remarks."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from fgvr.config.data import ParquetSource, TableSource
from fgvr.sources.metadata import check_columns
from fgvr.sources.source import read_source

GROUPS, PHOTOS = 400, 5


def listing(folder: Path, rows: list[tuple[object, ...]], header: str = "uri,sender,class_name") -> Path:
    """A CSV of photos."""
    file = folder / "photos.csv"
    file.write_text("\n".join([header, *(",".join("" if each is None else str(each) for each in row) for row in rows)]))
    return file


def many() -> list[tuple[object, ...]]:
    return [
        (f"{group:03}-{photo}.jpg", group, f"kind {group % 7}") for group in range(GROUPS) for photo in range(PHOTOS)
    ]


def splits(source: TableSource | ParquetSource) -> dict[str, str]:
    rows = read_source(source, "").rows
    return {
        uri.rpartition("/")[2]: split
        for uri, split in zip(rows["uri"].to_pylist(), rows["split"].to_pylist(), strict=True)
    }


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_both_sides_and_the_share_is_kept(tmp_path: Path, seed: int) -> None:
    file = listing(tmp_path, many())
    found = splits(TableSource(path=str(file), group_column="sender", test_share=0.3, test_seed=seed))
    sides: dict[str, set[str]] = {}
    for name, split in found.items():
        sides.setdefault(name[:3], set()).add(split)
    assert all(len(side) == 1 for side in sides.values())
    share = sum(side == {"test"} for side in sides.values()) / GROUPS
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / GROUPS) ** 0.5  # four standard deviations of a binomial share
    other = splits(TableSource(path=str(file), group_column="sender", test_share=0.3, test_seed=seed + 1))
    assert found != other


def test_order_form_and_further_photos_change_nothing(tmp_path: Path) -> None:
    rows = many()
    first = splits(TableSource(path=str(listing(tmp_path, rows)), group_column="sender", test_share=0.3))
    half = splits(TableSource(path=str(listing(tmp_path, rows[::-2])), group_column="sender", test_share=0.3))
    assert half == {name: first[name] for name in half}
    columns = zip(*rows, strict=True)
    names = ("uri", "sender", "class_name")  # the sender as a number, where the CSV has text
    pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), tmp_path / "photos.parquet")
    source = TableSource(path=str(tmp_path / "photos.parquet"), group_column="sender", test_share=0.3)
    assert splits(source) == first


def test_parquet_files_of_images_are_split_likewise(tmp_path: Path) -> None:
    images = pa.table({"image": [b"x"] * 60, "visit": [f"v{n // 3}" for n in range(60)]})
    pq.write_table(images, tmp_path / "photos.parquet")
    rows = read_source(ParquetSource(path=str(tmp_path), group_column="visit", test_share=0.5), "").rows.to_pylist()
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row["metadata"], set()).add(row["split"])
    assert len(sides) == 20
    assert all(len(side) == 1 for side in sides.values())
    assert {split for side in sides.values() for split in side} == {"train", "test"}


def test_splits_of_the_source_stay_and_torn_groups_are_said(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [("a.jpg", 7, "x", "train"), ("b.jpg", 7, "x", "test"), ("c.jpg", 8, "y", "test")]
    rows += [("d.jpg", None, "y", "train"), ("e.jpg", None, "z", "test")]
    file = listing(tmp_path, rows, "uri,sender,class_name,split")
    listed = read_source(TableSource(path=str(file), group_column="sender"), "")
    assert listed.splits == {"train": 2, "test": 3}
    said = " ".join(listed.remarks)
    assert "1 groups by sender have photos in train and in test, e.g. 7" in said
    assert "2 photos have no sender" in said
    drawn = read_source(TableSource(path=str(file), group_column="sender", test_share=0.5), "")
    assert drawn.splits == listed.splits
    assert "drew nothing" in " ".join(drawn.remarks)


def test_photos_without_a_group_column_are_drawn_one_by_one(tmp_path: Path) -> None:
    found = splits(TableSource(path=str(listing(tmp_path, many())), test_share=0.3))
    torn = {name[:3] for name, split in found.items() if split == "test"}
    assert len(torn) > 0.7 * GROUPS  # 1 - .7^5 = .83 of the groups have a test photo
    share = sum(split == "test" for split in found.values()) / len(found)
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / len(found)) ** 0.5


def test_what_a_reader_should_know_is_said(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [(f"{n}.jpg", n, "only one" if n == 3 else "x") for n in range(200)]
    for seed in range(20):
        source = TableSource(path=str(listing(tmp_path, rows)), group_column="sender", test_share=0.5, test_seed=seed)
        listed = read_source(source, "")
        said = " ".join(listed.remarks)
        assert f"split drawn by groups by sender, seed {seed}: {listed.splits['test']} of 200 photos" in said
        alone = [row["split"] for row in listed.rows.to_pylist() if row["class_name"] == "only one"] == ["test"]
        assert ("classes have photos in test only" in said) == alone


def test_the_group_is_kept_as_metadata_and_missing_columns_are_refused(tmp_path: Path) -> None:
    file = listing(tmp_path, many())
    source = TableSource(path=str(file), group_column="sender")
    check_columns(source, ["sender"], "evaluate.slice_by")
    assert '"sender"' in read_source(source, "").rows["metadata"].to_pylist()[0]
    with pytest.raises(ValueError, match=r"metadata_columns = visit: .* no such column"):
        read_source(TableSource(path=str(file), group_column="visit"), "")
    with pytest.raises(ValidationError, match="nothing is drawn without test_share"):
        TableSource(path=str(file), test_seed=3)


@pytest.mark.parametrize("group", ["same", ""])
def test_one_group_or_none(tmp_path: Path, group: str) -> None:
    rows: list[tuple[object, ...]] = [(f"{n}.jpg", group, "x") for n in range(50)]
    listed = read_source(TableSource(path=str(listing(tmp_path, rows)), group_column="sender", test_share=0.5), "")
    assert len(listed.splits) == (1 if group else 2)  # all in one place, or each photo by itself
