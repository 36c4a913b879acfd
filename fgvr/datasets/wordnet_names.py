"""Names of WordNet ids (n01532829 → house finch), from ImageNet's lists or from WordNet itself."""

from __future__ import annotations

import re
from collections.abc import Collection

from fgvr import storage
from fgvr.datasets.layout import first
from fgvr.datasets.rows import SourceError

WORDNET = "/usr/share/wordnet/data.noun"
"""Where Debian's package wordnet-base puts WordNet 3.0."""

# ImageNet's words.txt and LOC_synset_mapping.txt: id, then synonyms with commas between.
_LISTED = re.compile(r"n(\d{8})\s+(\S[^,]*)")
# wndb(5WN): offset, lexicographer file, n, number of lemmas (hexadecimal), first lemma.
_SYNSET = re.compile(r"(\d{8}) \d\d n [0-9a-f]{2} (\S+) ")
# An id is an offset into the data file of one release. Of another release it is nothing, or another thing's.
_RELEASE = "WordNet 3.0"


def read_names(uri: str, ids: Collection[str], *, field: str) -> dict[str, str]:
    """The first name of each WordNet id, as words.

    Args:
        uri: lines `n01532829 house finch, linnet` (blanks or a tab between), or `data.noun` of WordNet 3.0.
        ids: such as n01532829.
        field: of the config, for messages.

    Raises:
        SourceError: the file has none of these formats, is of another release of WordNet, or lacks an id.
    """
    text = storage.read_bytes(uri).decode("utf-8-sig", errors="replace")
    names: dict[str, str] = {}
    of_wordnet = False
    for line in text.splitlines():
        found = _LISTED.match(line) or _SYNSET.match(line)
        if found is not None and f"n{found[1]}" in ids:
            names.setdefault(f"n{found[1]}", found[2].replace("_", " ").strip())
        of_wordnet |= found is not None and found.re is _SYNSET
    if of_wordnet and _RELEASE not in text[:4096]:
        raise SourceError(
            f"{field}: {uri} is not of {_RELEASE}, whose ids ImageNet has; other releases number otherwise"
        )
    unknown = sorted(set(ids) - set(names))
    if unknown:
        raise SourceError(
            f"{field}: {uri} has no name for {len(unknown)} of {len(ids)} classes ({first(unknown)}); a line is "
            "`n01532829 house finch, linnet`, or one of data.noun of WordNet 3.0"
        )
    return names
