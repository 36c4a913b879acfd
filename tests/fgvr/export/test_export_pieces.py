"""Folders of names, shards of a dataset, and a large index, by themselves."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fgvr import schemas
from fgvr.config.data import ImageLimits
from fgvr.export.folder_names import folder_names
from fgvr.export.hub_dataset import export_dataset, split_name
from fgvr.export.photos import NamedPhotos
from fgvr.export.places import Destination
from fgvr.export.vector_index import export_index
from fgvr.tables import Table, write_part


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("House Finch", "House Finch"),
        ("Rüppell's Warbler", "Rüppell's Warbler"),
        ("a/b\\c", "a_b_c"),
        ("..", "unnamed"),
        ("???", "unnamed"),
        ("CON", "CON_"),
        ("nul.txt", "nul_txt_"),
        ("com¹", "com¹_"),
        ("dots... ", "dots"),
        ("-rf", "rf"),
        ("__init__", "init__"),
        ("a\x00b\nc", "a_b_c"),
        ("ab\u202egnp.exe", "abgnp.exe"),
        ("e\u0301", "é"),
        ("file[1]*", "file_1_"),
    ],
)
def test_a_folder_of_a_name(name: str, folder: str) -> None:
    assert folder_names([name]) == {name: folder}


def test_names_that_some_disk_takes_for_the_same_get_numbers() -> None:
    names = ["Finch", "finch", "FINCH", "finch_2", "é", "e\u0301", "ﬁnch", "Straße", "STRASSE"]
    folders = list(folder_names(names).values())
    keys = [unicodedata.normalize("NFKD", folder).upper().casefold() for folder in folders]
    assert len(set(keys)) == len(names)


def test_long_names_and_twenty_thousand_alike() -> None:
    names = ["鳥" * 200, "😀" * 100, *(f"{'x' * 300}{number}" for number in range(20_000))]
    folders = folder_names(names)
    assert len({folder.casefold() for folder in folders.values()}) == len(names)
    assert max(len(folder.encode()) for folder in folders.values()) <= 220


def test_splits_are_names_that_hugging_face_takes() -> None:
    assert [split_name(name) for name in ("train", "part-2", "zu lernen", "é", "../x")] == [
        *("train", "part_2", "zu_lernen", "train", "x")
    ]


def table(folder: Path, name: str, schema: pa.Schema, rows: list[dict[str, Any]], size: int, **extra: Any) -> Table:
    """A finished table with parts of `size` rows."""
    for number, start in enumerate(range(0, len(rows), size)):
        write_part(str(folder / name), number, pa.Table.from_pylist(rows[start : start + size], schema))
    failed = sum(row.get("error") is not None for row in rows)
    parts = -(-len(rows) // size)
    made = Table(str(folder / name), name, "f", len(rows), failed, parts, size, 0.0, extra=extra)
    made.commit()
    return made


def test_shards_are_closed_at_their_size_and_hold_every_photo_once(tmp_path: Path) -> None:
    from PIL import Image

    samples, labels = [], []
    for number in range(30):
        place = tmp_path / f"{number:02}.png"
        Image.effect_noise((40, 30), 60).convert("RGB").save(place)
        split = "a-b" if number % 2 else "a_b"
        samples.append({"image_id": number, "uri": str(place), "split": split, "class_id": None, "class_name": None})
        labels.append({"image_id": number, "raw": "x", "label": f"name {number % 3}", "label_id": number % 3})
    splits = {"a-b": 15, "a_b": 15}
    photos = NamedPhotos(
        table(tmp_path, "samples", schemas.SAMPLES, samples, 7, splits=splits),
        table(tmp_path, "labels", schemas.LABELS, labels, 11),
    )
    size = Path(samples[0]["uri"]).stat().st_size
    to = Destination(str(tmp_path / "out"), "dataset")
    facts = export_dataset(photos, to, ImageLimits(), shard_bytes=int(9.5 * size))
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [file.name for file in files] == [f"a_b-{number:05}.parquet" for number in range(len(files))]
    assert len(files) in {3, 4}
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert sorted(row["image_id"] for row in rows) == list(range(30))
    assert facts["splits"] == {"a_b": 30}
    for row in rows:
        assert row["image"]["bytes"] == Path(samples[row["image_id"]]["uri"]).read_bytes()


def test_a_large_index_finds_most_of_the_nearest(tmp_path: Path) -> None:
    import faiss

    random = np.random.default_rng(0)
    centres = random.normal(size=(50, 16))
    vectors = centres[random.integers(0, 50, 3000)] + 0.3 * random.normal(size=(3000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    failed = schemas.Failure(schemas.Reason.CORRUPT, "").as_row()
    rows: list[dict[str, Any]] = [
        {"image_id": number, "vector": vector.tobytes(), "error": None} for number, vector in enumerate(vectors)
    ]
    rows[17] = {"image_id": 17, "vector": None, "error": failed}
    places = [{"image_id": n, "uri": f"/photos/{n:04}.jpg", "split": "train"} for n in range(3000)]
    embeddings = table(tmp_path, "embeddings", schemas.embeddings(16), rows, 1000)
    samples = table(tmp_path, "samples", schemas.SAMPLES, places, 700)
    to = Destination(str(tmp_path / "out"), "vectors")
    facts = export_index(embeddings, samples, to, flat_up_to=1000)
    assert facts["vectors"] == 2999
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    photos = pq.read_table(tmp_path / "out" / "photos.parquet")
    assert 17 not in photos["image_id"].to_pylist()
    queries = np.delete(vectors, 17, axis=0)[::30].astype(np.float32)
    _, ids = index.search(queries, 1)
    assert (ids[:, 0] == np.delete(np.arange(3000), 17)[::30]).mean() > 0.95
