"""Columns of a listing: finding the column that is meant, and converting a column of any type to text."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fgvr import storage
from fgvr.names.spelling import one_form

SHOWN_COLUMNS: Final = 20
"""How many columns of a file a message lists."""

_USUAL: Final = {
    "image_column": ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "bytes", "imagebytes"),
    "uri_column": (
        "url",
        "path",
        "filepath",
        "file",
        "filename",
        "imagepath",
        "imageurl",
        "imageuri",
        "image",
        "photo",
    ),
    "split_column": ("set", "subset", "partition"),
    "class_column": ("class", "label", "labelname", "classlabel", "category", "categoryname"),
    "id_column": ("id", "imageid", "sampleid", "rowid"),
    "answer_column": ("label", "name", "title", "prediction", "response", "caption", "class", "classname", "text"),
    "rank_column": ("position", "place", "top"),
    "score_column": ("confidence", "probability", "prob", "weight", "votes"),
}
"""Names that other people's files give a column, in folded form."""

TRIED: Final = 5
"""How many paths are tested; testing every row would take hours for millions of rows."""


class ColumnError(ValueError):
    """A column is missing, present twice, or holds values of a wrong type; the message says which column and what."""


def find_column(names: Sequence[str], column: str, field: str) -> int | None:
    """The position of a column in a file, ignoring blanks and invisible marks around names; None if it is not there.

    Raises ColumnError if two columns have this name.
    """
    wanted = one_form(column)
    places = [place for place, name in enumerate(names) if one_form(name) == wanted]
    if len(places) > 1:
        raise ColumnError(
            f"it has {'two' if len(places) == 2 else len(places)} columns {wanted}, and {field} can "
            "mean one; rename or remove the other"
        )
    return places[0] if places else None


def columns_there(names: Sequence[str], field: str, column: str) -> str:
    """A file's columns, for the message that one is missing, and which of them was probably meant."""
    shown = ", ".join(one_form(name) for name in names[:SHOWN_COLUMNS]) + (" …" if len(names) > SHOWN_COLUMNS else "")
    near = near_miss(names, field, column, cutoff=0.6)
    if near is not None:
        return f"{shown}; did you mean {near}?"
    only = names[0] if len(names) == 1 else ""
    for mark, what, remedy in (
        ("\t", "tabs", "commas, or as .tsv"),
        (";", "semicolons", "commas"),
        ("|", "bars", "commas"),
    ):
        if mark in only:
            return f"{shown}: {what} stand between its columns; save it with {remedy}"
    return shown


def near_miss(
    names: Sequence[str], field: str, column: str, *, cutoff: float = 0.8, taken: Collection[str] = ()
) -> str | None:
    """The column that was probably meant: it differs in case, blanks, dashes or plural, is a usual name, or a typo.

    Args:
        names: the file's columns.
        field: the field of the source's config that names the column.
        column: the field's value.
        cutoff: similarity (0 to 1) from which a name is taken for a typo.
        taken: columns that are used for something else.
    """
    folded = {_folded(name): one_form(name) for name in reversed(names) if one_form(name) not in taken}
    folded.pop("", None)
    usual = (_folded(other) for other in _USUAL.get(field, ()))
    for wanted in (_folded(column), *usual):
        if wanted in folded:
            return folded[wanted]
    close = difflib.get_close_matches(_folded(column), list(folded), n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def _folded(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum()).removesuffix("s")


def check_kind(name: str, kind: pa.DataType, what: str) -> None:
    """Raise ColumnError if a column holds several values per row; a photo has one `what`: class, URI or split."""
    if pa.types.is_nested(_plain(kind)):
        images = what == "URI" and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        remedy = "; `ingest.source.kind: parquet` reads images that lie in a column" if images else ""
        raise ColumnError(f"column {name} holds {kind}; a photo has one {what}{remedy}")


def as_text(values: pa.Array, name: str, what: str) -> pa.Array:
    """A column of any scalar type as text: 7 and 7.0 are "7", true is "true"; null and NaN are null.

    Raises ColumnError if it holds lists, structs, or bytes that are not text.
    """
    check_kind(name, values.type, what)
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        if pa.types.is_float16(values.type):
            values = values.cast(pa.float32())
        values = pc.if_else(pc.is_nan(values), None, values)
    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid:
        remedy = "; `ingest.source.kind: parquet` reads images that lie in a column" if what == "URI" else ""
        raise ColumnError(f"column {name} holds {values.type} that is no UTF-8 text{remedy}") from None
    except pa.ArrowNotImplementedError:
        raise ColumnError(f"column {name} holds {values.type}, which is no {what}") from None


def _plain(kind: pa.DataType) -> pa.DataType:
    """The stored type: an extension's storage type, a dictionary's value type."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


# Paths in a table written on Windows: `images\0.png` is read as images/0.png if that is where the photos are.


class Backslashes:
    """Replaces the backslashes in a table's paths if the first few files are found only that way.

    Outside Windows a backslash may be part of a file name.
    """

    def __init__(self, folder: str) -> None:
        """Relative paths start at `folder`."""
        self._folder = folder
        self._turns: bool | None = None
        self._count = 0
        self._example = ""
        self._there = False

    def turned(self, uris: pa.Array) -> pa.Array:
        """URIs as text, with `/` for backslashes if the photos are found that way."""
        windows = pc.and_(
            pc.match_substring_regex(uris, r"\\|^[A-Za-z]:/"), pc.invert(pc.match_substring(uris, "://"))
        ).fill_null(False)
        count = pc.sum(windows).as_py() or 0
        if not count:
            return uris
        self._count += count
        if self._turns is None:
            self._look(uris.filter(windows).slice(0, TRIED).to_pylist())
        return pc.if_else(windows, pc.replace_substring(uris, "\\", "/"), uris) if self._turns else uris

    def remarks(self) -> list[str]:
        """A note if backslashes were replaced."""
        if not self._count or self._there:
            return []
        what = f"{self._count:,} paths are written as on Windows, e.g. {self._example}"
        if self._turns:
            return [f"{what}: read with / for each backslash"]
        return [f"{what}: there is no such file here, nor one with / for each backslash below {self._folder}"]

    def _look(self, paths: list[str]) -> None:
        self._example = paths[0].strip()
        self._there = any(self._exists(path) for path in paths)
        self._turns = not self._there and any(self._exists(path.replace("\\", "/")) for path in paths)

    def _exists(self, path: str) -> bool:
        path = path.strip()
        return storage.exists(path if path.startswith("/") else storage.join(self._folder, path))
