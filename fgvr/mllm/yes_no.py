"""Which tokens stand for "Yes" and "No" at the start of a reply, and the probability they give."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fgvr.errors import UserError


class AnswerWordError(UserError, ValueError):
    """A word that is not a single token of this model at the start of a reply."""


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a rendered prompt; adds a BOS token if the model needs one and the template wrote none."""
    bos = getattr(tokenizer, "bos_token", None)
    has_bos = bos is not None and text.startswith(bos)
    return list(tokenizer(text, add_special_tokens=not has_bos)["input_ids"])


def control_tokens(tokenizer: Any) -> set[int]:
    """Ids of the tokens that control the model or engine instead of being text: end, turn and image tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*getattr(tokenizer, "all_special_ids", ()), *(number for number, token in added.items() if token.special)}


def blanks(tokenizer: Any, prompt: str, before: list[int]) -> tuple[str, str]:
    """What a reply may put before its first word, more probable form first.

    After a line break or a special token, a reply starts with the word itself; after other text ("ASSISTANT:"), with a
    blank before it.

    Args:
        tokenizer: the model's own.
        prompt: a rendered prompt, up to where the reply begins.
        before: its token ids.
    """
    marks = {*getattr(tokenizer, "all_special_ids", ()), *getattr(tokenizer, "added_tokens_decoder", ())}
    return ("", " ") if prompt[-1:].isspace() or before[-1] in marks else (" ", "")


@dataclass(frozen=True)
class AnswerTokens:
    """The two token ids whose log-probabilities are compared."""

    yes: int
    no: int

    @classmethod
    def resolve(cls, tokenizer: Any, prompt: str, words: tuple[str, str] = ("Yes", "No")) -> AnswerTokens:
        """Find the tokens that a reply to `prompt` would start with.

        The more probable form of `blanks` is tried first; both words must be single tokens in it.

        Args:
            tokenizer: the model's own.
            prompt: a rendered prompt, up to where the reply begins.
            words: the words for yes and for no.

        Raises:
            AnswerWordError: a word takes several tokens, or both words are the same token.
        """
        before = token_ids(tokenizer, prompt)
        for blank in blanks(tokenizer, prompt, before):
            found = [_one_token(tokenizer, prompt, before, blank + word) for word in words]
            if found[0] is not None and found[1] is not None and found[0] != found[1]:
                return cls(found[0], found[1])
        pieces = {word: tokenizer.convert_ids_to_tokens(token_ids(tokenizer, prompt + word)[-3:]) for word in words}
        raise AnswerWordError(
            f"aspects.words: at the start of a reply this model's tokenizer does not write {words[0]!r} and"
            f" {words[1]!r} as one token each (the prompt with each ends in {pieces}); name two words that are one"
            " token, in the model's language, or take another model"
        )


def _one_token(tokenizer: Any, prompt: str, before: list[int], word: str) -> int | None:
    """The single token that `word` adds to the prompt, or None."""
    ids = token_ids(tokenizer, prompt + word)
    return ids[-1] if len(ids) == len(before) + 1 and ids[:-1] == before else None


def probability_of_yes(yes: float, no: float) -> tuple[float, float]:
    """p(yes) = softmax over the two log-probabilities (MaKD, equation 1), and their mass e^yes + e^no.

    Any value down to −inf is valid: engines and servers write −9999 and −inf for very improbable tokens. Both −inf
    gives (NaN, 0), since there is nothing to compare; so does a value that is not a log-probability (NaN, +inf).
    """
    top = max(yes, no)
    if not -math.inf < top < math.inf or math.isnan(yes) or math.isnan(no):
        return math.nan, 0.0
    # With the larger one factored out no exponential overflows, and one that underflows is 0, as it should be.
    odds_yes, odds_no = math.exp(yes - top), math.exp(no - top)
    total = odds_yes + odds_no
    return odds_yes / total, min(1.0, math.exp(min(top, 0.0)) * total)


def log_sum(values: Iterable[float]) -> float:
    """Log Σ exp of log-probabilities, −inf if there are none; factoring out the largest keeps small ones."""
    found = list(values)
    top = max(found, default=-math.inf)
    if not math.isfinite(top):
        return top
    return top + math.log(sum(math.exp(value - top) for value in found))
