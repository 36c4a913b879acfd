"""A training's checkpoints: every session writes into a folder of its own, and goes on from the last one's.

    training/progress.json                        last metrics, for whoever looks
    training/000001-5d0c7a91/checkpoint_…/        of the first session, as Ray Train keeps them: the last two
    training/000001-5d0c7a91/latest.json          which one is the last that is whole
    training/000002-88e1b1f3/…                    of the second

So a session that was taken for dead and is not, whose Ray deletes what it takes for old, never meets another one's
checkpoints; and what Ray writes about them in its own form, which only the same version of Ray reads, decides nothing.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from fgvr import storage

LATEST = "latest.json"
OF_RAY = "checkpoint_manager_snapshot.json"
"""Ray's own record, of which runs of earlier versions are continued."""
_SESSION = re.compile(r"(\d{6,})-[0-9a-f]{8}")


@dataclass(frozen=True)
class Kept:
    """A checkpoint that is whole.

    Attributes:
        folder: where it lies.
        metrics: reported with it.
    """

    folder: str
    metrics: dict[str, float] = field(default_factory=dict)


def new_session(training: str) -> str:
    """Name of a session's folder inside `training`, that of no other one."""
    last = max(map(_number, _sessions(training)), default=0)
    return f"{last + 1:06d}-{uuid.uuid4().hex[:8]}"


def new_name() -> str:
    """Name of a checkpoint's folder."""
    return f"checkpoint_{uuid.uuid4().hex[:12]}"


def note(session: str, name: str, metrics: Mapping[str, float]) -> None:
    """Say that the session's checkpoint of that name is whole, and the last one."""
    kept = Kept(name, dict(metrics))
    storage.write_bytes(storage.join(session, LATEST), json.dumps(asdict(kept)).encode())


def last_kept(training: str) -> Kept | None:
    """The last session's last checkpoint that is whole; None where no session left one."""
    for name in sorted(_sessions(training), key=_number, reverse=True):
        session = storage.join(training, name)
        try:
            facts = json.loads(storage.read_bytes(storage.join(session, LATEST)))
        except FileNotFoundError:
            continue
        return Kept(storage.join(session, facts["folder"]), facts["metrics"])
    return _of_ray(training)


def forget_others(training: str, kept: Kept | None) -> None:
    """Remove what earlier sessions left in `training`, but `kept` with the folder of its session."""
    stays = "" if kept is None else kept.folder.removeprefix(training.rstrip("/")).strip("/").partition("/")[0]
    files, folders = storage.list_entries(training)
    for name in [*folders, *(name for name in files if name == OF_RAY)]:
        if name != stays:
            storage.remove(storage.join(training, name))


def _sessions(training: str) -> list[str]:
    return [name for name in storage.list_entries(training)[1] if _SESSION.fullmatch(name)]


def _number(session: str) -> int:
    return int(session.partition("-")[0])


def _of_ray(training: str) -> Kept | None:
    """The last checkpoint of an earlier version, whose sessions all wrote into `training` itself."""
    try:
        last = json.loads(storage.read_bytes(storage.join(training, OF_RAY)))["latest_checkpoint_result"]
    except FileNotFoundError:
        return None
    return None if last is None else Kept(storage.join(training, last["checkpoint_dir_name"]), last["metrics"])
