"""The scientific name that an answer gives beside a common one: its own word that two names mean one species."""

from __future__ import annotations

import re

_MARKS = re.compile(r"\*{1,3}|_{2}|`|[\"“”]")
_BINOMIAL = r"(?P<latin>[A-Z][a-z]+ (?:[x×] )?[a-z]{3,})\b"
_AFTER = re.compile(
    rf"^(?:\s+(?:flower|plant|species)s?)?\s*(?:\((?:or\s+|also\s+)?|,?\s*(?:scientific|botanic|"
    rf"formal)ally\s+known\s+as\s+)"
    rf"(?:genus\s+|species\s+)?{_BINOMIAL}"
)
_BEFORE = re.compile(
    rf"{_BINOMIAL}(?:\s*\([^)]*\))?,?\s+(?:also\s+|more\s+)?commonly\s+(?:known|referred\s+to|"
    rf"called)(?:\s+as)?\s+(?:an?\s+|the\s+)?$"
)
_REACH = 100
"""Characters around a name in which its scientific name stands."""


def scientific_name(answer: str, name: str) -> str:
    """The genus and species that the answer gives right after or before `name`; "" where it gives none.

    "Lotus flower, scientifically known as *Nelumbo nucifera*" and "**Indigo Bunting** (*Passerina cyanea*)" have it
    behind, "Convolvulus sabatius, commonly known as dwarf morning glory" before. A genus alone is no species' name.
    """
    text = _MARKS.sub("", answer)
    for place in re.finditer(re.escape(name), text, re.IGNORECASE):
        found = _AFTER.match(text[place.end() : place.end() + _REACH])
        found = found or _BEFORE.search(text[max(0, place.start() - _REACH) : place.start()])
        if found is not None:
            return found["latin"]
    return ""
