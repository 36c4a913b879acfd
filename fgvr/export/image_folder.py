"""Photos in folders by name, which torchvision's ImageFolder and Hugging Face's `imagefolder` read."""

from __future__ import annotations

import codecs
import csv
import io
from typing import Any

from fgvr import storage
from fgvr.config.data import ImageLimits
from fgvr.export.folder_names import folder_names
from fgvr.export.photos import NamedPhotos, PhotoFile, photo_files
from fgvr.export.places import Destination, ExportError
from fgvr.images.places import is_inside
from fgvr.redact import masked


def export_imagefolder(photos: NamedPhotos, to: Destination, limits: ImageLimits, *, link: bool) -> dict[str, Any]:
    """`<split>/<name>/<image id>.<ending>`, and two tables.

    `names.csv` says which folder stands for which name, `photos.csv` where each photo came from. Files are copied
    unchanged.

    Args:
        photos: what is written.
        to: where.
        limits: of reading a photo.
        link: make symbolic links to the photos instead of copies.

    Raises:
        ExportError: no photo has a name; or a photo cannot be linked to.
    """
    folders = folder_names(photos.names())
    splits = folder_names(sorted(photos.samples.extra["splits"]))
    written = 0
    with to.writing("photos.csv") as file:
        rows = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
        rows.writerow(("file", "name", "source", "score", "true_name", "uri"))
        for each in photo_files(photos, limits):
            photo = each.photo
            name = f"{splits[photo.split]}/{folders[photo.name]}/{each.file_name}"
            if link:
                place = to.local(name)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(linked(each))
            else:
                to.write(name, each.data)
            score = "" if photo.score is None else f"{photo.score:.6g}"
            rows.writerow((name, photo.name, photo.source, score, photo.true_name or "", masked(photo.uri)))
            written += 1
    with io.StringIO() as text:
        listed = csv.writer(text, lineterminator="\n")
        listed.writerow(("folder", "name"))
        listed.writerows((folder, name) for name, folder in folders.items())
        to.write("names.csv", text.getvalue().encode())
    return to.finish(photos.facts(written) | {"names": len(folders)})


def linked(file: PhotoFile) -> str:
    """The path of a photo on this machine's disk; raises ExportError for one that is elsewhere or inside a file."""
    uri = file.photo.uri
    if is_inside(uri) or not storage.is_local(uri):
        raise ExportError(f"{masked(uri)} is no file on this machine's disk; --photos copy copies the photos")
    return str(storage.local_path(uri))
