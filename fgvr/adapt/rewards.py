"""The reward of an answer: 1 where its name is the trusted one, else 0."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fgvr.names.aliases import AliasTable
from fgvr.names.answers import clean_answer

_ALTERNATIVES = re.compile(r"\b(?:or|either)\b|/", re.IGNORECASE)
"""What an answer has beside its name where it names several things: the reader of answers would take the first."""


def key_of(answer: str | None, aliases: AliasTable, *, cut: bool = False) -> str | None:
    """The key that spellings of an answer's name share; None where the answer has no name, or alternatives.

    Args:
        answer: the model's answer as it stands.
        aliases: labels that a person chose for answers, raw or cleaned.
        cut: whether the token limit ended it.
    """
    chosen = aliases.label(answer) if answer else None
    if chosen is None:
        cleaned = clean_answer(answer, cut)
        if not isinstance(cleaned, str):
            return None
        if _ALTERNATIVES.search((answer or "").replace(cleaned, " ")):
            return None
        chosen = aliases.label(cleaned)
        chosen = cleaned if chosen is None else chosen
    return aliases.name_key(chosen) if chosen else None


def rewards(answers: Sequence[str | None], trusted: Sequence[str], aliases: AliasTable | None = None) -> list[float]:
    """One reward per answer, 0 or 1. Equal names count, never parts of names: else a list of all names would win.

    Args:
        answers: raw answers.
        trusted: the trusted name of each answer's photo.
        aliases: see `key_of`.
    """
    table = aliases or AliasTable()
    said = (key_of(answer, table) for answer in answers)
    wanted = [key_of(name, table) for name in trusted]
    return [float(found is not None and found == key) for found, key in zip(said, wanted, strict=True)]
