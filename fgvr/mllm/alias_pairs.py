"""Pairs of names that may mean one thing, found by how their words differ; nothing here compares all with all.

A word in place of another, as in "Red-winged" and "White-winged", or another number, as in "3 Series" and "5 Series",
makes no pair, however near the embeddings are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fgvr.mllm.spelling import spelling_key

SPECIES_NAMES = 3
"""A Latin name that more names share is a species of many varieties (apples, dogs), whose names are no aliases."""
SLIP_LETTERS = 5
"""Shortest word in which another letter may be a slip; among short words it is another word (Barn, Bark)."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class NameUse:
    """A name of the label space before merging.

    Attributes:
        name: its canonical spelling.
        count: images that it was given to.
        latin: the scientific name that most of the answers gave beside it; "" for none.
    """

    name: str
    count: int
    latin: str = ""


def name_words(name: str) -> tuple[str, ...]:
    """The words of a name for comparison: folded, singular, without "and", "grey" as "gray"."""
    return tuple(_singular(word) for word in spelling_key(name).split() if word != "and")


def _singular(word: str) -> str:
    """Rough, and the same for all: what matters is that both forms become one."""
    word = word.replace("grey", "gray")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "ches", "shes", "oes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def of_one_species(names: Sequence[NameUse]) -> Iterator[Pair]:
    """Names that the answers give one Latin name: that name itself, and common names that share a word."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, use in enumerate(names):
        groups[spelling_key(use.latin or use.name)].append(place)
    for latin, group in groups.items():
        common = {place for place in group if spelling_key(names[place].name) != latin}
        if len(common) > SPECIES_NAMES:
            continue
        for one, other in _pairs(group):
            both_common = one in common and other in common
            if not both_common or set(name_words(names[one].name)) & set(name_words(names[other].name)):
                yield one, other


def in_other_order(words: Sequence[tuple[str, ...]]) -> Iterator[Pair]:
    """Names of the same words: "2012 Fiat 500", "Fiat 500 2012"."""
    yield from _sharing((tuple(sorted(name)),) for name in words)


def with_a_slip(words: Sequence[tuple[str, ...]]) -> Iterator[Pair]:
    """Names in which one long word differs by one letter that is not its first: "Dicksissel", "Dickcissel"."""
    found = set(_sharing(_with_a_letter_less(name) for name in words))
    yield from (pair for pair in sorted(found) if _differ_by_a_letter(words[pair[0]], words[pair[1]]))


def _with_a_letter_less(name: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The name, and what is left of it without any one letter of a long word."""
    yield name
    for place, word in enumerate(name):
        if len(word) >= SLIP_LETTERS and not any(letter.isdigit() for letter in word):
            for letter in range(1, len(word)):
                yield (*name[:place], word[:letter] + word[letter + 1 :], *name[place + 1 :])


def _differ_by_a_letter(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if len(one) != len(other):
        return False
    different = [sorted(pair, key=len) for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
    if len(different) != 1:
        return False
    short, long = different[0]
    if len(short) < SLIP_LETTERS or any(letter.isdigit() for letter in short + long):
        return False
    same = next((place for place, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return same > 0 and short[same + (len(short) == len(long)) :] == long[same + 1 :]


def with_more_words(words: Sequence[tuple[str, ...]]) -> Iterator[Pair]:
    """A name, and the only one that holds all its words and more, no number among these: "Mallard", "Mallard duck".

    Where several names do, the name is a kind that they belong to ("Warbler", "Audi A4"), and no alias of either.
    """
    holding: dict[str, set[int]] = defaultdict(set)
    for place, name in enumerate(words):
        for word in name:
            holding[word].add(place)
    for short, name in enumerate(words):
        rarest_first = sorted((holding[word] for word in set(name)), key=len)
        longer = [place for place in set.intersection(*rarest_first) if len(words[place]) > len(name)] if name else []
        if len(longer) == 1:
            added = set(words[longer[0]]) - set(name)
            if not any(letter.isdigit() for word in added for letter in word):
                yield min(short, longer[0]), max(short, longer[0])


def _sharing(keys: Iterable[Iterable[tuple[str, ...]]]) -> Iterator[Pair]:
    """Pairs of places that share a key."""
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
