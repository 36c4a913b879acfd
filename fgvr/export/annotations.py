"""Photos with their names as JSON files of COCO and of FiftyOne, written piece by piece.

Sources: COCO's description of its data format (cocodataset.org) as pycocotools reads it, and FiftyOne's documentation
of `FiftyOneImageClassificationDataset`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from fgvr.config.data import ImageLimits
from fgvr.export.image_folder import linked
from fgvr.export.photos import NamedPhotos, PhotoFile, photo_files
from fgvr.export.places import Destination
from fgvr.redact import masked

ABOUT = "Names that fgvr gave; a box is the whole photo, since a name is about all of it"


def export_coco(photos: NamedPhotos, to: Destination, limits: ImageLimits, *, link: bool) -> dict[str, Any]:
    """`annotations.json` in COCO's form, as pycocotools reads it; one annotation per photo.

    A name is about the whole photo, so its box is the whole photo: COCO has no annotation without one.

    Args:
        photos: what is written.
        to: where.
        limits: of reading a photo.
        link: `file_name` is the photo's place; else photos are copied to `images/`, to which `file_name` is relative.

    Raises:
        ExportError: no photo has a name.
    """
    names = photos.names()
    numbers = {name: number for number, name in enumerate(names, start=1)}
    written = 0
    # Images and annotations are two lists, of which one is kept aside until the other is complete.
    with to.writing("annotations.json") as file, tempfile.TemporaryFile() as aside:
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        file.write(
            f'{{"info": {_text({"description": ABOUT})},\n"categories": {_text(categories)},\n"images": ['.encode()
        )
        for each in photo_files(photos, limits):
            end = b",\n" if written else b"\n"
            written += 1
            file.write(end + _text(_image(each, to, link=link)).encode())
            aside.write(end + _text(_annotation(each, written, numbers)).encode())
        file.write(b'],\n"annotations": [')
        aside.seek(0)
        shutil.copyfileobj(aside, file)
        file.write(b"]}\n")
    return to.finish(photos.facts(written) | {"names": len(names)})


def _image(file: PhotoFile, to: Destination, *, link: bool) -> dict[str, Any]:
    name = file.photo.uri if link else file.file_name
    if not link:
        to.write(f"images/{name}", file.data)
    size = {"width": file.width, "height": file.height}
    return {"id": file.photo.image_id, "file_name": name, **size, "split": file.photo.split}


def _annotation(file: PhotoFile, number: int, numbers: dict[str, int]) -> dict[str, Any]:
    photo = file.photo
    return {
        "id": number,
        "image_id": photo.image_id,
        "category_id": numbers[photo.name],
        "bbox": [0, 0, file.width, file.height],
        "area": file.width * file.height,
        "iscrowd": 0,
        "source": photo.source,
        **({} if photo.score is None else {"score": round(photo.score, 6)}),
    }


def export_fiftyone(photos: NamedPhotos, to: Destination, limits: ImageLimits, *, link: bool) -> dict[str, Any]:
    """FiftyOne's `FiftyOneImageClassificationDataset`: `labels.json`, and `data/` or `data.json`.

    Args:
        photos: what is written.
        to: where.
        limits: of reading a photo.
        link: `data.json` says where each photo is on this machine's disk; else photos are copied to `data/`.

    Raises:
        ExportError: no photo has a name; or a photo is elsewhere and `link` is set.
    """
    names = photos.names()
    numbers = {name: number for number, name in enumerate(names)}
    written = 0
    with to.writing("labels.json") as labels, _places(to, link=link) as places:
        labels.write(f'{{"classes": {_text(names)},\n"labels": {{'.encode())
        for each in photo_files(photos, limits):
            photo, key = each.photo, f"{each.photo.image_id:09}"
            label: dict[str, Any] = {"label": numbers[photo.name]}
            if photo.score is not None:
                label["confidence"] = photo.score
            label["attributes"] = {"split": photo.split, "source": photo.source, "uri": masked(photo.uri)}
            end = b",\n" if written else b"\n"
            labels.write(end + f'"{key}": {_text(label)}'.encode())
            if places is None:
                to.write(f"data/{each.file_name}", each.data)
            else:
                places.write(end + f'"{key}": {_text(linked(each))}'.encode())
            written += 1
        labels.write(b"}}\n")
    return to.finish(photos.facts(written) | {"names": len(names)})


@contextmanager
def _places(to: Destination, *, link: bool) -> Iterator[IO[bytes] | None]:
    """`data.json` for places of photos; None where they are copied."""
    if not link:
        yield None
        return
    with to.writing("data.json") as places:
        places.write(b"{")
        yield places
        places.write(b"}\n")


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)
