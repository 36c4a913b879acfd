"""The Grocery Store Dataset (Klasson, Zhang, Kjellström, WACV 2019) as its GitHub repository holds it.

81 fine-grained classes in 42 coarse ones; 2,640 training, 296 validation and 2,485 test photos.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pyarrow as pa

from fgvr import storage
from fgvr.datasets.rows import SourceError, chunk

SPLITS = ("train", "val", "test")
HOLDS = "dataset/classes.csv, dataset/{train,val,test}.txt and the photos in dataset/{train,val,test}/"


def read_grocery(path: str) -> Iterator[pa.Table]:
    """A chunk a split; class names as words ("Golden-Delicious" → "Golden Delicious"), the coarse class as metadata.

    Args:
        path: the cloned repository, or the folder `dataset` in it.

    Raises:
        SourceError: a file of the official layout is missing or not as published.
    """
    root = _root(path)
    names, coarse_names = _classes(root, path)
    for split in SPLITS:
        uris, class_ids, metadata = [], [], []
        for number, line in enumerate(_read(root, f"{split}.txt", path).splitlines(), start=1):
            fields = [field.strip() for field in line.split(",")]
            if fields == [""]:
                continue
            if len(fields) != 3 or not fields[1].isdigit() or int(fields[1]) not in names:
                raise SourceError(
                    f"{root}/{split}.txt, line {number}: {line!r} is not `path, fine class id, coarse class id` "
                    f"with a class id of classes.csv"
                )
            uris.append(storage.join(root, fields[0]))
            class_ids.append(int(fields[1]))
            metadata.append(json.dumps({"coarse": coarse_names[int(fields[1])]}))
        class_names = [names[class_id] for class_id in class_ids]
        yield chunk(uri=uris, split=[split] * len(uris), class_id=class_ids, class_name=class_names, metadata=metadata)


def listing_files(path: str) -> list[str]:
    """URIs of the files that decide what is listed; raises SourceError where one is missing."""
    names = ["classes.csv", *(f"{split}.txt" for split in SPLITS)]
    uris = [storage.join(_root(path), name) for name in names]
    for name, uri in zip(names, uris, strict=True):
        if not storage.exists(uri):
            raise _missing(name, path)
    return uris


def _root(path: str) -> str:
    given = storage.absolute(path)
    return given if storage.exists(storage.join(given, "classes.csv")) else storage.join(given, "dataset")


def _classes(root: str, path: str) -> tuple[dict[int, str], dict[int, str]]:
    """Fine class id → name, and → name of its coarse class."""
    rows = list(csv.reader(io.StringIO(_read(root, "classes.csv", path))))
    try:
        fine = {int(row[1]): row[0].replace("-", " ") for row in rows[1:]}
        coarse = {int(row[1]): row[2].replace("-", " ") for row in rows[1:]}
    except (IndexError, ValueError) as error:
        raise SourceError(
            f"{root}/classes.csv: expected the columns Class Name, Class ID, Coarse Class Name …: {error}"
        ) from error
    return fine, coarse


def _read(root: str, name: str, path: str) -> str:
    try:
        return storage.read_bytes(storage.join(root, name)).decode()
    except FileNotFoundError:
        raise _missing(name, path) from None


def _missing(name: str, path: str) -> SourceError:
    return SourceError(
        f"ingest.source.path = {path}: {name} is missing; the official download (github.com/marcusklasson/"
        f"GroceryStoreDataset) holds {HOLDS}"
    )
