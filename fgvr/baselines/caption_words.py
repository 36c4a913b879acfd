"""Candidate names from captions by CaSED's filters (altndrr/vic, `default_vocab_transform`): single words.

Its part-of-speech tagger, which leaves nouns, adjectives and participles, is replaced by a list of English words that
are none of these; the other steps are as there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

MIN_COUNT = 2
"""Uses of a word, over the captions of an image, below which it is no candidate."""
MIN_LETTERS = 3
NO_CANDIDATE = "object"
"""What an image is called whose captions leave no word."""

_TAG = re.compile(r"<[^>]+>")
_URL = re.compile(r"http\S+")
_SPECIAL = re.compile(r"[^\w\s\-.'&]")
_FILE_ENDING = re.compile(r"\.\w+")
_SEPARATOR = re.compile(r"[_\-]")
_NOT_A_LETTER = re.compile(r"[^a-zA-Z\s]")
_KINDS_OF_PICTURE = "image photo picture thumbnail logo symbol clipart portrait painting illustration icon profile"
_OTHER_WORDS = """
    about above across after again against all almost along also although always among and another any are
    around away back because been before behind being below beneath beside between beyond both but came can
    cannot come could did does down during each either else ever every few for from get gets got had has have
    having her here hers herself him himself his how however into its itself just less let lot made make makes
    many may maybe might mine more most much must near neither never not nothing now off often once one only
    onto other our ours out over own per perhaps quite rather same say says see seen shall she should since some
    soon still such take than that the their theirs them themselves then there these they thing this those
    though through thus too toward towards under until upon very was way well were what when where which while
    who whom whose why will with within without would yet you your yours two three four five six
"""
_DROPPED = frozenset(f"{_KINDS_OF_PICTURE} {_OTHER_WORDS}".split())


def caption_words(caption: str) -> list[str]:
    """The words of a caption in singular and lower case, in order and with repetitions; letters a–z only."""
    text = _FILE_ENDING.sub("", _SPECIAL.sub("", _URL.sub("", _TAG.sub("", caption))))
    words = (singular(_NOT_A_LETTER.sub("", word).lower()) for word in _SEPARATOR.sub(" ", text).split())
    return [word for word in words if len(word) >= MIN_LETTERS and word not in _DROPPED]


def candidate_words(captions: Sequence[Sequence[str]]) -> list[str]:
    """Words used at least `MIN_COUNT` times in an image's captions (given as words), most frequent first.

    Where none is, those that are used most often; `NO_CANDIDATE` alone where there is no word at all.
    """
    counts = Counter(word for caption in captions for word in caption)
    if not counts:
        return [NO_CANDIDATE]
    enough = min(MIN_COUNT, max(counts.values()))
    return sorted((word for word, count in counts.items() if count >= enough), key=lambda word: (-counts[word], word))


def singular(word: str) -> str:
    """A plural's singular by its ending; words in -ss, -us, -is, -ies and -oes stay as they are, as in the source."""
    if not word.endswith("s") or word.endswith(("ss", "us", "is", "ies", "oes")):
        return word
    return word[:-2] if word.endswith(("xes", "ches", "shes", "sses")) else word[:-1]
