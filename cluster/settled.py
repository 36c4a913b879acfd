"""The precision in which the workers of a table compute: set by the first worker, and kept by all later ones.

`auto` is bf16 on a GPU that supports it. A pool that grows over several types of GPUs, or a run that resumes elsewhere,
would otherwise mix rows of two precisions in one table.
"""

from __future__ import annotations

import json

from cluster.once import run_once
from cluster.stage import StageFolder
from fgvr import storage
from fgvr.config.base import Workers
from fgvr.precision import Precision, has_bf16

FILE = "precision.json"
"""Beside the parts, as long as the table exists, since its failed rows may be retried."""


def settled_precision(folder: StageFolder, workers: Workers) -> Precision:
    """The highest precision of the workers' devices: as recorded with the table, or else by asking one worker."""
    place = folder.path(FILE)
    try:
        kept: Precision = json.loads(storage.read_bytes(place))["precision"]
    except FileNotFoundError:
        kept = "bf16" if run_once(has_bf16, workers.device, workers=workers) else "fp32"
        storage.write_bytes(place, json.dumps({"precision": kept}).encode())
    return kept
