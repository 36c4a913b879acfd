"""From all answers to the label space: the set of distinct names, whose ids all later stages use."""

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
from fgvr.names.spelling import fold_name, scientific_name, spelling_key
from fgvr.schemas import Failure, Reason
from fgvr.tables import Table

# The label space: the set of distinct names, whose ids all later stages use.

LABEL_SPACE_FILE = "label_space.json"

Merge = Callable[[Sequence[NameUse]], Mapping[str, str]]
"""Returns which name is an alias of which (names left out stay as they are); see `fgvr.names.merging.merge_aliases`."""

NOT_IN_SPACE = -2


@dataclass(frozen=True)
class LabelSpace:
    """Distinct names in alphabetical order; a name's position is its label id.

    Attributes:
        labels: canonical names.
        counts: number of images per name (an image with several answers counts for each spelling).
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def to_json(self) -> bytes:
        """The content of `label_space.json`."""
        return json.dumps({"labels": self.labels, "counts": self.counts}, ensure_ascii=False, indent=0).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LabelSpace:
        """Read what `to_json` wrote."""
        facts = json.loads(data)
        return cls(tuple(facts["labels"]), tuple(facts["counts"]))


def read_label_space(labels: Table) -> LabelSpace:
    """The label space stored beside a labels table."""
    return LabelSpace.from_json(storage.read_bytes(labels.path(LABEL_SPACE_FILE)))


@dataclass(frozen=True)
class NamedAnswers:
    """The meaning of every distinct raw answer.

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

    Spellings that differ only in case, accents or punctuation are one name; the most frequent spelling becomes the
    canonical one, among equally frequent ones the first in alphabetical order. A label chosen by a person overrules
    both: it keeps that person's spelling and is not merged into any other; labels that a person distinguished stay
    separate, even if they differ only in case.

    Args:
        answers: raw answer (an `Item`: a str, CutText or FieldText) → number of images that gave it.
        aliases: labels chosen by a person.
        merge: unites names of different spelling, after the cleaning.
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


def renamed(named: NamedAnswers, answers: Mapping[Any, int], names: Mapping[str, str]) -> NamedAnswers:
    """The same answers after names were renamed, united or struck out.

    Args:
        named: what answers mean so far.
        answers: raw answer → number of images that gave it, as for `build_label_space`.
        names: name → what it is called now; "" where it is no name. A name that is not among them in this spelling is
            looked up by its spelling key.
    """
    by_key = {spelling_key(name): now for name, now in names.items()}

    def now(name: str) -> str:
        found = names.get(name)
        return by_key.get(spelling_key(name), name) if found is None else found

    struck = Failure(Reason.STRUCK_OUT, "a person decided that it is no name")
    meanings: dict[Item, str | Failure] = {
        raw: (now(name) or struck) if isinstance(name, str) else name for raw, name in named.meanings.items()
    }
    counts: Counter[str] = Counter()
    for raw, meaning in meanings.items():
        if isinstance(meaning, str):
            counts[meaning] += answers[raw]
    labels = tuple(sorted(counts))
    rows = tuple(replace(row, label=now(row.label) if row.label else "") for row in named.aliases)
    return NamedAnswers(LabelSpace(labels, tuple(counts[name] for name in labels)), meanings, rows)


def _read(item: Item, chosen: AliasTable) -> tuple[str | None, str | Failure]:
    """The spelling under which the alias table lists an answer (None: not listed), and the name it means."""
    raw = item_text(item)
    cleaned = item_name(item)
    spelling = cleaned if isinstance(cleaned, str) else None
    label = chosen.label(raw)
    if label is not None:
        # Listed by its cleaned spelling, the table would contradict itself if another answer is cleaned to the same.
        spelling = spelling if spelling is not None and chosen.label(spelling) == label else raw
    elif spelling is not None:
        label = chosen.label(spelling)
    if label is None:
        return spelling, cleaned
    return spelling, label or Failure(Reason.STRUCK_OUT, "dropped by label.aliases")


def _uses(
    canonical: Mapping[str, str],
    spellings: Mapping[str, Counter[str]],
    read: Mapping[Item, tuple[str | None, str | Failure]],
    answers: Mapping[Any, int],
    chosen: AliasTable,
) -> list[NameUse]:
    """The names with their counts, and the scientific name that most of their answers give."""
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
    """Key → the canonical spelling of all names with this key."""
    by_person = {chosen.name_key(label): label for label in sorted(chosen.chosen)}
    return {
        key: by_person.get(key) or min(counts, key=lambda name: (-counts[name], name))
        for key, counts in spellings.items()
    }


# From the answers about an image to its weighted candidate names; the heaviest one is its label.
#
# Every answer has one vote, which its distinct names share: with n sampled answers (self-consistency) a name's weight
# is how often it was given; the k names in one answer (the paper's MLLM-CS) have equal weights; in a structured answer
# (`label.answer`) the weights follow the confidences that the model states; the votes of a file's answers, its scores.


@dataclass(frozen=True)
class Candidates:
    """The names in the answers about one image.

    Attributes:
        weights: canonical name → its share of the answers with names; sums to 1, heaviest first; among equal weights
            the order of first mention. Empty if no answer gave a name.
        answer: index of the first answer that gives the heaviest name; 0 if there are no names.
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
    """Item → number of images whose answers contain it, over all answers: the input for the label space.

    Answers of a failed row (one of its requests failed) are not counted.

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
    scores: Sequence[float] | None = None,
) -> Candidates:
    """The candidates of one image.

    Args:
        texts: its answers; None for one that was lost.
        named: what the items of all answers mean.
        listed: names that each answer was asked for.
        cuts: whether each answer was cut off; None: that is not known, and it counts as whole.
        structured: whether each was held to the schema of `fgvr.names.structured`.
        scores: how much each answer's vote weighs, > 0; None: all weigh the same.
    """
    votes: dict[str, Fraction] = {}  # exact arithmetic: equal sums of thirds must tie
    first: dict[str, int] = {}
    failure: Failure | None = None
    for number, said in enumerate(read_answers(texts, Form(listed, structured), cuts)):
        vote = None if scores is None else Fraction(scores[number])
        for name, part in _shares(said, named).items():
            share = part if vote is None else part * vote
            votes[name] = votes[name] + share if name in votes else share
            first.setdefault(name, number)
        failure = failure or said.failure or _first_failure(said, named)
    if not votes:
        return Candidates({}, failure=failure or Failure(Reason.EMPTY_ANSWER, "no answer"))
    if len(votes) == 1:  # the usual case; fractions are slow
        return Candidates(dict.fromkeys(votes, Fraction(1)), min(first.values()))
    total = sum(votes.values())
    heaviest_first = sorted(votes, key=lambda name: -votes[name])  # stable sort: ties keep the order of first mention
    return Candidates({name: votes[name] / total for name in heaviest_first}, first[heaviest_first[0]])


def weigh_row(row: Mapping[str, Any], named: NamedAnswers, form: Form) -> Candidates:
    """The candidates in a row of an answers table; a row that failed has none, and its own failure says why."""
    if row["error"] is not None:
        return Candidates({})
    return weigh(
        row["texts"] or [None],
        named,
        form.listed,
        row.get("cut"),
        structured=form.structured,
        scores=row.get("scores"),
    )


def _first_failure(said: Said, named: NamedAnswers) -> Failure | None:
    meanings = (named.meanings[item] for item in said.items)
    return next((meaning for meaning in meanings if isinstance(meaning, Failure)), None)


def _shares(said: Said, named: NamedAnswers) -> dict[str, Fraction]:
    """Name → its share of the answer's vote; sums to 1; items that are no names are left out."""
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
    """Rows of the labels table: names from the answers, or why there are none.

    Args:
        answers: rows of the answers table, or of one filled from a file (`fgvr.schemas.FILE_ANSWERS`).
        named: what the items of all answers mean.
        listed: names that each answer was asked for.
        structured: whether each was held to the schema of `fgvr.names.structured`.
        limit: what limits an answer's tokens, "label.max_tokens = 32", for those that were cut off.
    """
    label_ids = {label: label_id for label_id, label in enumerate(named.space.labels)}
    form, rows = Form(listed, structured), []
    for answer in answers.to_pylist():
        texts, logprobs = answer["texts"] or [None], answer["logprobs"] or [None]
        found = weigh_row(answer, named, form)
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
    """The failure of an answer that was cut off, with the limit that caused it and should be raised."""
    if limit is None or not failure.detail.startswith(CUT_OFF):
        return failure
    field = limit.partition(" = ")[0]
    what = failure.detail.removeprefix(CUT_OFF)
    return replace(failure, detail=f"cut off at {limit} before it answered; raise {field}: {what}")


# True names as label ids: for which images the label space contains the right name at all.


def true_label_ids(names: Sequence[str | None], labels: Sequence[str]) -> npt.NDArray[np.int32]:
    """Label id of every image's true name, int32 [N]: `NONE` if it is unknown, `NOT_IN_SPACE` if no label matches.

    Names are compared as for top-1 accuracy: ignoring case, punctuation and the like.
    """
    ids: dict[str, int] = {}
    for label_id, label in enumerate(labels):
        ids.setdefault(fold_name(label), label_id)
    by_name = {name: NONE if name is None else ids.get(fold_name(name), NOT_IN_SPACE) for name in set(names)}
    return np.array([by_name[name] for name in names], dtype=np.int32)
