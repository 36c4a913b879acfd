"""What a tracking server has not been told yet: a small file in the run folder for each MLflow run it is about.

A stage's file is written before the stage is committed, and goes when MLflow knows the end of it; so a process that
dies in between, or finds no server, leaves what the next session tells. The MLflow run that a file is about is found
again by a tag, so that nothing is told twice.
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
"""Values of metrics in a file; beyond it every second of the progress in between goes."""
MOST_FILES = 10_000
PROGRESS = "progress."

Point = tuple[str, float, int, int]
"""A metric's name, value, time in milliseconds, and step."""


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


@dataclass
class Artifact:
    """A file for MLflow.

    Attributes:
        name: of the file there.
        folder: there; none: the run's own.
        place: of the file, relative to the run folder where it lies in it.
        text: its content, where it is no file.
    """

    name: str
    folder: str = ""
    place: str = ""
    text: str | None = None


@dataclass
class News:
    """What an MLflow run is still to be told; each of it may be told again without being there twice."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    files: list[Artifact] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.params or self.tags or self.points or self.files)

    def measure(self, numbers: dict[str, float], *, step: int = 0, when: int | None = None) -> None:
        """Metrics of now, under names that MLflow takes."""
        when = now() if when is None else when
        values, renamed = named(numbers.items())
        self.points += [(name, float(value), when, step) for name, value in values.items()]
        self.tags |= names_tag(renamed)
        if len(self.points) > MOST_POINTS:
            self._thin()

    def tag(self, texts: dict[str, str]) -> None:
        """Tags, under names and with values that MLflow takes."""
        values, renamed = named(texts.items())
        self.tags |= {name: shown(text, LONGEST_TAG) for name, text in values.items()} | names_tag(renamed)

    def add(self, other: News) -> None:
        """Later news of the same run."""
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
        """From a file's JSON."""
        return cls(
            params=dict(facts["params"]),
            tags=dict(facts["tags"]),
            points=[(str(name), float(value), int(when), int(step)) for name, value, when, step in facts["points"]],
            files=[Artifact(**file) for file in facts["files"]],
        )


@dataclass
class Note:
    """An MLflow run that a session works on, and what that run is still to be told.

    Attributes:
        name: of the MLflow run.
        tag: name and value of the tag by which it is found again.
        begun: milliseconds since 1970.
        ended: likewise; None while it goes on.
        status: of the MLflow run.
        news: what it is to be told.
        of_run: what the pipeline's own MLflow run is to be told when this one has ended well.
        models: (folder, name) of models to be logged to it, folders as `Artifact.place`.
        table: a stage's folder, likewise: it has ended well only if it was committed, which its manifest says. Empty
            where that is known.
        run_id: MLflow's; none where MLflow does not know it yet.
        store: which store knows it by `run_id`.
        untold: its state is still to be told, too.
        asked: MLflow may have it under its tag, since it was asked to make it.
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
        """Of a run that nobody has worked on before."""
        return cls(name, (KEY_TAG, uuid.uuid4().hex))

    @property
    def file(self) -> str:
        """Its file's name; in the order of names what began first comes first."""
        return f"{self.begun:015d}-{good_name(self.name, 60)}-{good_name(self.tag[1], 60)}.json"

    def waits(self) -> bool:
        """Whether there is something to tell now."""
        return self.untold or bool(self.news or self.models or (self.status == FINISHED and self.of_run))

    def end(self, status: str, when: int | None = None) -> None:
        """It is over."""
        self.status, self.ended, self.untold = status, now() if when is None else when, True
        if status != FINISHED:
            self.of_run, self.models = News(), []

    @classmethod
    def of(cls, data: bytes) -> Self:
        """From a file; raises ValueError, KeyError, TypeError or AttributeError for what is no note."""
        try:
            facts = json.loads(data)
        except RecursionError as error:
            raise ValueError("it is nested without end") from error
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
    """The files; what cannot be written is no reason to stop.

    Args:
        run_folder: of the run.
    """

    def __init__(self, run_folder: str) -> None:
        self.folder = storage.join(run_folder, FOLDER)
        self._there: set[str] = set()

    def read(self) -> list[Note]:
        """All notes that earlier sessions left, in their order; what is no note stays, and is not read."""
        notes = []
        for name in sorted(storage.list_files(self.folder, ".json"))[:MOST_FILES]:
            place = storage.join(self.folder, name)
            self._there.add(name)
            try:
                notes.append(Note.of(storage.read_bytes(place)))
            except FileNotFoundError:
                continue  # another session told it meanwhile
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("%s cannot be read, so MLflow is not told it: %s", place, error)
        return notes

    def keep(self, note: Note) -> None:
        """Write a note's file, whole or not at all."""
        place = storage.join(self.folder, note.file)
        self._there.add(note.file)
        if not leave(place, json.dumps(asdict(note)).encode()):
            log.warning("%s cannot be written: should MLflow not answer now, it is never told", place)

    def forget(self, note: Note) -> None:
        """MLflow knows all of it."""
        if note.file not in self._there:
            return
        try:
            storage.remove(storage.join(self.folder, note.file))
        # An object store's library raises errors of its own. Left there, it is told again: the same once more.
        except Exception as error:
            log.debug("%s stays: %s", note.file, error)
