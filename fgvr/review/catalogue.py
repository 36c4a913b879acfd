"""What a reviewer sees of a run: its names and pages of its photos, read lazily from the tables that are finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fgvr.arrays import Doubles, Ids
from fgvr.errors import UserError
from fgvr.names.label_space import read_label_space
from fgvr.review.decisions import Decisions
from fgvr.review.name_index import NameIndex
from fgvr.tables import Table, read_part

NAMED: Final = ("predictions", "labels")
"""Tables that name photos; the first one that a run has is reviewed."""
EXAMPLES: Final = 4
PAGE: Final = 60
MOST_DOUBLES: Final = 200
QUEUED: Final = ["image_id", "decided_by", "student_score"]
SORTS: Final = ("count", "name", "sure", "unsure")


class NothingToReview(UserError):
    """A run without a finished table of names."""


@dataclass(frozen=True)
class NameRow:
    """A name as it is called now.

    Attributes:
        name: the name.
        count: photos of all names that are called so now.
        score: their mean confidence.
        was: what they are called in the run, where that is something else.
        examples: image ids of a few of them.
    """

    name: str
    count: int
    score: float
    was: tuple[str, ...]
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Photo:
    """A photo with what everything says about it.

    Attributes:
        image_id: its number.
        uri: its URI.
        name: what the run calls it, after renames and merges; "" where that is no name.
        score: the run's confidence; None where unknown.
        said: who → what: MLLM, NeaR, the student's names with probabilities.
        candidates: names with weights.
        neighbours: image ids of the nearest photos.
        why: why it is probably wrong; "" where it is not listed.
    """

    image_id: int
    uri: str
    name: str
    score: float | None
    said: Mapping[str, str]
    candidates: Sequence[tuple[str, float]] = ()
    neighbours: Sequence[int] = ()
    why: str = ""


_Row = tuple[str, list[int], int, float]
"""A name, its codes, its photos and their mean confidence."""


@dataclass
class _Names:
    rows: list[_Row] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    codes: dict[str, list[int]] = field(default_factory=dict)
    doubles: list[tuple[_Row, _Row]] | None = None


class Catalogue:
    """Reads a run's finished tables; holds names in memory, photos only a page at a time.

    Attributes:
        named: the table of names that is reviewed.
        index: its photos by name.
        tables: the finished tables by name.
    """

    def __init__(self, tables: Mapping[str, Table]) -> None:
        """Raises NothingToReview: no samples, or no table that names them."""
        self.tables = tables
        found = [name for name in NAMED if name in tables]
        if not found or "samples" not in tables:
            raise NothingToReview("no photo of this run has a name yet: its labels are not finished")
        self.named = tables[found[0]]
        self.index = NameIndex.of(self.named)
        self._space = read_label_space(tables["labels"]).labels if "labels" in tables else ()
        self._names: tuple[Mapping[str, str], _Names] | None = None

    def names(
        self, decisions: Decisions, search: str = "", sort: str = "count", start: int = 0, limit: int = PAGE
    ) -> tuple[list[NameRow], int]:
        """A page of the names that contain `search` in any case, and how many there are."""
        table = self._grouped(decisions)
        wanted = search.casefold().strip()
        rows = [row for row, folded in zip(table.rows, table.folded, strict=True) if wanted in folded]
        if sort == "name":
            rows.sort(key=lambda row: row[0].casefold())
        elif sort in {"sure", "unsure"}:
            rows.sort(key=lambda row: (row[3] if sort == "unsure" else -row[3], row[0]))
        else:
            rows.sort(key=lambda row: (-row[2], row[0]))
        return [self._row(*row) for row in rows[start : start + limit]], len(rows)

    def _row(self, name: str, codes: list[int], count: int, score: float) -> NameRow:
        was = tuple(self.index.names[code] for code in codes if self.index.names[code] != name)
        largest = max(codes, key=lambda code: int(self.index.starts[code + 1] - self.index.starts[code]))
        ids, _ = self.index.photos(largest)
        spread = np.unique(np.linspace(0, len(ids) - 1, min(EXAMPLES, len(ids))).astype(np.int64))
        return NameRow(name, count, score, was, tuple(int(each) for each in ids[spread]))

    def is_name(self, decisions: Decisions, name: str) -> bool:
        """Whether photos are called so now."""
        return name in self._grouped(decisions).codes

    def like(self, decisions: Decisions, text: str, limit: int = 12) -> list[str]:
        """Names for type-ahead: those that begin with the text, then those with a word that does, then others."""
        wanted = text.casefold().strip()
        table = self._grouped(decisions)
        found: list[tuple[int, int, str]] = []
        for row, folded in zip(table.rows, table.folded, strict=True):
            at = folded.find(wanted)
            if at >= 0:
                found.append((0 if at == 0 else 1 if f" {wanted}" in folded else 2, -row[2], row[0]))
        return [name for _, _, name in sorted(found)[:limit]]

    def doubles(self, decisions: Decisions) -> list[tuple[NameRow, NameRow]]:
        """Pairs of names that may mean one thing by how they are written, those with the most photos first."""
        from fgvr.checks.findings import alike_names

        table = self._grouped(decisions)
        if table.doubles is None:
            rows = {row[0]: row for row in table.rows}
            alike = [(rows[one], rows[other]) for one, other in alike_names(list(rows))]
            pairs = [(one, other) if one[2] >= other[2] else (other, one) for one, other in alike]
            table.doubles = sorted(pairs, key=lambda pair: -pair[1][2])
        return [(self._row(*first), self._row(*second)) for first, second in table.doubles[:MOST_DOUBLES]]

    def of_name(self, decisions: Decisions, name: str, start: int = 0, limit: int = PAGE) -> tuple[Ids, int]:
        """A page of a name's photos, the least sure first, and how many there are."""
        parts = [self.index.photos(code) for code in self._grouped(decisions).codes.get(name, [])]
        if not parts:
            return np.zeros(0, np.int64), 0
        ids, scores = (np.concatenate([part[column] for part in parts]) for column in (0, 1))
        if start + limit < len(ids):
            nearest = np.argpartition(scores, start + limit)[: start + limit]
            ids, scores, total = ids[nearest], scores[nearest], len(ids)
        else:
            total = len(ids)
        order = np.lexsort((ids, scores))
        return ids[order[start : start + limit]], total

    def queue(self, name: str) -> Ids:
        """Ids of a queue: `likely_wrong`, `most_useful` or `undecided`."""
        if name == "most_useful":
            return self.index.useful
        if name == "undecided":
            return self._undecided
        if "issues" in self.tables:
            rows = self.tables["issues"].read(["image_id", "score"])
            scores = np.nan_to_num(rows["score"].to_numpy().astype(np.float64), nan=-1.0)
            order = np.argsort(-scores, kind="stable")[: len(self.index.unsure) or None]
            found: Ids = rows["image_id"].to_numpy()[order[scores[order] >= 0]]
            return found
        return self.index.unsure

    @property
    def methods(self) -> list[str]:
        """Tables that name photos, and can be compared with each other."""
        evaluated = [name for name in self.tables if name.startswith("eval_") and _has_names(self.tables[name])]
        return [*(name for name in NAMED if name in self.tables), *evaluated]

    def differences(self, decisions: Decisions, first: str, second: str) -> tuple[Ids, list[str], list[str]]:
        """Photos that two tables call by different names, and both names, as they are called now.

        Raises:
            NothingToReview: there is no such table.
        """
        for name in (first, second):
            if name not in self.methods:
                raise NothingToReview(f"this run has no names in {name}; there are {', '.join(self.methods)}")
        few, many = sorted((first, second), key=lambda name: self.tables[name].rows)
        said = {few: _names_in(self.tables[few].read(["image_id", "label"]), decisions)}
        ids = np.array(sorted(said[few]), np.int64)
        said[many] = _names_in(self.tables[many].find(ids, ["image_id", "label"]), decisions)
        differ = [each for each in ids.tolist() if each in said[many] and said[few][each] != said[many][each]]
        names = [[said[table][each] for each in differ] for table in (first, second)]
        return np.array(differ, np.int64), names[0], names[1]

    def names_of(self, decisions: Decisions, ids: Ids) -> list[str]:
        """What photos are called now; "" for those without a name."""
        rows = self.named.find(ids, ["image_id", "label"])
        names = dict(zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
        return [decisions.called(names.get(each) or "") or "" for each in ids.tolist()]

    def suspicion(self, ids: Ids) -> Doubles:
        """How suspicious the names of photos are (table `issues`), float64 [n]; NaN where nobody judged them."""
        found = np.full(len(ids), np.nan)
        if "issues" in self.tables:
            rows = self.tables["issues"].find(ids, ["image_id", "score"])
            scores = dict(zip(rows["image_id"].to_pylist(), rows["score"].to_pylist(), strict=True))
            found = np.array([scores.get(each) for each in ids.tolist()], np.float64)  # None becomes NaN
        return found

    @cached_property
    def _undecided(self) -> Ids:
        """Photos that wait for a person under a promised precision, the surest first; none without a promise."""
        found: list[tuple[float, int]] = []
        for rows in self.tables["decided"].batches(QUEUED) if "decided" in self.tables else ():
            mine = rows.filter(pc.equal(rows["decided_by"], "queue"))
            found += zip(mine["student_score"].to_pylist(), mine["image_id"].to_pylist(), strict=True)
        return np.array([image for _, image in sorted(found, key=lambda row: (-row[0], row[1]))], np.int64)

    def uri(self, image_id: int) -> str:
        """A photo's URI; raises IndexError where the run has no such photo."""
        found = self.tables["samples"].take(np.array([image_id], np.int64), ["uri"])["uri"][0].as_py()
        return str(found)

    def photos(self, decisions: Decisions, ids: Ids) -> list[Photo]:
        """What everything says about these photos, in their order; reads only their row groups."""
        ids = np.asarray(ids, np.int64)
        uris = self.tables["samples"].take(ids, ["uri"])["uri"].to_pylist()
        rows = {name: self._found(name, ids, columns) for name, columns in _COLUMNS.items() if name in self.tables}
        return [self._photo(decisions, int(each), uri, rows) for each, uri in zip(ids, uris, strict=True)]

    def _found(self, name: str, ids: Ids, columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        found = self.tables[name].find(ids, list(columns)).to_pylist()
        return {row["image_id"]: row for row in found}

    def _photo(
        self, decisions: Decisions, image_id: int, uri: str, rows: Mapping[str, Mapping[int, Mapping[str, Any]]]
    ) -> Photo:
        def row(table: str) -> Mapping[str, Any]:
            return rows.get(table, {}).get(image_id, {})

        said: dict[str, str] = {}
        if row("labels").get("label"):
            said["MLLM"] = f"{row('labels')['label']} (it said: {row('labels')['raw']})"
        if row("near").get("label_id") is not None:
            said["NeaR"] = self._called(row("near")["label_id"])
        tops = zip(row("predictions").get("top_labels") or [], row("predictions").get("top_scores") or [], strict=True)
        if listed := [f"{label} {score:.2f}" for label, score in list(tops)[:3]]:
            said["model"] = ", ".join(listed)
        issue = row("issues")
        if issue.get("suggested"):
            said["also possible"] = ", ".join(issue["suggested"])
        own = row(self.named.name)
        pairs = zip(row("candidates").get("label_ids") or [], row("candidates").get("weights") or [], strict=True)
        score = own.get("score")
        return Photo(
            image_id=image_id,
            uri=uri,
            name=decisions.called(own.get("label") or "") or "",
            score=None if score is None else float(score),
            said=said,
            candidates=[(self._called(label), float(weight)) for label, weight in pairs],
            neighbours=[each for each in row("candidates").get("neighbour_ids") or [] if each != image_id][:6],
            why=issue.get("why") or "",
        )

    def _called(self, label_id: int) -> str:
        return self._space[label_id] if 0 <= label_id < len(self._space) else "?"

    def _grouped(self, decisions: Decisions) -> _Names:
        """All names as they are called now, grouped; kept until an alias changes."""
        if self._names is not None and self._names[0] == decisions.aliases:
            return self._names[1]
        made = _Names()
        for code, name in enumerate(self.index.names):
            called = decisions.called(name)
            if called is not None:
                made.codes.setdefault(called, []).append(code)
        sizes = np.diff(self.index.starts)
        for name, codes in made.codes.items():
            count = int(sizes[codes].sum())
            mean = float((sizes[codes] * self.index.means[codes]).sum() / max(1, count))
            made.rows.append((name, codes, count, mean))
            made.folded.append(name.casefold())
        self._names = (dict(decisions.aliases), made)
        return made


_COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "predictions": ("image_id", "label", "score", "top_labels", "top_scores"),
    "labels": ("image_id", "label", "raw"),
    "near": ("image_id", "label_id"),
    "issues": ("image_id", "suggested", "why"),
    "candidates": ("image_id", "neighbour_ids", "label_ids", "weights"),
}


def _has_names(table: Table) -> bool:
    return "label" in read_part(table.uri, 0).schema.names


def _names_in(rows: pa.Table, decisions: Decisions) -> dict[int, str]:
    """Image id → what it is called now, of the rows with a name."""
    pairs = zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True)
    called = ((image, decisions.called(label) if label else None) for image, label in pairs)
    return {image: name for image, name in called if name}
