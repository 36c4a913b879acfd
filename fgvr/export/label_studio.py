"""Tasks for Label Studio: photos with their names as predictions, for people to judge.

Sources: Label Studio's documentation of its task format (`data`, `predictions`), and of the tags Choices and Taxonomy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from fgvr.export.photos import NamedPhoto, NamedPhotos
from fgvr.export.places import Destination, ExportError

TASKS_PER_FILE: Final = 5000
"""Label Studio imports files of up to 200 MB at once."""
MOST_BUTTONS: Final = 60
"""Names up to which they are buttons; more are a list to search in."""
FIELD, IMAGE = "name", "image"
_NOT_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML file may hold, in whatever form."""


def export_label_studio(photos: NamedPhotos, to: Destination, places: Mapping[str, str]) -> dict[str, Any]:
    """`tasks-NNNNN.json` and `labelling.xml` for a project of Label Studio.

    Args:
        photos: what is written.
        to: where.
        places: beginnings of URIs → addresses that stand for them in Label Studio, such as /data/photos/ →
            /data/local-files/?d=photos/: its pages load photos from addresses, not from a disk.

    Raises:
        ExportError: no photo has a name.
    """
    names = photos.names()
    if unfit := [name for name in names if _NOT_XML.search(name)]:
        raise ExportError(
            f"the name {unfit[0]!r} holds a character that Label Studio's XML cannot; rename it in review"
        )
    to.write("labelling.xml", labelling(names).encode())
    written = files = 0
    tasks: list[dict[str, Any]] = []

    def flush() -> None:
        to.write(f"tasks-{files:05}.json", json.dumps(tasks, ensure_ascii=False).encode())

    for photo in photos:
        tasks.append(task(photo, places, kind=kind_of(names), version=photos.table.version))
        written += 1
        if len(tasks) == TASKS_PER_FILE:
            flush()
            files, tasks = files + 1, []
    if tasks:
        flush()
    return to.finish(photos.facts(written) | {"names": len(names)})


def kind_of(names: list[str]) -> str:
    """`choices` (buttons) for few names, `taxonomy` (a list to search in) for many."""
    return "taxonomy" if len(names) > MOST_BUTTONS else "choices"


def labelling(names: list[str]) -> str:
    """The labelling configuration, XML."""
    kind = kind_of(names)
    tag = kind.capitalize()
    more = ' maxUsages="1" showFullPath="false"' if kind == "taxonomy" else ' choice="single" showInLine="true"'
    lines = [
        "<View>",
        f'  <Image name="{IMAGE}" value="${IMAGE}"/>',
        f'  <{tag} name="{FIELD}" toName="{IMAGE}"{more}>',
        *(f"    <Choice value={quoteattr(name)}/>" for name in names),
        f"  </{tag}>",
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def task(photo: NamedPhoto, places: Mapping[str, str], *, kind: str, version: str) -> dict[str, Any]:
    """One photo as a task, with its name as a prediction."""
    value = [[photo.name]] if kind == "taxonomy" else [photo.name]
    prediction: dict[str, Any] = {
        "model_version": photo.source if photo.score is None else f"{photo.source} {version}",
        "result": [{"from_name": FIELD, "to_name": IMAGE, "type": kind, "value": {kind: value}}],
    }
    if photo.score is not None:
        prediction["score"] = photo.score
    data = {IMAGE: _shown(photo.uri, places), "uri": photo.uri, "image_id": photo.image_id, "split": photo.split}
    return {"data": data, "predictions": [prediction]}


def _shown(uri: str, places: Mapping[str, str]) -> str:
    """The address of a photo in Label Studio; what follows a beginning is percent-encoded."""
    for start, address in places.items():
        if uri.startswith(start):
            return address + quote(uri[len(start) :])
    return uri
