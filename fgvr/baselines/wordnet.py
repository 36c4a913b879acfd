"""All nouns of WordNet as a vocabulary: the label set of ZS-CLIP-WordNet (NeaR, table 2)."""

from __future__ import annotations

import re

from fgvr import storage
from fgvr.baselines import BaselineError

# wndb(5WN): lemma, part of speech, number of synsets, number of pointer kinds, …; licence lines begin with two blanks.
_LINE = re.compile(r"^(?P<lemma>\S+) n \d+ \d+ ")


def read_nouns(uri: str) -> list[str]:
    """The noun lemmas of a WordNet index file, `_` as a blank, in the file's order (alphabetical, lower case).

    Args:
        uri: `index.noun` of any WordNet 3 release; 117,798 lemmas in WordNet 3.0.

    Raises:
        BaselineError: there is no such file (the message names the package that has it), or it is of another format.
    """
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig", errors="replace")
    except (FileNotFoundError, IsADirectoryError):
        raise BaselineError(
            f"baselines.wordnet.path: there is no file {uri}; it is index.noun of WordNet 3, which the package "
            "wordnet-base of Debian and Ubuntu puts into /usr/share/wordnet (apt-get install wordnet-base)"
        ) from None
    nouns: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("  ") or not line.strip():
            continue
        found = _LINE.match(line)
        if found is None:
            raise BaselineError(
                f"baselines.wordnet.path: line {number} of {uri} is no line of WordNet's index.noun "
                f"(`lemma n synsets pointers …`): {line[:80]!r}"
            )
        nouns.setdefault(found["lemma"].replace("_", " "))
    if not nouns:
        raise BaselineError(f"baselines.wordnet.path: there is no noun in {uri}")
    return list(nouns)
