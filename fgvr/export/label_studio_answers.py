"""What people decided in Label Studio, as decisions in a run's review log.

Sources: Label Studio's documentation of its exports JSON (`annotations` with `result`, `was_cancelled`, `updated_at`,
`completed_by`) and JSON-MIN (one object per annotation with the values at its top).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from fgvr import storage
from fgvr.export.label_studio import FIELD
from fgvr.export.places import ExportError
from fgvr.review.decisions import BadDecision, Decision, Kind
from fgvr.review.decisions import Decisions as Effective
from fgvr.review.log import DecisionLog
from fgvr.tables import Table

QUEUE: Final = "label_studio"
"""Where these decisions were made, as the log says it."""
ABOUT: Final = "export from Label Studio as JSON or JSON-MIN"


@dataclass(frozen=True)
class Annotation:
    """What one person said of one photo.

    Attributes:
        image_id: the photo's number in the run that was exported; −1 where the task does not say it.
        uri: the photo.
        name: the chosen name.
        who: the person, by e-mail address or number.
        mark: what tells this annotation, as it is now, from all others.
        at: when it was last changed, as Label Studio writes it.
    """

    image_id: int
    uri: str
    name: str
    who: str
    mark: str
    at: str


@dataclass
class Answers:
    """An export of Label Studio.

    Attributes:
        annotations: the earlier ones first.
        skipped: tasks that were skipped, or have no annotation with a name.
        disputed: photos about which annotations differ; the latest one counts.
    """

    annotations: list[Annotation] = field(default_factory=list)
    skipped: int = 0
    disputed: int = 0


def read_answers(uri: str) -> Answers:
    """Read an export of Label Studio, JSON or JSON-MIN.

    Raises:
        ExportError: no such file, no such export, or tasks that were not made by `export_label_studio`.
    """
    try:
        content = json.loads(storage.read_bytes(storage.absolute(uri)))
    except (FileNotFoundError, IsADirectoryError):
        raise ExportError(f"there is no file {uri}; {ABOUT}") from None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{uri} is not JSON ({error}); {ABOUT}") from None
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise ExportError(f"{uri} holds no list of tasks; {ABOUT}")
    found, names = Answers(), dict[str, set[str]]()
    for each in content:
        data = each.get("data", each)
        photo = data.get("uri") if isinstance(data, dict) else None
        if not isinstance(photo, str):
            raise ExportError(f"{uri}: a task has no `uri`; only tasks of pipelines/export.py can be read back")
        said = list(_said(each, photo, data.get("image_id")))
        found.skipped += not said
        found.annotations += said
        names.setdefault(photo, set()).update(one.name for one in said)
    found.annotations.sort(key=lambda one: one.at)
    found.disputed = sum(len(each) > 1 for each in names.values())
    return found


def _said(task: Mapping[str, Any], uri: str, number: Any) -> Iterator[Annotation]:
    """The annotations of a task that give a name."""
    if "annotations" not in task and FIELD in task:  # JSON-MIN has one annotation's values at the top
        given = [(task, [task[FIELD]], task.get("annotator"), task.get("annotation_id"))]
    else:
        listed = task.get("annotations")
        kept = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        given = [
            (one, _values(one), one.get("completed_by"), one.get("id")) for one in kept if not one.get("was_cancelled")
        ]
    image_id = number if isinstance(number, int) and number >= 0 else -1
    for facts, values, who, own in given:
        for name in filter(None, map(_name, values)):
            at = str(facts.get("updated_at") or facts.get("created_at") or "")
            mark = hashlib.sha256(json.dumps([QUEUE, uri, str(own), at, name]).encode()).hexdigest()[:32]
            yield Annotation(image_id, uri, name, _person(who), mark, at)


def _values(annotation: Mapping[str, Any]) -> list[Any]:
    """The values of an annotation's results."""
    results = annotation.get("result")
    values = [each.get("value") for each in results if isinstance(each, dict)] if isinstance(results, list) else []
    return [each for each in values if isinstance(each, dict)]


def _name(value: Any) -> str | None:
    """A name out of Label Studio's nested values: "a", ["a"], [["a"]], {"choices": ["a"]}; the last of a path."""
    if isinstance(value, dict):
        value = value.get("choices") or value.get("taxonomy")
    while isinstance(value, list) and value:
        value = value[-1]
    return value if isinstance(value, str) and value.strip() else None


def _person(who: Any) -> str:
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return f"Label Studio, {who}"[:200] if who is not None else "Label Studio"


@dataclass(frozen=True)
class Taken:
    """What became of an export of Label Studio.

    Attributes:
        added: decisions that were appended.
        known: annotations that the log holds already.
        strange: annotations of photos that this run does not have.
        refused: annotations whose name the log does not take, such as one of a thousand characters.
    """

    added: int
    known: int
    strange: int
    refused: int


def append_answers(answers: Answers, log: DecisionLog, samples: Table, named: Table, effective: Effective) -> Taken:
    """Append annotations to a run's review log, each once however often the same file is read.

    A name that the run gives the photo, too, is appended as `right`, another one as `name`.

    Args:
        answers: what people said.
        log: of the run.
        samples: of the run; photos are known by their URIs.
        named: the table of names that was exported: predictions or labels.
        effective: what holds after all decisions, whose renames the exported names have followed.

    Raises:
        OSError: they could not be written.
    """
    there = {each.id for each in log.read()[0]}
    new = list({each.mark: each for each in answers.annotations if each.mark not in there}.values())
    ids = np.unique(np.array([each.image_id for each in new if 0 <= each.image_id < samples.rows], np.int64))
    uris: dict[int, str] = {}
    before: dict[int, str] = {}
    if len(ids):
        uris = dict(zip(ids.tolist(), samples.take(ids, ["uri"])["uri"].to_pylist(), strict=True))
        rows = named.find(ids, ["image_id", "label"]).to_pylist()
        before = {row["image_id"]: effective.called(row["label"] or "") or "" for row in rows}
    made: list[Decision] = []
    strange = refused = 0
    for each in new:
        if uris.get(each.image_id) != each.uri:
            strange += 1
            continue
        called = before.get(each.image_id, "")
        given: dict[str, Any] = {"before": called, "after": "" if each.name == called else each.name}
        try:
            kind = Kind.RIGHT if each.name == called else Kind.NAME
            made.append(
                Decision(
                    kind, each.who, each.image_id, each.uri, **given, queue=QUEUE, note=each.at[:100], id=each.mark
                )
            )
        except BadDecision:
            refused += 1
    log.append(made)
    return Taken(len(made), len(answers.annotations) - len(new), strange, refused)
