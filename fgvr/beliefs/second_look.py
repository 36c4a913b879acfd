"""A second look at suspicious labels: a closed choice between the own name and those suggested, and when it replaces.

The MLLM scores each of the names as its answer about the photo (mean log-probability of the name's tokens). A label is
replaced only where two witnesses that have not seen each other agree: the model now prefers another name by at least
`LEAST` nats per token, **and** the neighbourhood prefers that name to the own one, too. Everything else stays: names
that only the labeller's list or its confusions suggest come from the labeller itself. What was replaced by what, and by
which numbers, is a row of the table `reasked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RULES = 1
"""Increase it when the same scores would replace other labels."""
LEAST = 0.5  # nats per token
CHOICES = 3  # names that are compared, the own one included


@dataclass(frozen=True)
class Decision:
    """What becomes of a label.

    Attributes:
        chosen: the name that the model prefers.
        replaced: whether it takes the place of the own one.
    """

    chosen: str
    replaced: bool


def choices(own: str, suggested: Sequence[str]) -> tuple[str, ...]:
    """The names to compare, the own one first, then the neighbourhood's; at most `CHOICES`, at least one."""
    return tuple(dict.fromkeys([own, *suggested]))[:CHOICES]


def decide(names: Sequence[str], scores: Sequence[float], neighbours_name: str | None) -> Decision:
    """What becomes of the label `names[0]`.

    Args:
        names: the compared names, the own one first.
        scores: their mean log-probabilities, nats.
        neighbours_name: the name that the neighbourhood prefers to the own one; None: it prefers none.

    Raises:
        ValueError: no names, or another number of scores.
    """
    if not names or len(names) != len(scores):
        raise ValueError(f"{len(names)} names and {len(scores)} scores")
    best = max(range(len(names)), key=lambda place: (scores[place], -place))
    replaced = best > 0 and scores[best] - scores[0] >= LEAST and names[best] == neighbours_name
    return Decision(names[best], replaced)
