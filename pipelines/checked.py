"""Which images a person has checked, as the labels keep it for the stages that read them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fgvr import storage
from fgvr.arrays import NONE

if TYPE_CHECKING:
    from cluster.stage import StageFolder
    from fgvr.arrays import Ids, Labels
    from fgvr.tables import Table

CHECKED = "checked"
"""Key in the metadata of `labels`: how many of its images a person has checked (`label.checked`)."""
CHECKED_FILE = "checked.npy"


def write_checked(folder: StageFolder, ids: Sequence[int]) -> None:
    """Write which images a person has checked, int64 ascending, beside the labels."""
    content = io.BytesIO()
    np.save(content, np.array(ids, np.int64))
    folder.write_bytes(CHECKED_FILE, content.getvalue())


def checked_names(labels: Table, ids: Ids, own: Labels) -> Labels:
    """The labels that a person has checked, int32 [N]; `NONE` where nobody has looked.

    Args:
        labels: the labels table.
        ids: its image ids, int64 [N], ascending.
        own: their labels, int32 [N].
    """
    if not labels.extra.get(CHECKED):
        return np.full(len(ids), NONE, np.int32)
    looked = np.load(io.BytesIO(storage.read_bytes(labels.path(CHECKED_FILE))))
    return np.where(np.isin(ids, looked), own, NONE).astype(np.int32)
