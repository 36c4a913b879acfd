"""From the answers about an image to its weighted candidate names, of which the heaviest is its label.

Every answer has one vote, which the distinct names in it share: n sampled answers (self-consistency) weigh a name by
how often it was given, one answer that lists k names (the paper's MLLM-CS) weighs them alike, and of a structured
answer (`label.answer`) by the confidences that it claims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import pyarrow as pa
import pyarrow.compute as pc

from fgvr import schemas
from fgvr.mllm.answer_items import Form, Item, Said, read_answers
from fgvr.mllm.answers import CUT_OFF
from fgvr.mllm.label_space import NamedAnswers
from fgvr.schemas import Failure, Reason


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
        structured: whether each was held to the schema of `fgvr.mllm.structured`.
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
        structured: whether each was held to the schema of `fgvr.mllm.structured`.
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
        structured: whether each was held to the schema of `fgvr.mllm.structured`.
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
