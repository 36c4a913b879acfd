"""Photos whose name a person has looked at: from a CSV of photos and right names, or from the review page.

Such a name is the label, whatever the model said. It counts as a label that a person chose: it keeps its spelling and
is not merged into another one, unless `label.aliases` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from fgvr import schemas, storage
from fgvr.errors import UserError
from fgvr.names.aliases import AliasTable
from fgvr.names.label_space import NamedAnswers
from fgvr.names.spelling import spelling_key
from fgvr.schemas import Failure, Reason
from fgvr.text_files import EditedCsvError, read_edited_csv

COLUMNS = ("uri", "right_name")


class CheckedError(UserError, ValueError):
    """A file of checked photos that cannot be used; the message names the line."""


def read_checked(uri: str) -> dict[str, str]:
    """Right name by the photo's URI; rows without a right name are photos at which nobody has looked yet.

    Args:
        uri: a CSV with the columns `uri` and `right_name`; other columns are ignored.

    Raises:
        CheckedError: no such file, no such columns, no name at all, or two names for one photo.
    """
    found: dict[str, str] = {}
    spellings: dict[str, str] = {}
    try:
        for row in read_edited_csv(storage.read_bytes(uri), f"label.checked: {uri}", COLUMNS):
            photo, name = (row.fields[column].strip() for column in COLUMNS)
            if not name:
                continue
            # The first spelling of a name holds for all: "Wren" and "wren" are no two kinds.
            name = spellings.setdefault(spelling_key(name), name)
            if found.setdefault(photo, name) != name:
                raise CheckedError(
                    f"label.checked: {uri}, line {row.line}: {photo} is {name!r} here and {found[photo]!r} before; "
                    "leave one of the two lines"
                )
    except FileNotFoundError:
        raise CheckedError(f"label.checked: there is no file {uri}") from None
    except EditedCsvError as error:
        raise CheckedError(str(error)) from None
    if not found:
        raise CheckedError(
            f"label.checked: {uri} has no right_name in any row; write the names of the photos that you looked at"
        )
    return found


def of_images(checked: Mapping[str, str], ids: Sequence[int], uris: Sequence[str]) -> dict[int, str]:
    """Right name by image id, for the images `ids` at `uris`.

    Raises:
        CheckedError: none of the checked photos is among them.
    """
    found = {image: checked[uri] for image, uri in zip(ids, uris, strict=True) if uri in checked}
    if not found:
        example = next(iter(checked))
        raise CheckedError(
            f"label.checked: none of its {len(checked):,} photos is among the {len(ids):,} labelled ones; it has "
            f"{example}, and a photo's uri must be written as in issues.csv"
        )
    return found


def unmatched(checked: Mapping[str, str], uris: Sequence[str]) -> list[str]:
    """The checked photos that are not among those at `uris`, in the file's order: their names are not used."""
    there = set(uris)
    return [photo for photo in checked if photo not in there]


def of_copies(checked: Mapping[int, str], ids: Sequence[int], photos: Sequence[int]) -> dict[int, str]:
    """Right name by image id, also of the copies of checked photos: they got the same answer, and only one was listed.

    Args:
        checked: right name by image id; these stay as they are.
        ids: all images.
        photos: `photo_id` of each, as in the table `duplicates`.
    """
    of_photo: dict[int, str] = {}
    for image, photo in sorted(zip(ids, photos, strict=True), key=lambda pair: (pair[0] != pair[1], pair[0])):
        if image in checked:
            of_photo.setdefault(photo, checked[image])
    found = {image: of_photo[photo] for image, photo in zip(ids, photos, strict=True) if photo in of_photo}
    return found | dict(checked)


def chosen_too(chosen: AliasTable | None, names: Sequence[str]) -> AliasTable:
    """The chosen labels, and these names as labels that keep their spelling."""
    table = chosen or AliasTable()
    own = {name: name for name in names if table.label(name) is None}
    return AliasTable(table.labels, {**own, **table.exact})


def corrected(rows: pa.Table, checked: Mapping[int, str], named: NamedAnswers) -> pa.Table:
    """Rows of the labels table in which the checked photos have their right names.

    Their raw answer stays; nothing is a failure any more.
    """
    if not checked:
        return rows
    ids = {label: number for number, label in enumerate(named.space.labels)}
    result = []
    for row in rows.to_pylist():
        name = checked.get(row["image_id"])
        label = None if name is None else named.meanings[name]
        known = {}
        if isinstance(label, str):
            known = {"label": label, "label_id": ids[label], "candidate_ids": [ids[label]], "candidate_weights": [1.0]}
            known["error"] = None
        result.append(row | known)
    return pa.Table.from_pylist(result, schema=rows.schema)


def denied(rows: pa.Table, not_names: Mapping[int, str], named: NamedAnswers) -> pa.Table:
    """Rows of the labels table without the names of which a person said that the photo does not show them.

    The heaviest of the other names becomes the label; without any the row fails, and says why.

    Args:
        rows: of the labels table.
        not_names: image id → a canonical name.
        named: the label space.
    """
    if not not_names:
        return rows
    ids = {label: number for number, label in enumerate(named.space.labels)}
    result = []
    for row in rows.to_pylist():
        number = ids.get(not_names.get(row["image_id"], ""))
        if number is not None and number in (row["candidate_ids"] or ()):
            pairs = zip(row["candidate_ids"], row["candidate_weights"], strict=True)
            left = {each: weight for each, weight in pairs if each != number}
            label = next(iter(left), None)
            why = Failure(Reason.STRUCK_OUT, f"a person said that it is not {named.space.labels[number]}")
            row |= {
                "label": None if label is None else named.space.labels[label],
                "label_id": label,
                "candidate_ids": list(left),
                "candidate_weights": [weight / sum(left.values()) for weight in left.values()],
                "error": why.as_row() if label is None else row["error"],
            }
        result.append(row)
    return pa.Table.from_pylist(result, schema=rows.schema)


def with_others(
    parts: Iterable[pa.Table], names: Mapping[int, str], named: NamedAnswers, rows_per_part: int
) -> Iterator[pa.Table]:
    """The labels of the discovery set, and beside them those of photos of which only a person said what they show.

    Args:
        parts: of the labels table, image ids ascending.
        names: image id → right name of the other photos.
        named: the label space.
        rows_per_part: rows of each part that is returned but the last.
    """
    waiting, held = _labels_of(names, named), schemas.LABELS.empty_table()
    for part in parts:
        last = part["image_id"][-1].as_py() if part.num_rows else -1
        before = int(np.searchsorted(waiting["image_id"].to_numpy(), last))
        held = pa.concat_tables([held, part, waiting.slice(0, before)]).sort_by("image_id")
        waiting = waiting.slice(before)
        while held.num_rows > rows_per_part:
            yield held.slice(0, rows_per_part)
            held = held.slice(rows_per_part)
    held = pa.concat_tables([held, waiting])
    for start in range(0, max(1, held.num_rows), rows_per_part):
        yield held.slice(start, rows_per_part)


def _labels_of(names: Mapping[int, str], named: NamedAnswers) -> pa.Table:
    """Rows of photos about which no model was asked; those whose name was struck out since are left out."""
    ids = {label: number for number, label in enumerate(named.space.labels)}
    rows = [
        {
            "image_id": image,
            "label": label,
            "label_id": ids[label],
            "candidate_ids": [ids[label]],
            "candidate_weights": [1.0],
            "prompt_tokens": 0,
            "output_tokens": 0,
        }
        for image, name in sorted(names.items())
        if isinstance(label := named.meanings[name], str)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.LABELS)
