"""The outbox: what the tracking server does not have yet, as a small file in the run folder per MLflow run.

A stage's file is written before the stage is committed, and removed when MLflow has everything. So if a process dies in
between, or finds no server, the next session sends the rest. The MLflow run of a file is found again by a tag, so
nothing is sent twice.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from cluster.heartbeat import leave
from cluster.tracking_names import LONGEST_TAG, good_name, named, names_tag, shown
from fgvr import storage

log = logging.getLogger(__name__)

FOLDER = "outbox"
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
KEY_TAG = "fgvr.key"
MOST_POINTS = 50_000
"""Most metric values in a file; beyond it, every second value of the progress is dropped."""
MOST_FILES = 10_000
PROGRESS = "progress."

Point = tuple[str, float, int, int]
"""A metric's name, value, time in milliseconds, and step."""


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


@dataclass
class Artifact:
    """A file to log to MLflow.

    Attributes:
        name: name of the artifact.
        folder: artifact folder; empty: the root.
        place: location of the file, relative to the run folder where it lies inside.
        text: its content, where there is no file.
    """

    name: str
    folder: str = ""
    place: str = ""
    text: str | None = None


@dataclass
class News:
    """What is still to be sent to an MLflow run; everything may be sent twice without being recorded twice."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    files: list[Artifact] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.params or self.tags or self.points or self.files)

    def measure(self, numbers: dict[str, float], *, step: int = 0, when: int | None = None) -> None:
        """Add current metrics, under names that MLflow accepts."""
        when = now() if when is None else when
        values, renamed = named(numbers.items())
        self.points += [(name, float(value), when, step) for name, value in values.items()]
        self.tags |= names_tag(renamed)
        if len(self.points) > MOST_POINTS:
            self._thin()

    def tag(self, texts: dict[str, str]) -> None:
        """Add tags, with names and values that MLflow accepts."""
        values, renamed = named(texts.items())
        self.tags |= {name: shown(text, LONGEST_TAG) for name, text in values.items()} | names_tag(renamed)

    def add(self, other: News) -> None:
        """Add later news of the same run."""
        self.params |= other.params
        self.tags |= other.tags
        known = set(self.points)
        self.points += [point for point in other.points if point not in known]
        self.files += [file for file in other.files if file not in self.files]

    def _thin(self) -> None:
        steps = sorted({step for name, _, _, step in self.points if name.startswith(PROGRESS)})
        going = set(steps[1:-1:2])
        self.points = [p for p in self.points if not (p[0].startswith(PROGRESS) and p[3] in going)]
        del self.points[: max(0, len(self.points) - MOST_POINTS)]

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Self:
        """Read the JSON of a file."""
        return cls(
            params=dict(facts["params"]),
            tags=dict(facts["tags"]),
            points=[(str(name), float(value), int(when), int(step)) for name, value, when, step in facts["points"]],
            files=[Artifact(**file) for file in facts["files"]],
        )


@dataclass
class Note:
    """An MLflow run of a session, and what is still to be sent to it.

    Attributes:
        name: name of the MLflow run.
        tag: name and value of the tag that identifies it.
        begun: start time, milliseconds since 1970.
        ended: end time, likewise; None while it runs.
        status: status of the MLflow run.
        news: what is to be sent to it.
        of_run: what is to be sent to the pipeline's own MLflow run when this one has ended well.
        models: (folder, name) of the models to log, with folders as in `Artifact.place`.
        table: a stage's folder, likewise: the stage has ended well only if its manifest exists. Empty once that is
            known.
        run_id: MLflow's id; empty while MLflow does not know the run.
        store: the store in which `run_id` is valid.
        untold: whether its status is also still to be sent.
        asked: whether MLflow may have the run under its tag, since a request to create it was sent.
    """

    name: str
    tag: tuple[str, str]
    begun: int = field(default_factory=now)
    ended: int | None = None
    status: str = RUNNING
    news: News = field(default_factory=News)
    of_run: News = field(default_factory=News)
    models: list[tuple[str, str]] = field(default_factory=list)
    table: str = ""
    run_id: str = ""
    store: str = ""
    untold: bool = True
    asked: bool = False

    @classmethod
    def new(cls, name: str) -> Self:
        """The note of a new run."""
        return cls(name, (KEY_TAG, uuid.uuid4().hex))

    @property
    def file(self) -> str:
        """Name of its file; names sort by start time."""
        return f"{self.begun:015d}-{good_name(self.name, 60)}-{good_name(self.tag[1], 60)}.json"

    def waits(self) -> bool:
        """Whether there is something to send now."""
        return self.untold or bool(self.news or self.models or (self.status == FINISHED and self.of_run))

    def end(self, status: str, when: int | None = None) -> None:
        """Mark the run as ended."""
        self.status, self.ended, self.untold = status, now() if when is None else when, True
        if status != FINISHED:
            self.of_run, self.models = News(), []

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Read a file; raises ValueError, KeyError, TypeError or AttributeError if it is not a note."""
        try:
            facts = json.loads(data)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        facts |= {
            "tag": tuple(facts["tag"]),
            "news": News.of(facts["news"]),
            "of_run": News.of(facts["of_run"]),
            "models": [(str(folder), str(name)) for folder, name in facts["models"]],
            "untold": True,
            "asked": True,
        }
        note = cls(**facts)
        words = [note.name, note.table, note.run_id, note.store, *note.tag]
        if len(note.tag) != 2 or not all(isinstance(word, str) for word in words):
            raise TypeError("a name that is no text")
        if note.status not in {RUNNING, FINISHED, FAILED, KILLED} or not isinstance(note.begun, int):
            raise ValueError(f"{note.status} since {note.begun}: no state that MLflow has")
        return note


class Outbox:
    """The files of the outbox; a file that cannot be written does not stop the run.

    Args:
        run_folder: the run folder.
    """

    def __init__(self, run_folder: str) -> None:
        self.folder = storage.join(run_folder, FOLDER)
        self._there: set[str] = set()

    def read(self) -> list[Note]:
        """All notes that earlier sessions left, in order; files that are not notes are left alone."""
        notes = []
        for name in sorted(storage.list_files(self.folder, ".json"))[:MOST_FILES]:
            place = storage.join(self.folder, name)
            self._there.add(name)
            try:
                notes.append(Note.of(storage.read_bytes(place)))
            except FileNotFoundError:
                continue  # another session has sent it in the meantime
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("%s cannot be read, so MLflow never gets it: %s", place, error)
        return notes

    def keep(self, note: Note) -> None:
        """Write the file of a note atomically."""
        place = storage.join(self.folder, note.file)
        self._there.add(note.file)
        if not leave(place, json.dumps(asdict(note)).encode()):
            log.warning("%s cannot be written: if MLflow does not answer now, it never gets this", place)

    def forget(self, note: Note) -> None:
        """Remove a note that MLflow has completely."""
        if note.file not in self._there:
            return
        try:
            storage.remove(storage.join(self.folder, note.file))
        # Libraries of object stores raise errors of their own. A file that is left is sent again, with the same effect.
        except Exception as error:
            log.debug("%s could not be removed: %s", note.file, error)
