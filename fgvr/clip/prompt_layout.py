"""Positions of the context tokens, the name, the full stop and the end of text in each prompt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fgvr.clip.text_tower import TextTower

CONTEXT = -1  # stands for a learned vector among token ids
LEAD = "a"
Tokenizer = Callable[..., Tensor]  # open_clip's: (texts, context_length=…) -> int64 [N, context_length]
NamePosition = Literal["end", "middle", "front"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptLayout:
    """Token ids of the prompts of all names.

    Attributes:
        ids: int64 [C, L], cut after the last end-of-text token; `CONTEXT` for learned vectors, 0 after the end.
        end: position of the end-of-text token, int64 [C].
        shared: length of the prefix that all prompts share (start token and context).
        shortened: indices of names that did not fit and lost their last tokens.
    """

    ids: Tensor
    end: Tensor
    shared: int
    shortened: tuple[int, ...]


def prompt_layout(
    tokenizer: Tokenizer,
    tower: TextTower,
    names: Sequence[str],
    context_tokens: int,
    position: NamePosition = "end",
) -> PromptLayout:
    """Prompts `[V]_1 … [V]_M name.` (CoOp), with the name at the end, in the middle or before the context.

    Names too long for the tower lose their last tokens, with a warning and a record; two names that differ only
    there become the same prompt. Raises ValueError if the context leaves no room for a name.
    """
    longest = 2 * tower.context_length  # long enough to notice that a name does not fit
    # Tokenised after a word, since byte-level tokenizers split a name at the start of a text differently.
    tokens = tokenizer([f"{LEAD} {name}." for name in names], context_length=longest)
    name_tokens = tokenizer([f"{LEAD} {name}" for name in names], context_length=longest)
    start, lead = tower.end_of_text(tokenizer(["", LEAD], context_length=longest)).tolist()
    ends, name_ends = tower.end_of_text(tokens).tolist(), tower.end_of_text(name_tokens).tolist()
    rows, shortened = [], []
    for index, row in enumerate(tokens.tolist()):
        end = ends[index]
        head, name, stop = row[:start], row[lead : name_ends[index]], row[name_ends[index] : end]
        room = tower.context_length - start - context_tokens - len(stop) - 1
        if room < 1:
            raise ValueError(
                f"{context_tokens} context tokens leave no room for a name: the text tower takes "
                f"{tower.context_length} tokens; lower near.context_length"
            )
        if len(name) > room:
            shortened.append(index)
        body = _place([CONTEXT] * context_tokens, name[:room], position)
        rows.append([*head, *body, *stop, row[end]])
    if shortened:
        shown = ", ".join(repr(names[index][:60]) for index in shortened[:3])
        _log.warning("%d names are too long for the text tower and were shortened: %s …", len(shortened), shown)
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for index, ids_of_row in enumerate(rows):
        ids[index, : len(ids_of_row)] = torch.tensor(ids_of_row)
    return PromptLayout(
        ids=ids,
        end=torch.tensor([len(row) - 1 for row in rows]),
        shared=start + context_tokens if position == "end" else 0,
        shortened=tuple(shortened),
    )


def _place(context: list[int], name: list[int], position: NamePosition) -> list[int]:
    before = {"end": len(context), "middle": len(context) // 2, "front": 0}[position]
    return [*context[:before], *name, *context[before:]]
