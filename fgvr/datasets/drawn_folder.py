"""Where a source that draws may draw: into its own folder, or one that is empty; never beside somebody's photos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fgvr import storage
from fgvr.datasets.rows import SourceError
from fgvr.demo.drawn_files import first_entry

SETTINGS = "settings.json"
"""In a drawn folder: what it was drawn with. Written before the first drawing, so that one cut short is known."""


def drawn_with(folder: str, wanted: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    """The settings of the drawings in a folder; None where it is empty, or not there.

    Args:
        folder: where drawings lie or will lie.
        wanted: all that decides them, JSON types.
        what: the drawings, in words.

    Raises:
        SourceError: there lies something else, beside which nothing is drawn.
    """
    try:
        drawn = json.loads(storage.read_bytes(storage.join(folder, SETTINGS)))
    except (OSError, ValueError):
        drawn = None
    if isinstance(drawn, dict) and set(drawn) == set(wanted):  # a file of this name may be anybody's
        return drawn
    if first := first_entry(folder):
        raise SourceError(
            f"ingest.source.draw_to = {folder}: {what} would be drawn there, but it is neither empty ({first} …) nor "
            "a folder of such drawings; name another one. Or are these photos to be read? Then give "
            "--ingest.source.kind folder and --ingest.source.path"
        )
    return None
