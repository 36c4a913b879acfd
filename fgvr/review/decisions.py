"""Decisions of people about photos and names, and what holds after all of them (`fold`).

A decision is never changed or removed: a later one about the same thing wins, and an undo names the decision that it
takes back. So the log alone decides, in whatever process it is read.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from fgvr.errors import UserError

MAX_TEXT: Final = 500
"""Characters of a name, a person's name or a note."""
MAX_SPLIT: Final = 10_000
"""Photos that one split may name."""


class Kind(StrEnum):
    """What a person decided."""

    RIGHT = "right"  # the photo shows what it is called
    WRONG = "wrong"  # it does not; what it shows is not said
    NAME = "name"  # it shows `after`
    CANNOT_TELL = "cannot_tell"  # nobody could say from this photo
    RENAME = "rename"  # the name `before` is written `after` from now on
    MERGE = "merge"  # the name `before` means the same as the existing name `after`
    SPLIT = "split"  # these photos of the name `before` get the name `after`
    NOT_A_NAME = "not_a_name"  # `before` names nothing: its photos have no name
    UNDO = "undo"  # the decision `undoes` is taken back


OF_PHOTOS: Final = frozenset({Kind.RIGHT, Kind.WRONG, Kind.NAME, Kind.CANNOT_TELL})
OF_NAMES: Final = frozenset({Kind.RENAME, Kind.MERGE, Kind.NOT_A_NAME})


class BadDecision(UserError, ValueError):
    """A decision that says too little or contradicts itself; the message says what is missing."""


@dataclass(frozen=True)
class Decision:
    """One decision: a line of the log.

    Attributes:
        kind: what was decided.
        who: the person.
        at: when, ISO 8601 in UTC with microseconds.
        id: 32 hexadecimal digits, unique.
        image_id: the photo's number in the run that was looked at; −1 for decisions about names.
        uri: the photo's URI, by which it is known in any run; "" for decisions about names.
        before: the name before it, as it was shown.
        after: the name after it; "" where the kind gives none.
        uris: the photos of a split.
        queue: where it was shown: a name, `likely_wrong`, `most_useful`, `audit` …
        note: what the person or the page adds.
        undoes: id of the decision that an undo takes back.
    """

    kind: Kind
    who: str
    image_id: int = -1
    uri: str = ""
    before: str = ""
    after: str = ""
    uris: tuple[str, ...] = ()
    queue: str = ""
    note: str = ""
    undoes: str = ""
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        for name in ("who", "before", "after", "queue", "note"):
            if len(getattr(self, name)) > MAX_TEXT:
                raise BadDecision(f"{name} has more than {MAX_TEXT} characters")
        needed = {
            Kind.RIGHT: ("uri", "before"),
            Kind.WRONG: ("uri", "before"),
            Kind.NAME: ("uri", "after"),
            Kind.CANNOT_TELL: ("uri",),
            Kind.RENAME: ("before", "after"),
            Kind.MERGE: ("before", "after"),
            Kind.SPLIT: ("before", "after", "uris"),
            Kind.NOT_A_NAME: ("before",),
            Kind.UNDO: ("undoes",),
        }[self.kind]
        if missing := [name for name in needed if not (getattr(self, name) and _said(getattr(self, name)))]:
            raise BadDecision(f"a decision of kind {self.kind} needs {' and '.join(missing)}")
        if len(self.uris) > MAX_SPLIT:
            raise BadDecision(f"a split names {len(self.uris):,} photos, at most {MAX_SPLIT:,} are possible at once")

    def to_line(self) -> bytes:
        """One line of JSON with its end; fields at their defaults are left out."""
        facts = {name: value for name, value in asdict(self).items() if value not in ("", (), -1)}
        # ASCII: no character of a hostile name (U+2028, U+0085) can look like the end of a line to any reader.
        return json.dumps(facts, sort_keys=True).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Decision:
        """Read what `to_line` wrote; raises ValueError for anything else."""
        facts: dict[str, Any] = json.loads(line)
        if not isinstance(facts, dict):
            raise BadDecision("not a decision")
        known = {each.name for each in fields(cls)}
        facts = {name: value for name, value in facts.items() if name in known}  # a later version may say more
        try:
            facts["kind"] = Kind(facts["kind"])
            uris = facts.pop("uris", ())
            wrong = [n for n, value in facts.items() if not isinstance(value, int if n == "image_id" else str)]
            if wrong or not all(isinstance(uri, str) for uri in uris) or not {"id", "at", "who"} <= facts.keys():
                raise BadDecision(f"not a decision: {', '.join(wrong) or 'a field is missing'}")
            return cls(**facts, uris=tuple(uris))
        except (KeyError, TypeError) as error:
            raise BadDecision(f"not a decision: {error}") from None


def _said(value: str | tuple[str, ...]) -> bool:
    return bool(value.strip()) if isinstance(value, str) else True


@dataclass(frozen=True)
class PhotoDecision:
    """What holds about one photo.

    Attributes:
        uri: the photo.
        image_id: its number in the run that was looked at.
        kind: right, wrong, name or cannot_tell; name also for photos of a split.
        name: what it shows, after all renames and merges; None where nobody said.
        not_name: what it does not show (kind wrong), after all renames and merges; else None.
        certain: a person looked at this photo; False for photos that a split moved together.
        queue: where it was decided.
        who: by whom.
        at: when.
        decision: id of the decision.
    """

    uri: str
    image_id: int
    kind: Kind
    name: str | None
    not_name: str | None
    certain: bool
    queue: str
    who: str
    at: str
    decision: str


@dataclass(frozen=True)
class Refused:
    """A decision that cannot hold beside those before it, and why."""

    decision: Decision
    why: str


@dataclass(frozen=True)
class Decisions:
    """What holds after all decisions.

    Attributes:
        photos: by URI, the last decision about each photo.
        aliases: name → what it is called now; "" where it is no name. Chains are followed; names that are absent stay.
        refused: decisions that do not hold (circles, undoing nothing).
        held_out: URIs of the audit samples: decided or not, nothing may be trained on them.
        damaged: lines of the log that cannot be read, kept as they are.
    """

    photos: Mapping[str, PhotoDecision] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    held_out: frozenset[str] = frozenset()
    damaged: tuple[bytes, ...] = ()

    def called(self, name: str) -> str | None:
        """What a name of the run is called now; None: it is no name."""
        return self.aliases.get(name, name) or None

    @cached_property
    def for_training(self) -> Mapping[str, PhotoDecision]:
        """The photos that a person looked at and that are in no audit sample: only these may be learned from."""
        return {uri: found for uri, found in self.photos.items() if found.certain and uri not in self.held_out}


def fold(decisions: Iterable[Decision], held_out: Collection[str] = (), damaged: tuple[bytes, ...] = ()) -> Decisions:
    """What holds after these decisions, in the order of the log: the later one wins, undone ones never were.

    An undo can itself be undone. A rename or merge that would make a circle is refused, the earlier ones stay.
    """
    listed = list(decisions)
    undone, refused = _undone(listed)
    said: dict[str, tuple[Decision, str]] = {}
    towards: dict[str, str] = {}
    for each in listed:
        if each.id in undone or each.kind is Kind.UNDO:
            continue
        if each.kind in OF_NAMES:
            after = "" if each.kind is Kind.NOT_A_NAME else each.after
            if each.before == after:
                refused.append(Refused(each, f"{each.before!r} is called so already"))
            elif after and _end(towards, after, without=each.before) == each.before:
                refused.append(
                    Refused(each, f"{after!r} goes by the name of {each.before!r} already: undo that decision instead")
                )
            else:
                towards[each.before] = after
        for uri in each.uris if each.kind is Kind.SPLIT else (each.uri,) if each.kind in OF_PHOTOS else ():
            said[uri] = (each, uri)
    aliases = {name: _end(towards, name) for name in towards}
    photos = {uri: _about(each, uri, aliases) for uri, (each, _) in said.items()}
    return Decisions(photos, aliases, tuple(refused), frozenset(held_out), damaged)


def _undone(listed: list[Decision]) -> tuple[set[str], list[Refused]]:
    """Ids of decisions that were taken back, and the undos that name nothing before them."""
    place = {each.id: number for number, each in enumerate(listed)}
    undone: set[str] = set()
    refused: list[Refused] = []
    for number in range(len(listed) - 1, -1, -1):  # from the end: whether an undo holds depends on later ones only
        each = listed[number]
        if each.kind is not Kind.UNDO or each.id in undone:
            continue
        if place.get(each.undoes, number) >= number:
            refused.append(Refused(each, "there is no such decision before it"))
        else:
            undone.add(each.undoes)
    return undone, refused[::-1]


def _end(towards: Mapping[str, str], name: str, without: str | None = None) -> str:
    """Where a name's chain of aliases ends; `without` ends a chain, as if that name were not renamed yet."""
    while name and name != without and name in towards:
        name = towards[name]
    return name


def _about(each: Decision, uri: str, aliases: Mapping[str, str]) -> PhotoDecision:
    given = {Kind.RIGHT: each.before, Kind.NAME: each.after, Kind.SPLIT: each.after}.get(each.kind)
    name = None if given is None else aliases.get(given, given) or None
    not_name = aliases.get(each.before, each.before) or None if each.kind is Kind.WRONG else None
    split = each.kind is Kind.SPLIT
    return PhotoDecision(
        uri=uri,
        image_id=each.image_id,
        kind=Kind.NAME if split else each.kind,
        name=name,
        not_name=not_name,
        certain=not split,
        queue=each.queue,
        who=each.who,
        at=each.at,
        decision=each.id,
    )
