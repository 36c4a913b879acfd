"""What a reader of the results must know of the classes and splits that a listing came to."""

from __future__ import annotations

from fgvr.class_names import LONG_NAME
from fgvr.config.data import FolderSource, LayoutSource, ParquetSource, Source, TableSource, WebDatasetSource
from fgvr.datasets.rows import DEFAULT_SPLIT, SampleRows
from fgvr.safe_text import safe

SHOWN_CHARACTERS = 60
"""Of a name that is too long to be shown."""


def class_remarks(source: Source, rows: SampleRows) -> list[str]:
    """Photos without a class where classes were asked for or are there, and classes that are rather texts."""
    remarks = []
    asked = _classes_asked_for(source)
    if rows.without_class and (asked is not None or rows.classes):
        what = "no photo has a class" if not rows.classes else f"{_share(rows.without_class, rows)} have no class"
        remarks.append(what if asked is None else f"{what} ({asked})")
    if rows.odd_classes:
        first = " ".join(rows.odd_classes[0].split())[:SHOWN_CHARACTERS]
        many = len(rows.odd_classes)
        remarks.append(
            f"{many:,} {'name of a class goes' if many == 1 else 'names of classes go'} over several lines or beyond "
            f"{LONG_NAME} characters (“{safe(first)}…”): text for a name, or a quote that is closed in another row?"
        )
    return remarks


def split_remarks(rows: SampleRows) -> list[str]:
    """Photos without a split beside others with one, and splits that differ by their capitals only."""
    remarks = []
    kept = rows.kept.rows
    if 0 < rows.without_split < kept:
        remarks.append(f"{_share(rows.without_split, rows)} have no split: they are in {DEFAULT_SPLIT}")
    by_letters: dict[str, list[str]] = {}
    for split in sorted(rows.splits):
        by_letters.setdefault(split.casefold(), []).append(split)
    for alike in by_letters.values():
        if len(alike) > 1:
            counts = ", ".join(f"{split} ({rows.splits[split]:,})" for split in alike)
            remarks.append(f"splits that differ by capitals only are others: {counts}")
    return remarks


def _classes_asked_for(source: Source) -> str | None:
    """The field and value by which a person asked for classes; None where nobody did."""
    match source:
        case FolderSource() | WebDatasetSource() if source.class_from != "none":
            return f"ingest.source.class_from = {source.class_from}"
        case TableSource() | ParquetSource() if source.class_column and "class_column" in source.model_fields_set:
            return f"ingest.source.class_column = {source.class_column}"
        case LayoutSource():
            return f"ingest.source.name = {source.name}"
    return None


def _share(count: int, rows: SampleRows) -> str:
    return f"{count:,} of {rows.kept.rows:,} photos ({100 * count / rows.kept.rows:.3g}%)"
