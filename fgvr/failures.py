"""Failed rows summarised for people: a count per reason, and one example per reason with its message and image.

The example is the failed row with the lowest image id, so that it does not depend on which worker was faster. One
example per reason is kept in part footers and manifests: resume, retries and `status.py` need not read the rows.
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
from fgvr.schemas import Failure, Reason, key_of

LONGEST = 300
"""The most characters of a row's error message that are shown."""
LONGEST_PLACE = 80
SPELLED_OUT = 3
"""How many reasons a message illustrates with an example; for the others it gives the count only."""

REMEDIES = {
    Reason.NOT_FOUND: "moved? relative paths in a table begin at the table's folder",
    Reason.UNREADABLE: "check permissions and the network",
    Reason.TOO_MANY_BYTES: "ingest.limits.max_bytes is the limit",
    Reason.TOO_MANY_PIXELS: "ingest.limits.max_pixels is the limit",
    Reason.EMPTY_ANSWER: "see label.prompt, label.answer and label.max_tokens",
    Reason.OTHER_LANGUAGE: "ask in English, or for the name alone, or take label.answer structured",
    Reason.NO_LABEL_MASS: "see aspects.instruction and aspects.words, or signatures.prompt",
    Reason.ENGINE_ERROR: "the engine's or server's own log says more",
    Reason.NO_INPUT: "see the failures of the stages before",
    Reason.NOT_IN_FILE: "where a file covers a part of the photos, raise run.max_error_share, or list only these",
    Reason.CONTRADICTION: "mend the file, or rank the answers",
}
"""What usually helps, per reason."""


@dataclass(frozen=True)
class Example:
    """A failed row, shown as an example.

    Attributes:
        image_id: id of its image; in tables of classes the class's.
        detail: its error message, without secrets.
        uri: where the image is, without secrets, or the class's name; "" if not known.
    """

    image_id: int
    detail: str
    uri: str = ""

    @classmethod
    def of(cls, image_id: int, failure: Failure, uri: str = "") -> Example:
        """An example made from a failure that is not in a table yet."""
        return cls(image_id, failure.as_row()["detail"], shown_uri(uri))

    def words(self) -> str:
        """One line for people: the error message, preceded by the image unless the message contains its path."""
        words = one_line(self.detail, LONGEST) or "no message"
        place = _tail(self.uri)
        if place and place in words:
            return words
        return f"image {self.image_id}{f' ({place})' if place else ''}: {words}"


@dataclass
class Failures:
    """Failed rows, grouped by reason.

    Attributes:
        counts: number of rows per reason.
        examples: one per reason; reasons counted by an earlier version have none.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Example] = field(default_factory=dict)

    @classmethod
    def in_rows(cls, rows: pa.Table, uris: Mapping[int, str] | None = None) -> Failures:
        """The failures in a table's rows (a column of `KEYS`, and `error`); empty if it has no such columns.

        Args:
            rows: the rows.
            uris: URIs of their images, or names of their classes, as far as known.
        """
        found, key = cls(), key_of(rows.schema.names)
        if key is None or "error" not in rows.schema.names:
            return found
        failed = rows.select([key, "error"]).filter(pc.is_valid(rows["error"])).combine_chunks()
        reasons = pc.struct_field(failed["error"], "reason")
        for reason in pc.unique(reasons).drop_null().to_pylist():
            mine = failed.filter(pc.equal(reasons, reason))
            ids = mine[key].to_numpy()
            first = int(np.argmin(ids))
            image_id = int(ids[first])
            detail = mine["error"][first].as_py()["detail"] or ""
            found.counts[reason] = len(ids)
            found.examples[reason] = Example(image_id, masked(detail), shown_uri((uris or {}).get(image_id, "")))
        return found

    @classmethod
    def from_json(cls, counts: Mapping[str, int], examples: Mapping[str, Mapping[str, Any]] | None) -> Failures:
        """Failures as stored in a manifest or footer; those written by earlier versions have no examples."""
        return cls(Counter(counts), {reason: Example(**facts) for reason, facts in (examples or {}).items()})

    def add(self, other: Failures) -> None:
        """Add the failures of other rows of the same table."""
        self.counts.update(other.counts)
        self.examples = earliest([self.examples, other.examples])

    def examples_json(self) -> dict[str, dict[str, Any]]:
        """The examples as stored in a manifest or footer."""
        return {reason: asdict(example) for reason, example in sorted(self.examples.items())}

    def lines(self) -> list[str]:
        """One line per reason, most frequent first: `not_found (3), e.g. there is nothing at …`."""
        return [self._line(reason, self.counts[reason]) for reason in self.ranked()]

    def ranked(self) -> list[str]:
        """The reasons, most frequent first."""
        return sorted((reason for reason, count in self.counts.items() if count), key=lambda r: (-self.counts[r], r))

    def in_words(self) -> str:
        """The lines joined into part of a sentence; if there are many reasons, the rare ones have no example."""
        lines = self.lines()
        rare = [line.partition(", e.g. ")[0] for line in lines[SPELLED_OUT:]]
        return "; ".join([*lines[:SPELLED_OUT], *([", ".join(rare)] if rare else [])])

    def _line(self, reason: str, count: int) -> str:
        example, remedy = self.examples.get(reason), remedy_of(reason)
        told = "" if example is None else f", e.g. {example.words()}"
        return f"{reason} ({count:,}){told}{f' [{remedy}]' if remedy and told else ''}"


def earliest(examples: Iterable[Mapping[str, Example]]) -> dict[str, Example]:
    """The example with the lowest image id, per reason."""
    found: dict[str, Example] = {}
    for reason, example in (item for some in examples for item in some.items()):
        known = found.get(reason)
        if known is None or example.image_id < known.image_id:
            found[reason] = example
    return found


def remedy_of(reason: str) -> str:
    """What usually helps with a reason; "" if only the error message can say."""
    return next((remedy for known, remedy in REMEDIES.items() if known.value == reason), "")


def table_place(uri: str) -> str:
    """Where all failed rows of a table can be found, for messages."""
    return f"table: {uri} (column error)"


def one_line(text: str, longest: int = LONGEST) -> str:
    """Text as one console line, without secrets and terminal control codes; longer text is cut with `…`."""
    plain = " ".join(safe(text).split())
    return plain if len(plain) <= longest else f"{plain[: longest - 1].rstrip()}…"


def shown_uri(uri: str) -> str:
    """A URI without secrets, of limited length."""
    return masked(uri[:2000])[:500]


def _tail(uri: str) -> str:
    """The last two names of a path, which are enough to tell photos of a folder apart."""
    place = "/".join(one_line(uri, 500).rstrip("/").split("/")[-2:])
    return place if len(place) <= LONGEST_PLACE else f"…{place[-LONGEST_PLACE + 1 :]}"


# How many failed rows a stage tolerates.

FEW = 5


def allowed_failures(max_error_share: float, rows: int) -> int:
    """The most of `rows` rows that may fail under `run.max_error_share`.

    Of a hundred photos the default share is one photo, so a second damaged photo would stop the job. Therefore up to a
    tenth of a small table may fail, at most five rows, unless the share is 0 and no row may fail.
    """
    share = int(max_error_share * rows + 1e-9)
    return share if max_error_share == 0 else max(share, min(FEW, rows // 10))
