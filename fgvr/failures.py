"""Failed rows in words: how many by reason, and of each reason one row, with what it says and its image.

The example of a reason is the row of the lowest image id, so that it does not depend on which worker was quicker. One
a reason is kept in the footers of parts and in manifests: resuming, retries and `status.py` read no rows for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.redact import masked, safe
from fgvr.schemas import Failure, Reason

LONGEST = 300
"""Letters of a row's words that a message shows."""
LONGEST_PLACE = 80
SPELLED_OUT = 3
"""Reasons that a message gives an example of; of the others it counts the rows."""

REMEDIES = {
    Reason.NOT_FOUND: "moved? relative paths in a table begin at the table's folder",
    Reason.UNREADABLE: "see to permissions and the network",
    Reason.TOO_MANY_BYTES: "ingest.limits.max_bytes is the limit",
    Reason.TOO_MANY_PIXELS: "ingest.limits.max_pixels is the limit",
    Reason.EMPTY_ANSWER: "see label.prompt, label.answer and label.max_tokens",
    Reason.OTHER_LANGUAGE: "ask in English, or for the name alone, or take label.answer structured",
    Reason.NO_LABEL_MASS: "see aspects.instruction and aspects.words",
    Reason.ENGINE_ERROR: "the engine's or server's own log says more",
    Reason.NO_INPUT: "see the failures of the stages before",
}
"""What usually helps, by reason."""


@dataclass(frozen=True)
class Example:
    """A failed row.

    Attributes:
        image_id: of its image.
        detail: its words, without secrets.
        uri: where the image is, without secrets; "" where that is not known.
    """

    image_id: int
    detail: str
    uri: str = ""

    @classmethod
    def of(cls, image_id: int, failure: Failure, uri: str = "") -> Example:
        """Of a failure that stands in no table yet."""
        return cls(image_id, failure.as_row()["detail"], shown_uri(uri))

    def words(self) -> str:
        """In one line, for people: the image, where its path is not in the words themselves, and the words."""
        words = one_line(self.detail, LONGEST) or "it left no words"
        place = _tail(self.uri)
        if place and place in words:
            return words
        return f"image {self.image_id}{f' ({place})' if place else ''}: {words}"


@dataclass
class Failures:
    """Failed rows by reason.

    Attributes:
        counts: how many.
        examples: one of each; a reason that an earlier version counted has none.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Example] = field(default_factory=dict)

    @classmethod
    def in_rows(cls, rows: pa.Table, uris: Mapping[int, str] | None = None) -> Failures:
        """Of a table's rows with `image_id` and `error`; none where it has no errors.

        Args:
            rows: the rows.
            uris: of their images, as far as they are known.
        """
        found = cls()
        if not {"image_id", "error"} <= set(rows.schema.names):
            return found
        failed = rows.select(["image_id", "error"]).filter(pc.is_valid(rows["error"])).combine_chunks()
        reasons = pc.struct_field(failed["error"], "reason")
        for reason in pc.unique(reasons).drop_null().to_pylist():
            mine = failed.filter(pc.equal(reasons, reason))
            ids = mine["image_id"].to_numpy()
            first = int(np.argmin(ids))
            image_id = int(ids[first])
            detail = mine["error"][first].as_py()["detail"] or ""
            found.counts[reason] = len(ids)
            found.examples[reason] = Example(image_id, masked(detail), shown_uri((uris or {}).get(image_id, "")))
        return found

    @classmethod
    def from_json(cls, counts: Mapping[str, int], examples: Mapping[str, Mapping[str, Any]] | None) -> Failures:
        """As a manifest or a footer has them; those of earlier versions have no examples."""
        return cls(Counter(counts), {reason: Example(**facts) for reason, facts in (examples or {}).items()})

    def add(self, other: Failures) -> None:
        """Those of other rows of the same table."""
        self.counts.update(other.counts)
        self.examples = earliest([self.examples, other.examples])

    def examples_json(self) -> dict[str, dict[str, Any]]:
        """For a manifest or a footer."""
        return {reason: asdict(example) for reason, example in sorted(self.examples.items())}

    def lines(self) -> list[str]:
        """One a reason, most frequent first: `not_found (3), e.g. there is nothing at …`."""
        return [self._line(reason, self.counts[reason]) for reason in self.ranked()]

    def ranked(self) -> list[str]:
        """The reasons, most frequent first."""
        return sorted((reason for reason, count in self.counts.items() if count), key=lambda r: (-self.counts[r], r))

    def in_words(self) -> str:
        """The same in one sentence's part; of many reasons the rare ones without an example."""
        lines = self.lines()
        rare = [line.partition(", e.g. ")[0] for line in lines[SPELLED_OUT:]]
        return "; ".join([*lines[:SPELLED_OUT], *([", ".join(rare)] if rare else [])])

    def _line(self, reason: str, count: int) -> str:
        example, remedy = self.examples.get(reason), remedy_of(reason)
        told = "" if example is None else f", e.g. {example.words()}"
        return f"{reason} ({count:,}){told}{f' [{remedy}]' if remedy and told else ''}"


def earliest(examples: Iterable[Mapping[str, Example]]) -> dict[str, Example]:
    """Of each reason the example with the lowest image id."""
    found: dict[str, Example] = {}
    for reason, example in (item for some in examples for item in some.items()):
        known = found.get(reason)
        if known is None or example.image_id < known.image_id:
            found[reason] = example
    return found


def remedy_of(reason: str) -> str:
    """What usually helps; "" where only the words can say."""
    return next((remedy for known, remedy in REMEDIES.items() if known.value == reason), "")


def table_place(uri: str) -> str:
    """Where all failed rows of a table are, for messages."""
    return f"table: {uri} (column error)"


def one_line(text: str, longest: int = LONGEST) -> str:
    """Text for one line of a console, without secrets and terminal commands, cut with `…`."""
    plain = " ".join(safe(text).split())
    return plain if len(plain) <= longest else f"{plain[: longest - 1].rstrip()}…"


def shown_uri(uri: str) -> str:
    """Without secrets, of bounded length."""
    return masked(uri[:2000])[:500]


def _tail(uri: str) -> str:
    """The end of a path that tells photos of a folder apart: its last two names."""
    place = "/".join(one_line(uri, 500).rstrip("/").split("/")[-2:])
    return place if len(place) <= LONGEST_PLACE else f"…{place[-LONGEST_PLACE + 1 :]}"


# How many failed rows a stage puts up with.

FEW = 5


def allowed_failures(max_error_share: float, rows: int) -> int:
    """The most rows out of `rows` that may fail under `run.max_error_share`.

    Of a hundred photos the default share is one photo: a second damaged one would stop the job. So up to a tenth of a
    small table may fail, five rows at most, unless the share is 0 and nothing may.
    """
    share = int(max_error_share * rows + 1e-9)
    return share if max_error_share == 0 else max(share, min(FEW, rows // 10))
