"""The items of an answer: the texts in it that are to be cleaned, each of them a name or none.

An item is the key under which the label space knows what it means. Whether an answer was cut off is part of it: the
same words are a name where the model ended there, and may be half of one where it was stopped. So is whether they are
a field's: "Maybe Baby Onesie" is a name there, and a hedge before one in free words.
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
    """A text at whose end the limit of tokens stopped the model."""

    text: str


@dataclass(frozen=True)
class FieldText:
    """The field of a structured answer that holds a name."""

    text: str


Item: TypeAlias = str | CutText | FieldText


def item_text(item: Item) -> str:
    """The words of an item."""
    return item if isinstance(item, str) else item.text


def item_name(item: Item) -> str | Failure:
    """The name that an item holds, or why it holds none."""
    if isinstance(item, FieldText):
        return clean_answer(json.dumps({"name": item.text}))  # as in an answer that is JSON without having to be
    return clean_answer(item_text(item), cut=isinstance(item, CutText))


class Form(NamedTuple):
    """How the answers were asked for.

    Attributes:
        listed: names that each was asked for.
        structured: whether each was held to the schema of `fgvr.names.structured`.
    """

    listed: int = 1
    structured: bool = False


class Said(NamedTuple):
    """What one answer says.

    Attributes:
        items: in its order.
        shares: of the answer's vote, one an item; None: its names share alike.
        failure: why it holds no item, where that is known.
    """

    items: tuple[Item, ...] = ()
    shares: tuple[Fraction, ...] | None = None
    failure: Failure | None = None


def answer_items(
    texts: Iterable[str | None], listed: int, cuts: Sequence[bool | None] | None = None
) -> list[list[Item]]:
    """The items of each answer of an image; a lost answer (None) has none.

    Args:
        texts: the answers.
        listed: names that each was asked for; 1: the whole answer is the one item.
        cuts: whether each answer was cut off; None: that is not known, and it counts as whole.
    """
    return [list(said.items) for said in read_answers(texts, Form(listed), cuts)]


def read_answers(texts: Iterable[str | None], form: Form, cuts: Sequence[bool | None] | None = None) -> list[Said]:
    """What each answer of an image says; a lost answer (None) says nothing. Arguments as of `answer_items`."""
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
    # The list's last item is gone, and the others are whole. Where there is no list, or none is left, the answer is
    # the item.
    return Said(tuple(CutText(text) if name in {text, ""} else name for name in names) or (CutText(text),))
