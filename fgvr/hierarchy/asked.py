"""The kinds above names as a language model says them: chains of answers, and one tree that no bad answer can ruin.

Each name has a chain: its kind, the kind of that, and so on. Chains contradict each other: "gull" is a seabird in one
and a bird in another, a plum is a fruit and a fruit is a plum. So every name keeps the first kind that is said of it:
what was answered about the name itself goes before what was answered about it on the way up from another name, and
names come in the order in which they were asked. Of a circle the link that was said last is left out. A name without a
usable answer stands below the root.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from fgvr.hierarchy.tree import Tree, build_tree
from fgvr.names.merging import name_words, one_spelling
from fgvr.names.spelling import fold_name

MOST_ABOVE: Final = 20
"""Most kinds above each other. Chains that continue each other (a below b, b below c …) could make a tree of any depth,
whose ancestors are kept as a table of names × depths; what is deeper starts anew below the root."""


_folded = lru_cache(maxsize=2**16)(fold_name)  # the same few kinds stand in all chains


@lru_cache(maxsize=2**16)
def kind_key(name: str) -> str:
    """A kind for comparison: as names are folded, and "gulls" like "gull"; "" for one without a letter or digit."""
    return one_spelling(name_words(name))


@dataclass(frozen=True)
class Chain:
    """What was answered about a name.

    Attributes:
        name: as it was asked.
        kinds: the kinds above it, the nearest first, as written; empty where no answer was usable.
    """

    name: str
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class AskedKinds:
    """All chains of a run; implements `fgvr.hierarchy.kinds.Source` and pickles.

    Attributes:
        chains: one per name, in the order in which they were asked.
    """

    chains: tuple[Chain, ...]

    def digest(self) -> str:
        """See Source."""
        said = [[chain.name, *chain.kinds] for chain in self.chains]
        return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()

    def tree(self, names: Sequence[str]) -> Tree:
        """See Source. Only the chains of these names count, so that a tree does not depend on any other name."""
        wanted = {_folded(name) for name in names}
        chains = [chain for chain in self.chains if _folded(chain.name) in wanted and chain.kinds]
        links, written = self._links(chains)
        return build_tree(_without_circles(links), written, names)

    @cached_property
    def spellings(self) -> Mapping[str, str]:
        """Key of a kind (`kind_key`) → how it is written: as the name that was asked, else as most answers do."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for chain in self.chains:
            for kind in chain.kinds:
                counts[kind_key(kind)][kind] += 1
        found = {key: min(each, key=lambda kind: (-each[kind], kind)) for key, each in counts.items()}
        for chain in reversed(self.chains):  # of two names of one key the first counts
            if (key := kind_key(chain.name)) in found:
                found[key] = chain.name
        return found

    def _links(self, chains: Sequence[Chain]) -> tuple[dict[str, str], dict[str, str]]:
        """Folded name → folded name above it, in the order in which they were said; and how names are written."""
        links: dict[str, str] = {}
        written: dict[str, str] = {}
        for step in range(max((len(chain.kinds) for chain in chains), default=0)):
            for chain in chains:
                if step >= len(chain.kinds):
                    continue
                below = chain.name if step == 0 else self.spellings[kind_key(chain.kinds[step - 1])]
                above = self.spellings[kind_key(chain.kinds[step])]
                keys = _folded(below), _folded(above)
                if keys[0] == keys[1] or not all(keys):
                    continue
                links.setdefault(*keys)
                for key, shown in zip(keys, (below, above), strict=True):
                    written.setdefault(key, shown)
        return links, written


def _without_circles(links: Mapping[str, str]) -> dict[str, str]:
    """The same links without the last of each circle, and without those above which `MOST_ABOVE` kinds stand.

    Each name has one link, so that every walk upwards ends at the top, in a circle, or on a path walked before: all
    walks together take one step per link.
    """
    order = {name: place for place, name in enumerate(links)}
    kept = dict(links)
    walk_of: dict[str, str] = {}
    depths: dict[str, int] = {}
    for start in links:
        path: list[str] = []
        name = start
        while name in kept and name not in walk_of:
            walk_of[name] = start
            path.append(name)
            name = kept[name]
        if name in kept and walk_of[name] == start:  # the walk met itself
            circle = path[path.index(name) :]
            kept[max(circle, key=order.__getitem__)] = ""
    for start in kept:
        path, name = [], start
        while name and name not in depths:
            path.append(name)
            name = kept.get(name, "")
        above = depths[name] if name else -1
        for name in reversed(path):
            above = depths[name] = above + 1
            if above > MOST_ABOVE:
                kept[name], above = "", 0
                depths[name] = 0
    return kept
