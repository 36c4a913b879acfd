"""How likely each of many names is as the answer, from as few next-token distributions as possible.

log p(name | prompt) = Σ_k log p(token_k | prompt, token_1 … token_{k−1}). Names share beginnings, so they form a tree:
one request at a node (prompt and beginning) gives the log-probabilities of all tokens that may follow there. C names of
n tokens take about C · (n − 1) + 1 short requests with a shared prefix. (`prompt_logprobs` would take C, but vLLM
computes such prompts anew, image included, instead of reading them from its prefix cache.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fgvr.errors import UserError
from fgvr.mllm.yes_no import blanks, control_tokens, token_ids

TOKENS_A_REQUEST = 128
"""Tokens whose log-probabilities one request may ask for (vLLM's bound)."""


class UnanswerableName(UserError, ValueError):
    """A class name that cannot be an answer of this model."""


@dataclass(frozen=True)
class Branch:
    """A node's request: the tokens of a beginning, and tokens that follow it in some name."""

    beginning: tuple[int, ...]
    following: tuple[int, ...]


class NameTree:
    """The requests that score a list of names, and the scores that their replies give."""

    def __init__(self, names: Sequence[Sequence[int]], width: int = TOKENS_A_REQUEST) -> None:
        """`names`: token ids of each name, at least one; `width`: see TOKENS_A_REQUEST."""
        following: dict[tuple[int, ...], dict[int, None]] = {}
        for ids in names:
            for place, token in enumerate(ids):
                following.setdefault(tuple(ids[:place]), {})[token] = None
        self.branches: list[Branch] = []
        places: dict[tuple[tuple[int, ...], int], tuple[int, int]] = {}
        for beginning, tokens in sorted(following.items()):  # the empty one first; neighbours share a prefix
            listed = list(tokens)
            for start in range(0, len(listed), width):
                part = tuple(listed[start : start + width])
                places |= {(beginning, token): (len(self.branches), token) for token in part}
                self.branches.append(Branch(beginning, part))
        self._steps = [[places[tuple(ids[:k]), token] for k, token in enumerate(ids)] for ids in names]

    def scores(self, replies: Sequence[Mapping[int, float]]) -> npt.NDArray[np.float32]:
        """Mean log-probability of each name's tokens, nats, float32 [C].

        The mean, as names have different numbers of tokens (length normalisation); the end of the answer is no part.

        Args:
            replies: log-probability by token, of each branch.
        """
        means = [np.mean([replies[branch][token] for branch, token in steps]) for steps in self._steps]
        return np.array(means, dtype=np.float32)


def name_ids(tokenizer: Any, prompt: str, name: str) -> list[int]:
    """Token ids of a name as the reply to `prompt`, a rendered prompt.

    Raises:
        UnanswerableName: the name changes the tokens of the prompt's end, has none, or holds one that is no text: an
            image's placeholder would ask for a second image, an end of the answer would end it.
    """
    before = token_ids(tokenizer, prompt)
    controls = control_tokens(tokenizer)
    for blank in blanks(tokenizer, prompt, before):
        ids = token_ids(tokenizer, prompt + blank + name)
        if len(ids) > len(before) and ids[: len(before)] == before:
            wrong = sorted(controls.intersection(ids[len(before) :]))
            if wrong:
                marks = ", ".join(tokenizer.convert_ids_to_tokens(wrong))
                raise UnanswerableName(
                    f"the class name {name!r} has {marks}, which this model does not read as text; rename the class, "
                    "or take another teacher than the MLLM (makd.distillation.teacher)"
                )
            return ids[len(before) :]
    raise UnanswerableName(f"the class name {name!r} has no tokens of its own as an answer of this model")
