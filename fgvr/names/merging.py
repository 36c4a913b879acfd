"""Finds pairs of names that may mean one thing by how their words differ, and merges aliases; no all-pairs comparison.

A replaced word, as in "Red-winged" and "White-winged", never makes a pair, however close the embeddings are; nor does
another number or sign, as in "3 Series" and "5 Series", "C" and "C#", "Model" and "Model II".
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fgvr.names.spelling import spelling_key

SPECIES_NAMES = 3
"""A Latin name shared by more names than this is a species with many varieties (apples, dogs), not aliases."""
SLIP_LETTERS = 5
"""Shortest word in which one differing letter may be a typo; short words would be other words (Barn, Bark)."""
_NUMBER_WORD = re.compile(
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)(?:th)?|first|second|third|fifth|ninth|"
    r"twelfth|(?:thir|four|fif|six|seven|eigh|nine)teen(?:th)?|(?:twen|thir|for|fif|six|seven|eigh|nine)t(?:y|ieth)|"
    r"(?:hundred|thousand|million|billion)(?:th)?|half|double|triple|percent"
)
_ROMAN = re.compile(r"(?=..)(?!ix$)x{0,3}(?:ix|iv|v?i{0,3})")  # two letters or more; Hyundai's ix is not 9
_PREFIXES = ("deca", "deci", "deka", "micro", "macro")  # one letter apart, but of different magnitude
_YEAR = re.compile(r"(?:19|20)\d\d")
_STATED = 2.0  # above any cosine


class NameEncoder(Protocol):
    """Turns names into vectors; `name` becomes part of the reported metric."""

    name: str

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """L2-normalised vectors [N, d] of raw names: no template, no lower-casing."""


Pair = tuple[int, int]


@dataclass(frozen=True)
class NameUse:
    """A name of the label space before merging.

    Attributes:
        name: its canonical spelling.
        count: number of images with this name.
        latin: the scientific name that most of the answers gave with it; "" for none.
    """

    name: str
    count: int
    latin: str = ""


def name_words(name: str) -> tuple[str, ...]:
    """The words of a name for comparison: folded, singular, "grey" as "gray", without "and" between two words."""
    words = spelling_key(name).split()
    inner = range(1, len(words) - 1)
    return tuple(_singular(word) for place, word in enumerate(words) if word != "and" or place not in inner)


def one_spelling(words: tuple[str, ...]) -> str:
    """The words without blanks next to letters: "passion flower" and "f 150" lose them, "737 800" does not."""
    return re.sub(r"(?<=[^\W\d_]) | (?=[^\W\d_])", "", " ".join(words))


def _measures(name: tuple[str, ...]) -> list[str]:
    """The words that contain a digit or a sign, in order, each with the next word, which may be its unit."""
    return [" ".join(name[place : place + 2]) for place, word in enumerate(name) if _is_number(word)]


def _is_number(word: str) -> bool:
    return not word.isalpha() and any(letter.isdigit() or unicodedata.category(letter)[0] in "PS" for letter in word)


def _is_any_number(word: str) -> bool:
    """Whether a word contains a digit or a sign, or is a spelled-out or Roman number: "two", "sixth", "iii"."""
    return _is_number(word) or bool(_NUMBER_WORD.fullmatch(word) or _ROMAN.fullmatch(word))


def _added_numbers(name: tuple[str, ...], added: Collection[str]) -> bool:
    """Whether one of the additional words of a name is a number or a unit: "5 kg", "20 V"."""
    units = {word for number, word in pairwise(name) if number[0].isdigit() and len(word) < 3}
    return any(word in units or _is_any_number(word) for word in added)


def _singular(word: str) -> str:
    """Rough singular form; it is enough that both forms of a word map to the same result."""
    if _is_number(word):
        return word  # a 911S is no plural of 911
    word = word.replace("grey", "gray")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "ches", "shes", "oes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def of_one_species(names: Sequence[NameUse]) -> Iterator[Pair]:
    """Names with the same Latin name and numbers: that Latin name itself, and common names that share a word."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, use in enumerate(names):
        groups[spelling_key(use.latin or use.name)].append(place)
    for latin, group in groups.items():
        common = {place for place in group if spelling_key(names[place].name) != latin}
        if len(common) > SPECIES_NAMES:
            continue
        words = {place: name_words(names[place].name) for place in group}
        for one, other in _pairs(group):
            both_common = one in common and other in common
            related = not both_common or set(words[one]) & set(words[other])
            if related and sorted(_measures(words[one])) == sorted(_measures(words[other])):
                yield one, other


def in_other_order(words: Sequence[tuple[str, ...]]) -> Iterator[Pair]:
    """Same words, numbers in the same order: "2012 Fiat 500" and "Fiat 500 2012"; not "5 V 2 A" and "2 V 5 A".

    A year may stand first or last; several other numbers must each keep the word that follows them.
    """
    yield from _sharing(((*sorted(name), *_fixed_order(name)),) for name in words)


def _fixed_order(name: tuple[str, ...]) -> list[str]:
    if len(name) > 1 and _YEAR.fullmatch(name[0]):
        name = name[1:]
    elif len(name) > 1 and _YEAR.fullmatch(name[-1]):
        name = name[:-1]
    measures = _measures(name)
    return measures if len(measures) > 1 else []


def with_a_slip(words: Sequence[tuple[str, ...]]) -> Iterator[Pair]:
    """Names in which one long word differs by one letter, not its first: "Dicksissel" and "Dickcissel"."""
    found = set(_sharing(_with_a_letter_less(name) for name in words))
    yield from (pair for pair in sorted(found) if _differ_by_a_letter(words[pair[0]], words[pair[1]]))


def _with_a_letter_less(name: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The name, and all its variants without one letter of a long word."""
    yield name
    for place, word in enumerate(name):
        if len(word) >= SLIP_LETTERS and not _is_any_number(word):
            for letter in range(1, len(word)):
                yield (*name[:place], word[:letter] + word[letter + 1 :], *name[place + 1 :])


def _differ_by_a_letter(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if len(one) != len(other):
        return False
    different = [sorted(pair, key=len) for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
    if len(different) != 1:
        return False
    short, long = different[0]
    if len(short) < SLIP_LETTERS or _is_any_number(short) or _is_any_number(long):
        return False
    if short.startswith(_PREFIXES) and long.startswith(_PREFIXES) and short[:4] != long[:4]:
        return False
    same = next((place for place, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return same > 0 and short[same + (len(short) == len(long)) :] == long[same + 1 :]


def with_more_words(words: Sequence[tuple[str, ...]]) -> Iterator[Pair]:
    """A name and the only other name with all its words and more, no numbers or units: "Mallard", "Mallard duck".

    If several names contain it, it is a group that they belong to ("Warbler", "Audi A4"), and an alias of none.
    """
    holding: dict[str, set[int]] = defaultdict(set)
    for place, name in enumerate(words):
        for word in name:
            holding[word].add(place)
    for short, name in enumerate(words):
        rarest_first = sorted((holding[word] for word in set(name)), key=len)
        longer = [place for place in set.intersection(*rarest_first) if len(words[place]) > len(name)] if name else []
        if len(longer) == 1:
            added = Counter(words[longer[0]]) - Counter(name)
            if not _added_numbers(words[longer[0]], added):
                yield min(short, longer[0]), max(short, longer[0])


def _sharing(keys: Iterable[Iterable[tuple[str, ...]]]) -> Iterator[Pair]:
    """Pairs of indices that share a key."""
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, of_one in enumerate(keys):
        for key in dict.fromkeys(of_one):
            places[key].append(place)
    for group in places.values():
        yield from _pairs(group)


def _pairs(group: Sequence[int]) -> Iterator[Pair]:
    for position, other in enumerate(group):
        for one in group[:position]:
            yield one, other


# Alias merging: names of one thing that differ by more than case and punctuation become one label.
#
# Text embeddings alone would do harm: for all-MiniLM-L6-v2 "Eastern Meadowlark" is closer to "Western Meadowlark"
# (0.92) than "Lotus" to "Lotus flower" (0.82). So a pair must first differ in a way in which names of one thing do
# (`fgvr.names.merging`); only then do the embeddings decide:
#
# - one **spelling** after normalising plurals, blanks next to letters, "&" and "grey": always merged;
# - one **Latin name** given by the answers themselves: always merged;
# - the same words in another **order**, a **typo** in one letter, **more words**: merged above a cosine threshold.
#
# In none of these cases may a number or sign differ: "1.5 l" and "15 l", "737-800" and "737800", "C" and "C#" differ.
#
# Every name joins the closest more frequent name that is no alias itself. This forms stars, not chains: of A~B~C all
# three become one only if C~A, too.


def merge_aliases(
    names: Sequence[NameUse], load_encoder: Callable[[], NameEncoder], similarity: float
) -> dict[str, str]:
    """Which name is an alias of which.

    Args:
        names: distinct names.
        load_encoder: loads the text embeddings; called only if a pair needs them.
        similarity: minimum cosine for order, typo and more words; at 1 these pairs are not considered.

    Returns:
        alias → the more frequent name (among equally frequent ones the first in alphabetical order) that replaces it.
    """
    groups = _of_one_spelling(names)
    uses = [group[0] for group in groups]
    nearness = dict.fromkeys(of_one_species(uses), _STATED)
    words = [name_words(use.name) for use in uses]
    if similarity < 1:
        alike = {*in_other_order(words), *with_a_slip(words), *with_more_words(words)} - nearness.keys()
        if alike:
            nearness |= _near(uses, sorted(alike), load_encoder(), similarity)
    partners: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for (one, other), near in nearness.items():
        partners[other].append((near, -one))
    star: dict[str, str] = {}
    for place, use in enumerate(uses):
        free = [(near, one) for near, one in partners[place] if uses[-one].name not in star]
        if free:
            star[use.name] = uses[-max(free)[1]].name
    merged = {use.name: star.get(group[0].name, group[0].name) for group in groups for use in group}
    return {name: target for name, target in merged.items() if name != target}


def _of_one_spelling(names: Sequence[NameUse]) -> list[list[NameUse]]:
    """Groups of names with one spelling, most frequent first, also inside a group; its first has the total count."""
    groups: dict[str, list[NameUse]] = defaultdict(list)
    for use in sorted(names, key=lambda use: (-use.count, use.name)):
        groups[one_spelling(name_words(use.name)) or use.name].append(use)
    summed = []
    for group in groups.values():
        latin = next((use.latin for use in group if use.latin), "")
        summed.append([NameUse(group[0].name, sum(use.count for use in group), latin), *group[1:]])
    return sorted(summed, key=lambda group: (-group[0].count, group[0].name))


def _near(
    uses: Sequence[NameUse], pairs: Sequence[tuple[int, int]], encoder: NameEncoder, least: float
) -> dict[tuple[int, int], float]:
    """The pairs with at least this cosine; embeddings are computed from the names' keys."""
    places = sorted({place for pair in pairs for place in pair})
    vectors = encoder.encode([spelling_key(uses[place].name) for place in places])
    row = {place: index for index, place in enumerate(places)}
    cosines = {(one, other): float(vectors[row[one]] @ vectors[row[other]]) for one, other in pairs}
    return {pair: cosine for pair, cosine in cosines.items() if cosine >= least}
