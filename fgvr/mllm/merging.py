"""Alias merging: names of one thing that differ by more than case and punctuation become one label.

Text embeddings alone would do harm: with all-MiniLM-L6-v2 "Eastern Meadowlark" is nearer to "Western Meadowlark" (0.92)
than "Lotus" to "Lotus flower" (0.82). So a pair must first differ in a way in which names of one thing do
(`fgvr.mllm.alias_pairs`), and only then the embeddings decide:

- one **spelling** once plurals, blanks beside letters, "&" and "grey" are made alike: always merged;
- one **Latin name** given by the answers themselves: always merged;
- the same words in another **order**, a **slip** in one letter, **more words**: merged from a cosine on.

In none of them may a number or a sign differ: "1.5 l" and "15 l", "737-800" and "737800", "C" and "C#" stay apart.

Every name joins the nearest more frequent one that is no alias itself: a star, not a chain, so of A~B~C all three
become one only where C~A, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from fgvr.metrics.semantic import NameEncoder
from fgvr.mllm.alias_pairs import (
    NameUse,
    in_other_order,
    name_words,
    of_one_species,
    one_spelling,
    with_a_slip,
    with_more_words,
)
from fgvr.mllm.spelling import spelling_key

_STATED = 2.0  # above any cosine


def merge_aliases(
    names: Sequence[NameUse], load_encoder: Callable[[], NameEncoder], similarity: float
) -> dict[str, str]:
    """Which name is an alias of which.

    Args:
        names: distinct names.
        load_encoder: of the text embeddings; called only where a pair needs one.
        similarity: least cosine of order, slip and more words; at 1 they are not looked at.

    Returns:
        alias → the more frequent name (of equally frequent ones the first in alphabetical order) that stands for it.
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
    """Names in groups of one spelling, most frequent first, and so within a group; its first has the count of all."""
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
    """The pairs of at least this cosine; names are embedded as their keys."""
    places = sorted({place for pair in pairs for place in pair})
    vectors = encoder.encode([spelling_key(uses[place].name) for place in places])
    row = {place: index for index, place in enumerate(places)}
    cosines = {(one, other): float(vectors[row[one]] @ vectors[row[other]]) for one, other in pairs}
    return {pair: cosine for pair, cosine in cosines.items() if cosine >= least}
