"""Which tokens stand for "Yes" and "No", or other words, at the start of a reply, and the probability they give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
        found = reply_tokens(tokenizer, prompt, words)
        if found is not None:
            return cls(*found)
        pieces = {word: tokenizer.convert_ids_to_tokens(token_ids(tokenizer, prompt + word)[-3:]) for word in words}
        raise AnswerWordError(
            f"aspects.words: at the start of a reply this model's tokenizer does not write {words[0]!r} and"
            f" {words[1]!r} as one token each (the prompt with each ends in {pieces}); name two words that are one"
            " token, in the model's language, or take another model"
        )


def reply_tokens(tokenizer: Any, prompt: str, words: Sequence[str]) -> tuple[int, ...] | None:
    """The tokens with which a reply to `prompt`, a rendered one, would start where it says one of these words.

    The more probable form of `blanks` in which all words are single, different tokens; None if there is none.
    """
    before = token_ids(tokenizer, prompt)
    for blank in blanks(tokenizer, prompt, before):
        found = [_one_token(tokenizer, prompt, before, blank + word) for word in words]
        tokens = tuple(token for token in found if token is not None)
        if len(set(tokens)) == len(words):
            return tokens
    return None


def _one_token(tokenizer: Any, prompt: str, before: list[int], word: str) -> int | None:
    """The single token that `word` adds to the prompt, or None."""
    ids = token_ids(tokenizer, prompt + word)
    return ids[-1] if len(ids) == len(before) + 1 and ids[:-1] == before else None


def probability_of_yes(yes: float, no: float) -> tuple[float, float]:
    """p(yes) = softmax over the two log-probabilities (MaKD, equation 1), and their mass; see `word_shares`."""
    shares, mass = word_shares((yes, no))
    return shares[0], mass


def word_shares(logprobs: Sequence[float]) -> tuple[list[float], float]:
    """The softmax over the log-probabilities of some words, and the sum of their probabilities.

    Any value down to −inf is valid: engines and servers write −9999 and −inf for very improbable tokens. Where all are
    −inf, shares are NaN and the sum is 0, since there is nothing to compare; so where a value is not a log-probability
    (NaN, +inf).
    """
    top = max(logprobs)
    if any(math.isnan(value) for value in logprobs) or not -math.inf < top < math.inf:
        return [math.nan] * len(logprobs), 0.0
    # With the largest one factored out no exponential overflows, and one that underflows is 0, as it should be.
    odds = [math.exp(value - top) for value in logprobs]
    total = sum(odds)
    return [each / total for each in odds], min(1.0, math.exp(min(top, 0.0)) * total)


def log_sum(values: Iterable[float]) -> float:
    """Log Σ exp of log-probabilities, −inf if there are none; factoring out the largest keeps small ones."""
    found = list(values)
    top = max(found, default=-math.inf)
    if not math.isfinite(top):
        return top
    return top + math.log(sum(math.exp(value - top) for value in found))
