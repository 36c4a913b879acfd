"""The items of an answer: the pieces of text in it that are cleaned, each of them a name or no name.

The label space looks up the meaning of an item by the item itself. Whether an answer was cut off is part of the item:
the same words are a complete name if the model ended there, and may be half a name if it was stopped. So is whether
they are the value of a field: "Maybe Baby Onesie" is a name there, but begins with a hedge in free text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from fgvr.names.answers import clean_answer
from fgvr.names.listed import listed_names
from fgvr.names.structured import read_structured
from fgvr.schemas import Failure


@dataclass(frozen=True)
class CutText:
    """A text that ends because the token limit stopped the model."""

    text: str


@dataclass(frozen=True)
class FieldText:
    """The value of a structured answer's name field."""

    text: str


Item: TypeAlias = str | CutText | FieldText


def item_text(item: Item) -> str:
    """The text of an item."""
    return item if isinstance(item, str) else item.text


def item_name(item: Item) -> str | Failure:
    """The name that an item holds, or why it holds none."""
    if isinstance(item, FieldText):
        return clean_answer(json.dumps({"name": item.text}))  # as for an answer that happens to be JSON
    return clean_answer(item_text(item), cut=isinstance(item, CutText))


class Form(NamedTuple):
    """How the answers were requested.

    Attributes:
        listed: names that each was asked for.
        structured: whether each was held to the schema of `fgvr.names.structured`.
    """

    listed: int = 1
    structured: bool = False


class Said(NamedTuple):
    """The content of one answer.

    Attributes:
        items: the items in the answer's order.
        shares: each item's share of the answer's vote; None: all items have equal shares.
        failure: why there is no item, if known.
    """

    items: tuple[Item, ...] = ()
    shares: tuple[Fraction, ...] | None = None
    failure: Failure | None = None


def answer_items(
    texts: Iterable[str | None], listed: int, cuts: Sequence[bool | None] | None = None
) -> list[list[Item]]:
    """The items of each answer about an image; a missing answer (None) has none.

    Args:
        texts: the answers.
        listed: number of names requested per answer; 1: the whole answer is the single item.
        cuts: whether each answer was cut off; None: not known, treated as complete.
    """
    return [list(said.items) for said in read_answers(texts, Form(listed), cuts)]


def read_answers(texts: Iterable[str | None], form: Form, cuts: Sequence[bool | None] | None = None) -> list[Said]:
    """The content of each answer about an image; a missing answer (None) is empty. Arguments as in `answer_items`."""
    given = list(texts)
    marks = cuts or [None] * len(given)
    return [
        Said() if text is None else _read(text, form, cut=bool(cut)) for text, cut in zip(given, marks, strict=True)
    ]


def _read(text: str, form: Form, *, cut: bool) -> Said:
    if form.structured:
        found = read_structured(text, form.listed, cut=cut)
        if isinstance(found, Failure):
            return Said(failure=found)
        return Said(tuple(FieldText(name) for name in found.names), found.shares)
    if form.listed == 1:
        return Said((CutText(text) if cut else text,))
    names = listed_names(text, form.listed, cut=cut)
    if not cut:
        return Said(tuple(names))
    # Only the last item of a cut-off list is dropped. If there is no list, or nothing is left of it, the whole answer
    # is the item.
    return Said(tuple(CutText(text) if name in {text, ""} else name for name in names) or (CutText(text),))
