"""The kinds above names by WordNet 3's nouns: files index.noun and data.noun (wndb(5WN)).

Of a name with several senses one is taken, in WordNet's order, which is that of their frequency: the first that is a
physical thing and no person (a cardinal is a bird, and neither a number nor a priest), else the first physical one,
else the first with anything above it. Named individuals (`@i`, "is an instance of") are no kinds. A sense stands below
the first of its hypernyms.

A name that WordNet lacks hangs below the longest ending of whole words that it has ("gadwall duck" below "duck"), since
English names put the kind last; a name without one hangs below the root.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fgvr import storage
from fgvr.hierarchy.kinds import KindsError
from fgvr.hierarchy.tree import Tree, build_tree
from fgvr.names.spelling import fold_name

FOLDER = "/usr/share/wordnet"
PHYSICAL, PERSON = "physical entity", "person"
"""First words of the synsets above all things that can be photographed, and above all people."""
_FILES = ("index.noun", "data.noun")
_INDEX = re.compile(r"^(?P<lemma>\S+) n (?P<senses>\d+) (?P<rest>[^|]*?)\s*$")
_SYNSET = re.compile(r"^(?P<place>\d{8}) \d\d n (?P<words>[0-9a-f]{2}) (?P<rest>[^|]*)")


@dataclass(frozen=True)
class WordNet:
    """Nouns: names are keys as `fold_name` makes them.

    Attributes:
        senses: name → its senses, most frequent first.
        above: sense → the senses of its hypernyms.
        words: sense → its first word, with blanks.
        content: digest of the files.
    """

    senses: Mapping[str, tuple[int, ...]]
    above: Mapping[int, tuple[int, ...]]
    words: Mapping[int, str]
    content: str

    def digest(self) -> str:
        """See Source."""
        return self.content

    def path(self, sense: int) -> list[int]:
        """A sense and what stands above it, by first hypernyms, up to the top."""
        found = [sense]
        while self.above.get(found[-1]) and self.above[found[-1]][0] not in found:
            found.append(self.above[found[-1]][0])
        return found

    def sense_of(self, name: str) -> int | None:
        """The sense that is taken of a name; None where WordNet lacks it."""
        senses = [each for each in self.senses.get(fold_name(name), ()) if self.above.get(each)]
        physical: list[int] = []
        people: list[int] = []
        for sense in senses:
            words = {self.words[each] for each in self._all_above(sense)}
            if PHYSICAL in words:
                (people if PERSON in words else physical).append(sense)
        return next(iter([*physical, *people, *senses]), None)

    def _all_above(self, sense: int) -> set[int]:
        """The sense and all above it, over all hypernyms."""
        found, waiting = {sense}, [sense]
        while waiting:
            new = set(self.above.get(waiting.pop(), ())) - found
            found |= new
            waiting += new
        return found

    def tree(self, names: Sequence[str]) -> Tree:
        """See Source. Names of one sense ("cougar", "puma") stand side by side below its hypernym.

        A name that is also the first word of a synset above others is an inner node.
        """
        parents: dict[str, str] = {}
        written: dict[str, str] = {}
        titles = self._titles(names)
        for name in names:
            key = fold_name(name)
            if not key:
                continue
            sense, whole = self.sense_of(name), True
            words = key.split()
            while sense is None and len(words) > 1:
                words, whole = words[1:], False
                sense = self.sense_of(" ".join(words))
            if sense is None:
                continue
            path = [titles[each] for each in self.path(sense)]
            own = [name, *(path[1:] if whole else path)]
            keys = [fold_name(each) for each in own]
            for place, (each, shown) in enumerate(zip(keys, own, strict=True)):
                written.setdefault(each, shown)
                above = keys[place + 1] if place + 1 < len(keys) else ""
                if above != each:
                    parents.setdefault(each, above)
        return build_tree(parents, written, names)

    def _titles(self, names: Sequence[str]) -> _Titles:
        return _Titles(self, names)


class _Titles:
    """A title per sense: its first word, with the sense's number where another sense has the same one."""

    def __init__(self, wordnet: WordNet, names: Sequence[str]) -> None:
        self.wordnet = wordnet
        self.taken: dict[str, int] = {}
        for name in names:  # a name keeps its own spelling
            sense = wordnet.sense_of(name)
            if sense is not None:
                self.taken.setdefault(fold_name(name), sense)

    def __getitem__(self, sense: int) -> str:
        word = self.wordnet.words[sense]
        if self.taken.setdefault(fold_name(word), sense) == sense:
            return word
        title = f"{word} {sense}"
        self.taken.setdefault(fold_name(title), sense)
        return title


def read_wordnet(folder: str) -> WordNet:
    """Read WordNet's nouns from a folder.

    Raises:
        KindsError: a file is missing (the message names the package that has it), or has another format.
    """
    data = []
    for name in _FILES:
        place = storage.join(folder, name)
        try:
            data.append(storage.read_bytes(place))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise KindsError(
                f"hierarchy.path: there is no file {place}; it is part of WordNet 3, which the package wordnet-base of "
                f"Debian and Ubuntu puts into {FOLDER} (apt-get install wordnet-base)"
            ) from None
    return _parsed(folder, *data)


@lru_cache(maxsize=1)  # 20 MB are parsed in a second or two, and a run asks for them once per stage
def _parsed(folder: str, index: bytes, synsets: bytes) -> WordNet:
    above: dict[int, tuple[int, ...]] = {}
    words: dict[int, str] = {}
    for number, line in _lines(synsets):
        found = _SYNSET.match(line)
        if found is None:
            raise _wrong(folder, "data.noun", number, line)
        cells = found["rest"].split()
        count = int(found["words"], 16)
        place = int(found["place"])
        try:
            pointers = cells[2 * count + 1 : 2 * count + 1 + 4 * int(cells[2 * count])]
            hypernyms = [int(to) for sign, to in zip(pointers[::4], pointers[1::4], strict=True) if sign == "@"]
        except (IndexError, ValueError):
            raise _wrong(folder, "data.noun", number, line) from None
        words[place], above[place] = cells[0].replace("_", " "), tuple(hypernyms)
    senses: dict[str, tuple[int, ...]] = {}
    for number, line in _lines(index):
        found = _INDEX.match(line)
        cells = [] if found is None else found["rest"].split()
        if found is None or len(cells) < int(found["senses"]):
            raise _wrong(folder, "index.noun", number, line)
        places = tuple(int(cell) for cell in cells[-int(found["senses"]) :])
        if not all(place in words for place in places):
            raise KindsError(
                f"hierarchy.path: line {number} of {storage.join(folder, 'index.noun')} names a synset that data.noun "
                "lacks: the two files are of different releases"
            )
        senses.setdefault(fold_name(found["lemma"].replace("_", " ")), places)
    if not senses:
        raise KindsError(f"hierarchy.path: there is no noun in {storage.join(folder, 'index.noun')}")
    content = hashlib.sha256(index + synsets).hexdigest()
    return WordNet(senses, above, words, content)


def _lines(data: bytes) -> list[tuple[int, str]]:
    """Numbered lines without the licence, whose lines begin with two blanks."""
    text = data.decode("utf-8-sig", errors="replace").split("\n")
    return [(number, line) for number, line in enumerate(text, start=1) if line.strip() and not line.startswith("  ")]


def _wrong(folder: str, name: str, number: int, line: str) -> KindsError:
    place = storage.join(folder, name)
    return KindsError(f"hierarchy.path: line {number} of {place} is no line of WordNet's {name}: {line[:80]!r}")
