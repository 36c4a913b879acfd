"""Reading and checking a source of any kind, and what identifies its content in fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fgvr import storage
from fgvr.config.data import (
    DRAWN,
    BirdScenesSource,
    CocoSource,
    FieldGuideSource,
    FolderSource,
    LayoutSource,
    ParquetSource,
    Source,
    TableSource,
    WebDatasetSource,
)
from fgvr.digests import content_of
from fgvr.images.formats import not_read_here
from fgvr.sources.group_splits import group_splits
from fgvr.sources.omissions import LeftOut, Omissions, Why
from fgvr.sources.omissions import listed as in_words
from fgvr.sources.rows import SampleRows, SourceError, class_remarks, collect, split_remarks

SHOWN_BAD = 5
"""How many damaged files the notes name."""

__all__ = ["SampleRows", "SourceError", "check_place", "check_source", "listing_state", "read_source", "source_state"]


def read_source(source: Source, run_folder: str, allowed_roots: Sequence[str] = ()) -> SampleRows:
    """List a source's images as rows of the samples table.

    Args:
        source: where the photos are.
        run_folder: URI of the run's folder, where the field guide is drawn unless it has a folder of its own.
        allowed_roots: as in `ingest.limits`; what the source names elsewhere becomes a failing row.

    Raises:
        SourceError: there is nothing to list, or the source is not of the stated kind.
    """
    rows = _read(source, run_folder, allowed_roots)
    return replace(rows, remarks=(*rows.remarks, *class_remarks(source, rows), *split_remarks(rows)))


def _read(source: Source, run_folder: str, allowed_roots: Sequence[str]) -> SampleRows:
    match source:
        case FolderSource():
            from fgvr.sources.folder import list_folder

            omissions = Omissions()
            rows = collect(list_folder(source, omissions, allowed_roots), source.path, omissions)
            return replace(rows, remarks=tuple(_unread(source.extensions, rows.left_out)))
        case TableSource():
            from fgvr.sources.table_file import read_table_file

            about: list[str] = []
            splits = group_splits(source)
            listed = read_table_file(source, remarks=about, allowed_roots=allowed_roots)
            rows = collect(listed if splits is None else splits(listed), where=source.path)
            return replace(rows, remarks=(*about, *(splits.remarks() if splits is not None else ())))
        case WebDatasetSource() | ParquetSource():
            return _read_shards(source, allowed_roots)
        case LayoutSource():
            from fgvr.sources.layouts import open_layout

            table, remarks = open_layout(source).read(allowed_roots)
            return replace(collect([table], where=source.path), remarks=tuple(remarks))
        case FieldGuideSource():
            from fgvr.sources.field_guide import read_field_guide

            return collect(read_field_guide(source, run_folder), where=source.draw_to or run_folder)
        case CocoSource() | BirdScenesSource():
            from fgvr.sources.coco import read_coco_source

            tables, remarks = read_coco_source(source, run_folder, allowed_roots)
            where = source.path if isinstance(source, CocoSource) else source.draw_to or run_folder
            return replace(collect(tables, where=where), remarks=tuple(remarks))


def check_source(source: Source) -> None:
    """A quick check whether a source can be read; raises SourceError, as `read_source` would later on."""
    if isinstance(source, TableSource):
        from fgvr.sources.table_file import check_table_file

        check_table_file(source)
    elif isinstance(source, DRAWN):
        _check_drawing(source)


def check_place(source: Source) -> None:
    """Raises SourceError if a source's place does not exist, or is a file where a folder of photos is expected.

    Also if a source of drawings would draw into a folder that holds other files.
    """
    if isinstance(source, DRAWN):
        _check_drawing(source)
        return
    if isinstance(source, LayoutSource):
        from fgvr.sources.layouts import open_layout

        open_layout(source).listing_files()
    else:
        from fgvr.sources.shards import numbered

        if not storage.exists(numbered(source.path)[0]):
            raise SourceError(f"ingest.source.path = {source.path}: there is nothing")
        if isinstance(source, FolderSource) and storage.is_local(source.path):
            place = storage.local_path(source.path).expanduser()
            if place.is_file():
                raise SourceError(
                    f"ingest.source.path = {source.path}: is a file; kind folder reads the folder it lies in, and "
                    "`kind: table` a CSV, TSV or Parquet file of paths"
                )


def _check_drawing(source: FieldGuideSource | BirdScenesSource) -> None:
    if source.draw_to is None:
        return  # drawn in the run folder
    if isinstance(source, FieldGuideSource):
        from fgvr.sources.field_guide import check_field_guide

        check_field_guide(source, storage.absolute(source.draw_to))
    else:
        from fgvr.sources.coco import check_scenes

        check_scenes(source, storage.absolute(source.draw_to))


def _read_shards(source: WebDatasetSource | ParquetSource, allowed_roots: Sequence[str]) -> SampleRows:
    """List container files; whatever could not be read in them becomes a row, and a note that the report repeats."""
    from fgvr.sources.shards import find_shards, list_parquet
    from fgvr.sources.webdataset import TarLister

    remarks: list[str] = []
    omissions = Omissions()
    if isinstance(source, WebDatasetSource):
        shards = find_shards(source.path, ".tar", source.exclude, omissions, allowed_roots)
        lister = TarLister(source, omissions)
        rows = collect(shards.chunks(lister.listed), source.path, omissions)
        lister.check_key()
        remarks += [*_unread(source.extensions, rows.left_out), *lister.remarks()]
    else:
        shards = find_shards(source.path, ".parquet", source.exclude, omissions, allowed_roots)
        splits = group_splits(source)
        found = shards.chunks(lambda shard: list_parquet(shard, source))
        rows = collect(found if splits is None else splits(found), source.path, omissions)
        remarks += splits.remarks() if splits is not None else []
    remarks += [f"not read to its end: {problem}" for problem in shards.bad[:SHOWN_BAD]]
    if len(shards.bad) > SHOWN_BAD:
        remarks.append(f"and {len(shards.bad) - SHOWN_BAD} more files that could not be read to their end")
    return replace(rows, files=len(shards.files), bad_files=tuple(shards.bad), remarks=tuple(remarks))


def _unread(extensions: tuple[str, ...], left_out: LeftOut) -> list[str]:
    """Advice for photos in a requested format that this machine cannot read."""
    counts = left_out.get(Why.ENDING, {})
    found: dict[str, dict[str, int]] = {}
    for ending, remedy in not_read_here(extensions).items():
        if ending in counts:
            found.setdefault(remedy, {})[ending] = counts[ending]
    return [
        f"{in_words(files)} left out: {remedy}; another ingest.source.snapshot lists them then"
        for remedy, files in found.items()
    ]


def source_state(source: Source) -> dict[str, Any]:
    """What determines the samples besides the config: the content of the files that list them, by URI.

    Folders of photos, tars and Parquet files have none: their listing is kept until `snapshot` changes, since a file
    that arrives during a long run would give all images new ids. Replaced files are detected by `fgvr.sources.marks`.
    Raises SourceError if a file is missing.
    """
    files, besides = _listing_files(source)
    return besides | {uri: _content(source, uri) for uri in files.values()}


def listing_state(source: Source) -> dict[str, Any]:
    """The same, keyed by each file's role instead of its URI: for fingerprints. Raises SourceError."""
    files, besides = _listing_files(source)
    return besides | {name: _content(source, uri) for name, uri in files.items()}


def _content(source: Source, uri: str) -> str:
    try:
        return content_of(uri)
    except FileNotFoundError as error:
        named = "class_names" if isinstance(source, WebDatasetSource) else "path"
        raise SourceError(f"ingest.source.{named} = {getattr(source, named)}: there is no such file") from error


def _listing_files(source: Source) -> tuple[dict[str, str], dict[str, Any]]:
    """The files that list a source or name its classes, as role → URI; and whatever else determines the listing."""
    match source:
        case WebDatasetSource(class_names=str(names)):
            return {"class_names": storage.absolute(names)}, {}
        case TableSource():
            return {"table": storage.absolute(source.path)}, {}
        case LayoutSource():
            from fgvr.sources.layouts import open_layout

            layout = open_layout(source)
            listing = {storage.join(layout.root, name): name for name in layout.files()}
            # Besides the download's own lists there may be a file of class names, identified by its content.
            files = {listing.get(uri, "class_names"): storage.absolute(uri) for uri in layout.listing_files()}
            return files, layout.state()
        case CocoSource():
            from fgvr.sources.coco import coco_files

            return {split: storage.absolute(each.annotations) for split, each in coco_files(source, "").items()}, {}
        case _:
            return {}, _drawn(source)


def _drawn(source: Source) -> dict[str, Any]:
    """Settings that determine drawings; empty for photos."""
    if isinstance(source, FieldGuideSource):
        from fgvr.sources.field_guide import settings

        return settings(source)
    return source.model_dump(mode="json", exclude={"kind", "draw_to"}) if isinstance(source, BirdScenesSource) else {}
