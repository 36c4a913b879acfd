"""From all answers to the label space: the set of distinct names, each with an id that all later stages use."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fgvr import schemas, storage
from fgvr.arrays import NONE
from fgvr.names.aliases import Alias, AliasTable
from fgvr.names.answer_items import Form, Item, Said, item_name, item_text, read_answers
from fgvr.names.answers import CUT_OFF
from fgvr.names.merging import NameUse
from fgvr.names.spelling import fold_name, scientific_name
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table

# From all answers to the label space: the set of distinct names, each with an id that all later stages use.

LABEL_SPACE_FILE = "label_space.json"

Merge = Callable[[Sequence[NameUse]], Mapping[str, str]]
"""Says which name is an alias of which (a name left out stays itself), as `fgvr.names.merging.merge_aliases` does."""


@dataclass(frozen=True)
class LabelSpace:
    """Distinct names in alphabetical order: a name's place is its label id.

    Attributes:
        labels: canonical names.
        counts: images that each name was given to (an image with several answers counts for each spelling).
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def to_json(self) -> bytes:
        """As `label_space.json`."""
        return json.dumps({"labels": self.labels, "counts": self.counts}, ensure_ascii=False, indent=0).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LabelSpace:
        """Read what `to_json` wrote."""
        facts = json.loads(data)
        return cls(tuple(facts["labels"]), tuple(facts["counts"]))


def read_label_space(labels: Table) -> LabelSpace:
    """The names beside a labels table."""
    return LabelSpace.from_json(storage.read_bytes(labels.path(LABEL_SPACE_FILE)))


@dataclass(frozen=True)
class NamedAnswers:
    """What every distinct raw answer means.

    Attributes:
        space: the label space.
        meanings: raw answer (an `Item`) → canonical name, or why it has none.
        aliases: the alias table, for people.
    """

    space: LabelSpace
    meanings: Mapping[Item, str | Failure]
    aliases: tuple[Alias, ...]


def build_label_space(
    answers: Mapping[Any, int], aliases: AliasTable | None = None, merge: Merge | None = None
) -> NamedAnswers:
    """Clean all answers and unite those that mean the same name.

    Spellings that differ in case, accents or punctuation only are one name; the most frequent spelling is the
    canonical one, among equally frequent ones the first in alphabetical order. A label that a person chose overrules
    both, keeps the spelling that the person gave it, and is merged into no other; labels that a person told apart stay
    apart, be it by case alone.

    Args:
        answers: raw answer (an `Item`: a str, CutText or FieldText) → number of images that gave it.
        aliases: labels chosen by a person.
        merge: unites names of different spelling, after the clean-up.
    """
    chosen = aliases or AliasTable()
    read = {raw: _read(raw, chosen) for raw in answers}
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for raw, (_, name) in read.items():
        if isinstance(name, str):
            spellings[chosen.name_key(name)][name] += answers[raw]
    canonical = _canonical(spellings, chosen)
    if merge is not None:
        merged = merge(_uses(canonical, spellings, read, answers, chosen))
        fixed = chosen.chosen
        canonical = {key: name if name in fixed else merged.get(name, name) for key, name in canonical.items()}
    meanings = {raw: canonical[chosen.name_key(n)] if isinstance(n, str) else n for raw, (_, n) in read.items()}
    counts: Counter[str] = Counter()
    table: Counter[tuple[str, str]] = Counter()
    for raw, (spelling, _) in read.items():
        meaning = meanings[raw]
        if isinstance(meaning, str):
            counts[meaning] += answers[raw]
        if spelling is not None:
            table[spelling, meaning if isinstance(meaning, str) else ""] += answers[raw]
    labels = tuple(sorted(counts))
    rows = tuple(Alias(answer, label, count) for (answer, label), count in sorted(table.items()))
    return NamedAnswers(LabelSpace(labels, tuple(counts[name] for name in labels)), meanings, rows)


def _read(item: Item, chosen: AliasTable) -> tuple[str | None, str | Failure]:
    """The spelling under which the alias table lists an answer (None: not at all), and the name it means."""
    raw = item_text(item)
    cleaned = item_name(item)
    spelling = cleaned if isinstance(cleaned, str) else None
    label = chosen.label(raw)
    if label is not None:
        # Under its cleaned spelling the table would contradict itself where another answer cleans to the same.
        spelling = spelling if spelling is not None and chosen.label(spelling) == label else raw
    elif spelling is not None:
        label = chosen.label(spelling)
    if label is None:
        return spelling, cleaned
    return spelling, label or Failure(Reason.REFUSED, "dropped by label.aliases")


def _uses(
    canonical: Mapping[str, str],
    spellings: Mapping[str, Counter[str]],
    read: Mapping[Item, tuple[str | None, str | Failure]],
    answers: Mapping[Any, int],
    chosen: AliasTable,
) -> list[NameUse]:
    """The names with their counts and the scientific names that most of their answers give."""
    stated: dict[str, Counter[str]] = defaultdict(Counter)
    for raw, (spelling, name) in read.items():
        latin = scientific_name(item_text(raw), spelling) if isinstance(name, str) and spelling is not None else ""
        if isinstance(name, str) and latin:
            stated[chosen.name_key(name)][latin] += answers[raw]
    return [
        NameUse(
            name, spellings[key].total(), min(stated[key], key=lambda latin: (-stated[key][latin], latin), default="")
        )
        for key, name in canonical.items()
    ]


def _canonical(spellings: Mapping[str, Counter[str]], chosen: AliasTable) -> dict[str, str]:
    """Key → the spelling that stands for all of it."""
    by_person = {chosen.name_key(label): label for label in sorted(chosen.chosen)}
    return {
        key: by_person.get(key) or min(counts, key=lambda name: (-counts[name], name))
        for key, counts in spellings.items()
    }


# From the answers about an image to its weighted candidate names, of which the heaviest is its label.
#
# Every answer has one vote, which the distinct names in it share: n sampled answers (self-consistency) weigh a name
# by how often it was given, one answer that lists k names (the paper's MLLM-CS) weighs them alike, and of a
# structured answer (`label.answer`) by the confidences that it claims.


@dataclass(frozen=True)
class Candidates:
    """What the answers about one image mean.

    Attributes:
        weights: canonical name → share of the answers that gave one, sum 1, heaviest first; names of equal weight in
            the order in which they were first said. Empty where no answer gave a name.
        answer: number of the first answer that gives the heaviest name; 0 without names.
        failure: why there is no name.
    """

    weights: dict[str, Fraction]
    answer: int = 0
    failure: Failure | None = None

    @property
    def label(self) -> str | None:
        """The heaviest name."""
        return next(iter(self.weights), None)


def count_items(parts: Iterable[pa.Table], listed: int, *, structured: bool = False) -> Counter[Item]:
    """Items of all answers → images that gave them: what the label space is made of.

    Answers about an image whose row failed (one of its requests did) count no more than the row does.

    Args:
        parts: of the answers table, columns `texts` and `error`, and `cut` where it is known.
        listed: names that each answer was asked for.
        structured: whether each was held to the schema of `fgvr.names.structured`.
    """
    form = Form(listed, structured)
    counts: Counter[Item] = Counter()
    for part in parts:
        whole = part.filter(pc.is_null(part["error"]))
        cuts = whole["cut"].to_pylist() if "cut" in whole.schema.names else [None] * whole.num_rows
        for texts, cut in zip(whole["texts"].to_pylist(), cuts, strict=True):
            counts.update({item for said in read_answers(texts or (), form, cut) for item in said.items})
    return counts


def weigh(
    texts: Sequence[str | None],
    named: NamedAnswers,
    listed: int,
    cuts: Sequence[bool | None] | None = None,
    *,
    structured: bool = False,
) -> Candidates:
    """The candidates of one image.

    Args:
        texts: its answers; None for one that was lost.
        named: what the items of all answers mean.
        listed: names that each answer was asked for.
        cuts: whether each answer was cut off; None: that is not known, and it counts as whole.
        structured: whether each was held to the schema of `fgvr.names.structured`.
    """
    votes: dict[str, Fraction] = {}  # exact: sums of thirds must tie where they are equal
    first: dict[str, int] = {}
    failure: Failure | None = None
    for number, said in enumerate(read_answers(texts, Form(listed, structured), cuts)):
        for name, share in _shares(said, named).items():
            votes[name] = votes[name] + share if name in votes else share
            first.setdefault(name, number)
        failure = failure or said.failure or _first_failure(said, named)
    if not votes:
        return Candidates({}, failure=failure or Failure(Reason.EMPTY_ANSWER, "no answer"))
    if len(votes) == 1:  # nearly every image: fractions are slow
        return Candidates(dict.fromkeys(votes, Fraction(1)), min(first.values()))
    total = sum(votes.values())
    heaviest_first = sorted(votes, key=lambda name: -votes[name])  # stable: equal ones stay as first said
    return Candidates({name: votes[name] / total for name in heaviest_first}, first[heaviest_first[0]])


def _first_failure(said: Said, named: NamedAnswers) -> Failure | None:
    meanings = (named.meanings[item] for item in said.items)
    return next((meaning for meaning in meanings if isinstance(meaning, Failure)), None)


def _shares(said: Said, named: NamedAnswers) -> dict[str, Fraction]:
    """Name → its share of the answer's vote, sum 1; what is no name has none."""
    meanings = [named.meanings[item] for item in said.items]
    if len(meanings) == 1:
        return {meaning: Fraction(1) for meaning in meanings if isinstance(meaning, str)}
    if said.shares is None:
        names = list(dict.fromkeys(meaning for meaning in meanings if isinstance(meaning, str)))
        return {name: Fraction(1, len(names)) for name in names}
    shares: dict[str, Fraction] = {}
    for meaning, share in zip(meanings, said.shares, strict=True):
        if isinstance(meaning, str):
            shares[meaning] = shares.get(meaning, Fraction(0)) + share
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def label_rows(
    answers: pa.Table, named: NamedAnswers, listed: int = 1, *, structured: bool = False, limit: str | None = None
) -> pa.Table:
    """Rows of the labels table: answers with their names, or why they have none.

    Args:
        answers: rows of the answers table.
        named: what the items of all answers mean.
        listed: names that each answer was asked for.
        structured: whether each was held to the schema of `fgvr.names.structured`.
        limit: what limits an answer's tokens, "label.max_tokens = 32", for those that were cut off.
    """
    label_ids = {label: label_id for label_id, label in enumerate(named.space.labels)}
    rows = []
    for answer in answers.to_pylist():
        texts, logprobs = answer["texts"] or [None], answer["logprobs"] or [None]
        found = Candidates({})
        if answer["error"] is None:
            found = weigh(texts, named, listed, answer.get("cut"), structured=structured)
        failure = None if found.failure is None else _named_limit(found.failure, limit)
        rows.append(
            {
                "image_id": answer["image_id"],
                "raw": texts[found.answer],
                "label": found.label,
                "label_id": None if found.label is None else label_ids[found.label],
                "candidate_ids": [label_ids[name] for name in found.weights],
                "candidate_weights": [float(weight) for weight in found.weights.values()],
                "logprob": logprobs[found.answer],
                "prompt_tokens": answer["prompt_tokens"],
                "output_tokens": answer["output_tokens"],
                "error": answer["error"] or (None if failure is None else failure.as_row()),
            }
        )
    return pa.Table.from_pylist(rows, schema=schemas.LABELS)


def _named_limit(failure: Failure, limit: str | None) -> Failure:
    """The failure of an answer that was cut off, with what cut it off and what to raise."""
    if limit is None or not failure.detail.startswith(CUT_OFF):
        return failure
    field = limit.partition(" = ")[0]
    what = failure.detail.removeprefix(CUT_OFF)
    return replace(failure, detail=f"cut off at {limit} before it answered; raise {field}: {what}")


# True names as label ids: which images the label space can name rightly at all.

NOT_IN_SPACE = -2


def true_label_ids(names: Sequence[str | None], labels: Sequence[str]) -> npt.NDArray[np.int32]:
    """Label id of every image's true name, int32 [N]: `NONE` where it is unknown, `NOT_IN_SPACE` where no label has it.

    Names are compared as in top-1 accuracy: without case, punctuation and the like.
    """
    ids: dict[str, int] = {}
    for label_id, label in enumerate(labels):
        ids.setdefault(fold_name(label), label_id)
    by_name = {name: NONE if name is None else ids.get(fold_name(name), NOT_IN_SPACE) for name in set(names)}
    return np.array([by_name[name] for name in names], dtype=np.int32)
