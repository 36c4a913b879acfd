"""A model's answer becomes the name it means, or the reason why there is none.

The clean-up of FineR and FiNDR strips blanks and markdown marks; here also Unicode forms, articles, "a photo of",
introductions, trailing sentences, Latin names in brackets and refusals are recognised. The raw text is kept for ever
in the answers table, so every step can be done again.
"""

from __future__ import annotations

import re
import unicodedata

from fgvr.mllm.prose import MAX_WORDS, count_words, name_in_prose, sentences
from fgvr.mllm.spelling import spelling_key
from fgvr.schemas import Failure, Reason

MAX_CHARACTERS = 120
"""Longest name; what is longer is no name."""

_SHORT_ANSWER_WORDS = 8
_INVISIBLE = re.compile(r"[\u200b-\u200f\u202a-\u202e\u2060\ufeff\x00-\x08\x0b-\x1f\x7f]|<\|[a-z_]+\|>")
_FENCE = re.compile(r"^```\w*\n?|\n?```$")
_THINKING = re.compile(r"^.*?</think>", re.DOTALL)
_FIELD = re.compile(
    r"^(?:(?:the|best|most|likely|fine[- ]grained|final|predicted|correct)\s+)*"
    r"(?:(?:class|species|breed|category|model|object|image)\s+)?(?:label|class|answer|name|species|category|breed|"
    r"response|prediction|identification)\s*(?:is\s*)?[:=]\s*",
    re.IGNORECASE,
)
_INTRODUCTION = re.compile(
    r"^(?:(?:an?|the)\s+)?(?:close[- ]?up\s+|detailed\s+|high[- ]quality\s+)?"
    r"(?:photo|picture|image|photograph|drawing|illustration|painting|view)\s+(?:of|showing|depicting)\s+",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=\S)", re.IGNORECASE)
_BRACKETS = re.compile(r"\s*[(\[][^()\[\]]*[)\]]\s*$")
_LISTED = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s+")
_REFUSAL = re.compile(
    r"\b(?:i['’]?m\s+(?:sorry|afraid|not\s+sure|unsure|unable|not\s+able)|i\s+am\s+(?:sorry|afraid|not\s+sure|unsure|"
    r"unable|not\s+able)|sorry\b|apologi[sz]e|as\s+an\s+ai\b|i\s+(?:can['’]?t|cannot|can\s+not|could\s+not|"
    r"couldn['’]?t|do\s+not|don['’]?t|won['’]?t)\b|i\s+would\s+need|no\s+idea|not\s+(?:entirely\s+)?sure|unable\s+to|"
    r"(?:cannot|can['’]?t|could\s+not)\s+(?:be\s+)?(?:\w+ly\s+)?(?:identif|determin|recogni|classif|tell|say|see)|"
    r"not\s+(?:possible|identifiable|recogni[sz]able|visible|clear\s+enough|enough)|impossible\s+to|"
    r"difficult\s+to|hard\s+to\s+(?:say|tell)|(?:too|image\s+is)\s+blurry)",
    re.IGNORECASE,
)
_NO_NAMES = frozenset(
    """unknown|unknown species|unidentified|unclear|unsure|undetermined|unspecified|uncertain|none|null|nil|nothing|no|
    yes|nan|na|n a|idk|other|others|misc|miscellaneous|object|image|photo|picture|label|class|unlabeled|unlabelled|
    not sure|not applicable|not available|no label|no answer|no idea|no object""".replace("\n    ", "").split("|")
)


def clean_answer(raw: str | None, cut: bool = False) -> str | Failure:
    """The name that an answer means.

    Args:
        raw: the answer.
        cut: whether it was cut off at the limit of tokens: a name at its very end may be half of one then.

    Returns:
        The name as the model spelt it (case kept), or a Failure: EMPTY_ANSWER when nothing is left or no name can be
        found, REFUSED when the model said that it does not know or will not say.
    """
    text = normalised(raw or "")
    if not re.search(r"\w", text):
        return Failure(Reason.EMPTY_ANSWER, f"{'cut off: ' if cut else ''}the answer was {raw!r}")
    name = _short_answer(text) or name_in_prose(text)
    name = None if name is None else _stripped(name)
    if cut and (not name or text.rstrip(" .,;:-–—").endswith(name) or text.startswith("<think>")):
        return Failure(Reason.EMPTY_ANSWER, f"cut off: it may go on after {raw!r}")
    if name and spelling_key(name) and spelling_key(name) not in _NO_NAMES and not _REFUSAL.search(name):
        return name
    if _REFUSAL.search(text) or (name and spelling_key(name) in _NO_NAMES):
        return Failure(Reason.REFUSED, text)
    return Failure(Reason.EMPTY_ANSWER, f"no name found in {text!r}")


def normalised(raw: str) -> str:
    """An answer in one Unicode form, without thoughts said first, invisible characters and code fences."""
    text = unicodedata.normalize("NFKC", raw)
    text = _THINKING.sub("", text)  # reasoning models say their thoughts first
    text = _INVISIBLE.sub("", text)
    return _FENCE.sub("", text.strip()).strip()


def _short_answer(text: str) -> str | None:
    """The name where the answer begins with it; None where its first sentence says more than a name."""
    first = _LISTED.sub("", sentences(text)[0])
    bare = _FIELD.sub("", _unmarked(first))
    if not bare and len(sentences(text)) > 1:  # "Label:" on a line of its own
        bare = _unmarked(_LISTED.sub("", sentences(text)[1]))
    bare = _stripped(bare)
    if not bare or count_words(bare) > _SHORT_ANSWER_WORDS or len(bare) > MAX_CHARACTERS:
        return None
    if re.search(r":\s", bare):  # an item of a list with a heading: "Beak: long and thin"
        return None
    # A finite verb makes it a sentence: the name is in it, but it is not the name.
    if re.search(
        r"\b(?:is|are|was|appears?|seems?|looks?|shows?|depicts?|features?|it['’]s|this['’]s|be)\b", bare, re.IGNORECASE
    ):
        return None
    return bare


def _unmarked(text: str) -> str:
    return re.sub(r"^#+\s*|\*{1,3}|`|_{2}|(?<!\w)_|_(?!\w)", "", text).strip()


def _stripped(name: str) -> str:
    """Without introductions, articles, bracketed additions and surrounding punctuation."""
    name = " ".join(_unmarked(name).split())
    for _ in range(4):
        before = name
        name = name.strip(" \t\"'“”‘’«».,;:!?-–—=|/\\")
        name = _FIELD.sub("", name)
        name = _INTRODUCTION.sub("", name)
        name = _ARTICLE.sub("", name)
        name = _BRACKETS.sub("", name)
        if name == before:
            break
    return name if len(name) <= MAX_CHARACTERS and count_words(name) <= MAX_WORDS else ""
