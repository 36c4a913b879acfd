"""Sources of photos: a folder, a table of URIs, the official layout of a public data set, the drawn field guide."""

from __future__ import annotations

from fgvr.config.data import FieldGuideSource, FolderSource, LayoutSource, Source, TableSource
from fgvr.datasets.rows import SampleRows, SourceError, collect

__all__ = ["SampleRows", "SourceError", "read_source"]


def read_source(source: Source, run_folder: str) -> SampleRows:
    """List a source's images as rows of the samples table.

    Args:
        source: where the photos are.
        run_folder: URI of the run's folder, where the field guide is drawn if it has no place of its own.

    Raises:
        SourceError: there is nothing to list, or what is there is not what the source says it is.
    """
    match source:
        case FolderSource():
            from fgvr.datasets.folder import list_folder

            return collect(list_folder(source), where=source.path)
        case TableSource():
            from fgvr.datasets.table_file import read_table_file

            return collect(read_table_file(source), where=source.path)
        case LayoutSource(name="grocery"):
            from fgvr.datasets.grocery import read_grocery

            return collect(read_grocery(source.path), where=source.path)
        case FieldGuideSource():
            from fgvr.datasets.field_guide import read_field_guide

            return collect(read_field_guide(source, run_folder), where=source.path or run_folder)
