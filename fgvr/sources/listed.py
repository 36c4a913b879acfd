"""Photos that a file lists by their URI: the only ones from which a discovery set is drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import storage
from fgvr.arrays import Ids
from fgvr.errors import UserError
from fgvr.text_files import EditedCsvError, read_edited_csv

log = logging.getLogger(__name__)

PHOTOS_FILE = "photos.csv"
FIELD = "label.images.only"


class ListedError(UserError, ValueError):
    """A list of photos that cannot be used."""


def read_listed(place: str) -> list[str]:
    """The URIs that a CSV lists in its column `uri`, each once, in the file's order.

    Args:
        place: the CSV, or a folder with photos.csv in it, such as runs/mine/novel.

    Raises:
        ListedError: there is no such file, or it has no such column, or no rows.
    """
    file = storage.absolute(place)
    if not file.lower().endswith(".csv"):
        file = storage.join(file, PHOTOS_FILE)
    try:
        rows = list(read_edited_csv(storage.read_bytes(file), f"{FIELD}: {file}", ("uri",)))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ListedError(
            f"{FIELD} = {place}: there is no {file}; give a CSV with a column uri, or the folder novel of a run that "
            "pipelines/drift.py has looked at"
        ) from None
    except EditedCsvError as error:
        raise ListedError(str(error)) from None
    found = [uri for row in rows if (uri := row.fields["uri"].strip())]
    if not found:
        raise ListedError(f"{FIELD} = {place}: {file} lists no photo")
    return list(dict.fromkeys(found))


def listed_ids(samples: Iterable[pa.Table], uris: list[str], split: str, place: str) -> Ids:
    """Ascending ids of the listed photos that are in a split, int64; the log says how many are not.

    Args:
        samples: parts of the samples table with columns image_id, uri, split; one at a time is held in memory.
        uris: distinct, as the samples have them.
        split: `label.images.split`.
        place: where the list is, for messages.

    Raises:
        ListedError: none of them is in the split.
    """
    wanted = pa.array(uris, pa.string())
    ids, elsewhere = [np.zeros(0, np.int64)], dict[str, int]()
    for rows in samples:
        own = rows.filter(pc.is_in(rows["uri"], wanted))
        ids.append(own.filter(pc.equal(own["split"], split))["image_id"].to_numpy())
        for name in own["split"].to_pylist():
            elsewhere[name] = elsewhere.get(name, 0) + 1
    found = np.sort(np.concatenate(ids))
    others = ", ".join(f"{count:,} in {name}" for name, count in sorted(elsewhere.items()) if name != split)
    if not len(found):
        why = f"they are in other splits ({others}); name it in label.images.split" if others else "none is in samples"
        raise ListedError(f"{FIELD} = {place}: of {len(uris):,} photos none is in the split {split}: {why}")
    lost = len(uris) - sum(elsewhere.values())
    if others or lost > 0:
        said = [*([f"{others}"] if others else []), *([f"{lost:,} not among the samples"] if lost > 0 else [])]
        log.warning(
            "%s: %s of %s photos are left out: %s",
            FIELD,
            f"{len(uris) - len(found):,}",
            f"{len(uris):,}",
            "; ".join(said),
        )
    return found
