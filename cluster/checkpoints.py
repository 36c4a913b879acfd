"""The checkpoints of a training run, by session.

Every session writes to a folder of its own, and continues from the folder of the session before:

    training/progress.json                        latest metrics, for the driver
    training/000001-5d0c7a91/checkpoint_…/        of the first session; the last two are kept
    training/000001-5d0c7a91/latest.json          which checkpoint is the last complete one
    training/000002-88e1b1f3/…                    of the second

So a session that is wrongly taken for dead, and that deletes old checkpoints, never touches those of another session.
And Ray's own record of checkpoints, which only the same version of Ray can read, is not used.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from fgvr import storage

KEPT = 2
"""Checkpoints of a session that are kept. The one before the last stays until the next is complete."""
LATEST = "latest.json"
OF_RAY = "checkpoint_manager_snapshot.json"
"""Ray's own record, from which runs of earlier versions are continued."""
_SESSION = re.compile(r"(\d{6,})-[0-9a-f]{8}")


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run: the folder of its last complete checkpoint, and the metrics reported with it."""

    metrics: dict[str, float]
    checkpoint: str


def new_session(training: str) -> str:
    """A unique name for a session's folder inside `training`."""
    last = max(map(_number, _sessions(training)), default=0)
    return f"{last + 1:06d}-{uuid.uuid4().hex[:8]}"


def new_checkpoint() -> str:
    """A name for a checkpoint's folder."""
    return f"checkpoint_{uuid.uuid4().hex[:12]}"


def note_checkpoint(session: str, name: str, metrics: Mapping[str, float]) -> None:
    """Record that this checkpoint of the session is complete and is the latest."""
    kept = {"folder": name, "metrics": dict(metrics)}
    storage.write_bytes(storage.join(session, LATEST), json.dumps(kept).encode())


def last_checkpoint(training: str) -> TrainResult | None:
    """The last complete checkpoint of the last session that left one; None where there is none."""
    for name in sorted(_sessions(training), key=_number, reverse=True):
        session = storage.join(training, name)
        try:
            facts = json.loads(storage.read_bytes(storage.join(session, LATEST)))
        except FileNotFoundError:
            continue
        return TrainResult(facts["metrics"], storage.join(session, facts["folder"]))
    return _of_ray(training)


def forget_other_checkpoints(training: str, kept: TrainResult | None) -> None:
    """Remove what earlier sessions left in `training`, except `kept` and the folder of its session."""
    stays = "" if kept is None else kept.checkpoint.removeprefix(training.rstrip("/")).strip("/").partition("/")[0]
    files, folders = storage.list_entries(training)
    for name in [*folders, *(name for name in files if name == OF_RAY)]:
        if name != stays:
            storage.remove(storage.join(training, name))


def _sessions(training: str) -> list[str]:
    return [name for name in storage.list_entries(training)[1] if _SESSION.fullmatch(name)]


def _number(session: str) -> int:
    return int(session.partition("-")[0])


def _of_ray(training: str) -> TrainResult | None:
    """The last checkpoint of an earlier version, whose sessions all wrote to `training` itself."""
    try:
        last = json.loads(storage.read_bytes(storage.join(training, OF_RAY)))["latest_checkpoint_result"]
    except FileNotFoundError:
        return None
    return None if last is None else TrainResult(last["metrics"], storage.join(training, last["checkpoint_dir_name"]))
