"""From the answers about an image to its weighted candidate names, of which the heaviest is its label.

Every answer has one vote, which the distinct names in it share equally: n sampled answers (self-consistency) weigh a
name by how often it was given, one answer that lists k names (the paper's MLLM-CS) weighs them alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import pyarrow as pa
import pyarrow.compute as pc

from fgvr import schemas
from fgvr.mllm.label_space import NamedAnswers
from fgvr.mllm.listed import answer_items
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


def count_items(parts: Iterable[pa.Table], listed: int) -> Counter[str]:
    """Items of all answers → images that gave them: what the label space is made of.

    Answers about an image whose row failed (one of its requests did) count no more than the row does.

    Args:
        parts: of the answers table, columns `texts` and `error`.
        listed: names that each answer was asked for.
    """
    counts: Counter[str] = Counter()
    for part in parts:
        for texts in part.filter(pc.is_null(part["error"]))["texts"].to_pylist():
            counts.update({item for items in answer_items(texts or (), listed) for item in items})
    return counts


def weigh(texts: Sequence[str | None], named: NamedAnswers, listed: int) -> Candidates:
    """The candidates of one image.

    Args:
        texts: its answers; None for one that was lost.
        named: what the items of all answers mean.
        listed: names that each answer was asked for.
    """
    votes: dict[str, Fraction] = {}  # exact: sums of thirds must tie where they are equal
    first: dict[str, int] = {}
    failure: Failure | None = None
    for number, items in enumerate(answer_items(texts, listed)):
        meanings = [named.meanings[item] for item in items]
        names = list(dict.fromkeys(meaning for meaning in meanings if isinstance(meaning, str)))
        for name in names:
            votes[name] = votes.get(name, Fraction(0)) + Fraction(1, len(names))
            first.setdefault(name, number)
        failure = failure or next((meaning for meaning in meanings if isinstance(meaning, Failure)), None)
    if not votes:
        return Candidates({}, failure=failure or Failure(Reason.EMPTY_ANSWER, "no answer"))
    total = sum(votes.values())
    heaviest_first = sorted(votes, key=lambda name: -votes[name])  # stable: equal ones stay as first said
    return Candidates({name: votes[name] / total for name in heaviest_first}, first[heaviest_first[0]])


def label_rows(answers: pa.Table, named: NamedAnswers, listed: int = 1) -> pa.Table:
    """Rows of the labels table: answers with their names, or why they have none.

    Args:
        answers: rows of the answers table.
        named: what the items of all answers mean.
        listed: names that each answer was asked for.
    """
    label_ids = {label: label_id for label_id, label in enumerate(named.space.labels)}
    rows = []
    for answer in answers.to_pylist():
        texts, logprobs = answer["texts"] or [None], answer["logprobs"] or [None]
        found = Candidates({}) if answer["error"] is not None else weigh(texts, named, listed)
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
                "error": answer["error"] or (None if found.failure is None else found.failure.as_row()),
            }
        )
    return pa.Table.from_pylist(rows, schema=schemas.LABELS)
