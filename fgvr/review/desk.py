"""One person's desk: reads the catalogue through all decisions, writes new ones, keeps the audit."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from fgvr import storage
from fgvr.arrays import Ids
from fgvr.errors import UserError
from fgvr.review.audit import Audit, compare, draw, judge, photos_needed
from fgvr.review.audit_file import PREFIX, AuditSample, Drawn, held_out, read_sample
from fgvr.review.catalogue import PAGE, Catalogue, Photo
from fgvr.review.decisions import MAX_SPLIT, OF_NAMES, Decision, Decisions, Kind, fold
from fgvr.review.likeness import HALVED, Encode, Likeness, Likes
from fgvr.review.log import DecisionLog

LIKELY_WRONG: Final = "likely_wrong"
MOST_USEFUL: Final = "most_useful"
UNDECIDED: Final = "undecided"
AUDIT: Final = "audit"
QUEUES: Final = (LIKELY_WRONG, MOST_USEFUL, UNDECIDED, AUDIT)
DRAWN: Final = 60
"""Photos of an audit of differences: enough to tell methods apart of which one is right twice as often."""


UNSEEN: Final[dict[str, Any]] = {"said": {}, "candidates": [], "neighbours": [], "score": None, "why": ""}
"""What is not shown of a photo of an audit."""


class NotPossible(UserError):
    """A decision that cannot hold; the message says why."""


class Gone(NotPossible):
    """A decision about a photo that the run does not have."""


class Desk:
    """What the page's server calls; safe in threads.

    Attributes:
        catalogue: the run's names and photos.
        who: the person whose decisions these are.
    """

    def __init__(self, run_folder: str, catalogue: Catalogue, who: str, encode: Encode | None = None) -> None:
        """`encode`: the text tower of the encoder that made the run's vectors, if it has one."""
        self.catalogue, self.who = catalogue, who
        self.likeness = Likeness(catalogue.tables.get("embeddings"), encode)
        self._searched: tuple[str | int, Likes] | None = None
        self._log = DecisionLog(run_folder)
        self._lock = threading.Lock()
        self._known: tuple[int, int, Decisions] | None = None

    @property
    def decisions(self) -> Decisions:
        """What holds now, decisions of other people included."""
        with self._lock:
            return self._now()[1]

    @property
    def version(self) -> int:
        """Grows with every decision of anybody."""
        with self._lock:
            return len(self._now()[0])

    def _now(self) -> tuple[list[Decision], Decisions]:
        listed, damaged = self._log.read()
        if self._known is None or self._known[:2] != (len(listed), len(damaged)):
            self._known = (len(listed), len(damaged), fold(listed, held_out(self._log.place), damaged))
        return listed, self._known[2]

    def decide(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Write one decision; returns its id and a sentence.

        Args:
            asked: kind, image_id, before, after, queue, note; image_ids for a split.

        Raises:
            Gone: the photo is not in the run.
            NotPossible: a circle, or a name that no photo has.
            BadDecision: it says too little.
        """
        kind = Kind(asked["kind"])
        text = {name: str(asked.get(name) or "").strip() for name in ("after", "queue", "note")}
        made = Decision(
            kind,
            self.who,
            image_id=-1 if kind in OF_NAMES or kind is Kind.SPLIT else int(asked["image_id"]),
            uri="" if kind in OF_NAMES or kind is Kind.SPLIT else self._uri(asked["image_id"]),
            before=str(asked.get("before") or ""),
            uris=tuple(self._uri(each) for each in asked["image_ids"]) if kind is Kind.SPLIT else (),
            **text,
        )
        with self._lock:
            listed, now = self._now()
            said = ""
            if made.kind in OF_NAMES:
                made, said = self._about_names(made, now)
                refused = fold([*listed, made]).refused
                if refused and refused[-1].decision.id == made.id:
                    raise NotPossible(refused[-1].why)
            self._log.append([made])
            return {"id": made.id, "said": said or f"{made.kind.replace('_', ' ')}: {made.after or made.before}"}

    def _about_names(self, made: Decision, now: Decisions) -> tuple[Decision, str]:
        """A rename onto an existing name is a merge; only names that photos have can be changed."""
        if not self.catalogue.is_name(now, made.before):
            raise NotPossible(f"no photo is called {made.before!r} (any more)")
        exists = self.catalogue.is_name(now, made.after)
        if made.kind is Kind.MERGE and not exists:
            raise NotPossible(f"no photo is called {made.after!r}: rename instead")
        if made.kind is Kind.RENAME and exists:
            note = f"{made.after} was a name already: the two are one now"
            return replace(made, kind=Kind.MERGE, note=note), note
        return made, ""

    def undo(self) -> dict[str, Any]:
        """Take back this person's last decision that still holds; raises NotPossible where there is none."""
        with self._lock:
            listed, _ = self._now()
            taken = {each.undoes for each in listed if each.kind is Kind.UNDO}
            own = (each for each in reversed(listed) if each.who == self.who and each.kind is not Kind.UNDO)
            last = next((each for each in own if each.id not in taken), None)
            if last is None:
                raise NotPossible(f"there is no decision of {self.who} to undo")
            self._log.append([Decision(Kind.UNDO, self.who, undoes=last.id)])
        said = f"undone: {last.kind.replace('_', ' ')} {last.after or last.before}".strip()
        return {"id": last.id, "said": said, "image_id": last.image_id}

    def differing(self, methods: tuple[str, ...], start: int) -> dict[str, Any]:
        """A page of the drawn photos on which two methods differ: both names, and not whose they are."""
        sample, now = self._sample(methods), self.decisions
        drawn = sample.photos if sample else ()
        here = drawn[start : start + PAGE]
        rows = []
        for photo, one in zip(
            self.catalogue.photos(now, np.array([each.image_id for each in here], np.int64)), here, strict=True
        ):
            choices = sorted({now.called(each) or "" for each in (one.name, one.other)} - {""})
            rows.append(self._row(photo, now) | UNSEEN | {"name": "", "choices": choices})
        return {"photos": rows, "total": len(drawn), "start": start, "page": PAGE}

    def photos(self, name: str | None, queue: str | None, start: int) -> dict[str, Any]:
        """A page of a name's photos or of a queue, with decisions. In an audit nobody sees what others said."""
        now = self.decisions
        if queue == AUDIT:
            sample = self._sample()
            ids = np.array([photo.image_id for photo in sample.photos] if sample else [], np.int64)
            total, ids = len(ids), ids[start : start + PAGE]
        elif queue is not None:
            ids = self.catalogue.queue(queue)
            total, ids = len(ids), ids[start : start + PAGE]
        else:
            ids, total = self.catalogue.of_name(now, name or "", start)
        rows = []
        for photo in self.catalogue.photos(now, ids):
            facts = self._row(photo, now)
            if queue == AUDIT:
                facts |= UNSEEN
            rows.append(facts)
        return {"photos": rows, "total": total, "start": start, "page": PAGE}

    def alike(self, wanted: str | int, start: int) -> dict[str, Any]:
        """A page of the photos that look like a text or like a photo, by its id."""
        searched = self._searched
        if searched is None or searched[0] != wanted:
            found = self.likeness.of_text(wanted) if isinstance(wanted, str) else self.likeness.of_photo(wanted)
            self._searched = searched = (wanted, found)
        found, held, now = searched[1], self._audited(), self.decisions
        ids = found.ids[~np.isin(found.ids, held)]
        rows = [self._row(photo, now) for photo in self.catalogue.photos(now, ids[start : start + PAGE])]
        looked = {"looked": found.looked, "of": found.photos}
        return {"photos": rows, "total": len(ids), "start": start, "page": PAGE, **looked}

    def map(self) -> dict[str, Any]:
        """Photos of a sample with their places, their names, how suspicious they are, and what was decided."""
        ids, points = self.likeness.map()
        kept = ~np.isin(ids, self._audited())
        ids, points, now = ids[kept], points[kept], self.decisions
        uris = self.catalogue.tables["samples"].take(ids, ["uri"])["uri"].to_pylist()
        suspicion, found = self.catalogue.suspicion(ids), [now.photos.get(uri) for uri in uris]
        return {
            "points": points.tolist(),
            "ids": ids.tolist(),
            "names": self.catalogue.names_of(now, ids),
            "suspicion": [None if np.isnan(each) else float(each) for each in suspicion],
            "decisions": [None if each is None else each.kind for each in found],
            "of": len(self.catalogue.index.ids),
        }

    def smaller_half(self, name: str) -> list[int]:
        """Of a name's photos in two groups that look alike, the ids of the smaller group."""
        ids, _ = self.catalogue.of_name(self.decisions, name, 0, HALVED)
        return [int(each) for each in self.likeness.smaller_half(ids)][:MAX_SPLIT]

    def _audited(self) -> Ids:
        """Ids of the audit samples: nobody is shown what models say of these photos."""
        files = storage.list_files(self._log.place, ".json")
        samples = [read_sample(self._log.place, file) for file in files if file.startswith(PREFIX)]
        return np.array([photo.image_id for sample in samples for photo in sample.photos], np.int64)

    def _row(self, photo: Photo, now: Decisions) -> dict[str, Any]:
        found = now.photos.get(photo.uri)
        return dict(vars(photo)) | {"decision": None if found is None else vars(found)}

    def draw_audit(self, half_width: float, seed: int = 0) -> dict[str, Any]:
        """Draw and store the audit's sample, unless there is one; returns `audit`."""
        index = self.catalogue.index
        size = photos_needed(half_width, len(index.ids))
        codes = np.repeat(np.arange(len(index.names), dtype=np.int32), np.diff(index.starts))
        positions, strata, sizes = draw(codes, index.scores.astype(np.float64), size, seed)
        uris = self.catalogue.tables["samples"].take(index.ids[positions], ["uri"])["uri"].to_pylist()
        photos = tuple(
            Drawn(int(index.ids[at]), uri, int(stratum), index.names[codes[at]], float(np.nan_to_num(score, nan=-1)))
            for at, uri, stratum, score in zip(positions, uris, strata, index.scores[positions], strict=True)
        )
        AuditSample(seed, tuple(sizes.tolist()), photos, wanted=half_width).store(self._log.place)
        with self._lock:
            self._known = None  # what is held out has changed
        return self.audit()

    def audit(self) -> dict[str, Any]:
        """What the audit says so far, for the page."""
        sample = self._sample()
        everything = len(self.catalogue.index.ids)
        if sample is None:
            widths = (0.03, 0.05, 0.1)
            return {"drawn": 0, "needed": {f"{width:g}": photos_needed(width, everything) for width in widths}}
        found = judged(sample, self.decisions)
        return {
            "drawn": found.drawn,
            "wanted": sample.wanted,
            "cannot_tell": found.cannot_tell,
            "worst": found.worst,
            "best": found.best,
            "whole": _plain(found.whole),
            "by_name": {name: _plain(share) for name, share in found.by_name.items()},
            "by_score": [[low, high, _plain(share)] for low, high, share in found.by_score],
        }

    def draw_differences(self, first: str, second: str, seed: int = 0) -> dict[str, Any]:
        """Draw and store photos on which two methods differ, unless that was done; returns `compared`.

        Raises:
            NotPossible: they differ on no photo.
        """
        if self._sample((first, second)) is None:
            ids, ours, theirs = self.catalogue.differences(self.decisions, first, second)
            if not len(ids):
                raise NotPossible(f"{first} and {second} name no photo differently")
            places = np.random.default_rng(seed).permutation(len(ids))[:DRAWN]
            uris = self.catalogue.tables["samples"].take(ids[places], ["uri"])["uri"].to_pylist()
            photos = tuple(
                Drawn(int(ids[at]), uri, 0, ours[at], -1.0, theirs[at])
                for at, uri in zip(places.tolist(), uris, strict=True)
            )
            AuditSample(seed, (len(ids),), photos, methods=(first, second)).store(self._log.place)
            with self._lock:
                self._known = None  # what is held out has changed
        return self.compared(first, second)

    def compared(self, first: str, second: str) -> dict[str, Any]:
        """Which of two methods was right on the drawn photos on which they differ."""
        sample = self._sample((first, second))
        if sample is None:
            raise Gone(f"no photos were drawn on which {first} and {second} differ")
        now = self.decisions
        names = {uri: found.name for uri, found in now.photos.items() if found.certain and found.name}
        renamed = (
            replace(photo, name=now.called(photo.name) or "", other=now.called(photo.other) or "")
            for photo in sample.photos
        )
        differ = tuple(photo for photo in renamed if photo.name != photo.other)  # some may have been merged since
        found = compare(replace(sample, photos=differ), names)
        return {
            "first": first,
            "second": second,
            "differ": sample.sizes[0],
            "drawn": len(differ),
            "first_right": found.first,
            "second_right": found.second,
            "neither": found.neither,
            "p": found.p,
        }

    def comparisons(self) -> dict[str, Any]:
        """The methods that can be compared, and the comparisons that were begun."""
        files = storage.list_files(self._log.place, ".json")
        begun = [read_sample(self._log.place, file).methods for file in files if file.startswith(f"{PREFIX}-")]
        return {
            "methods": self.catalogue.methods,
            "begun": [self.compared(*pair) for pair in begun if len(pair) == 2],
        }

    def _sample(self, methods: tuple[str, ...] = ()) -> AuditSample | None:
        try:
            return read_sample(self._log.place, AuditSample(0, (), (), methods=methods).file)
        except FileNotFoundError:
            return None

    def _uri(self, image_id: Any) -> str:
        try:
            return self.catalogue.uri(int(image_id))
        except (IndexError, OverflowError, TypeError):
            raise Gone(f"this run has no photo {str(image_id)[:20]}: it may have been listed anew") from None


def judged(sample: AuditSample, now: Decisions) -> Audit:
    """The audit of a sample by decisions: a name is right if it is called what the photo shows."""
    right: dict[str, bool | None] = {}
    for photo in sample.photos:
        found = now.photos.get(photo.uri)
        if found is None or not found.certain:
            continue
        called = now.called(photo.name)
        if found.kind is Kind.CANNOT_TELL:
            right[photo.uri] = None
        elif found.kind is Kind.WRONG:
            # Wrong for the name that it had then; of another name of the run nothing was said.
            right[photo.uri] = False if found.not_name == called else None
        else:
            right[photo.uri] = called is not None and found.name == called
    return judge(sample, right)


def _plain(share: Any) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in vars(share).items()}  # noqa: PLR0124  NaN
