"""In which precision the workers of a table compute: settled by the first of them, and held by all that come later.

`auto` is bf16 on a GPU that has it. A pool that grows over several kinds of GPUs, or a run that goes on elsewhere,
would put rows of two precisions into one table.
"""

from __future__ import annotations

import json

from cluster.once import run_once
from cluster.stage import StageFolder
from fgvr import storage
from fgvr.config.base import Workers
from fgvr.precision import Precision, has_bf16

FILE = "precision.json"
"""Beside the parts, for as long as the table is there: its failed rows may be tried again."""


def settled_precision(folder: StageFolder, workers: Workers) -> Precision:
    """What the devices of a table's workers can at most: as the table was begun, else by asking one worker."""
    place = folder.path(FILE)
    try:
        kept: Precision = json.loads(storage.read_bytes(place))["precision"]
    except FileNotFoundError:
        kept = "bf16" if run_once(has_bf16, workers.device, workers=workers) else "fp32"
        storage.write_bytes(place, json.dumps({"precision": kept}).encode())
    return kept
