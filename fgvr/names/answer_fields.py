"""Answers in fields ("Final answer: …", "Common name: …", "Species: …"): the value of the most reliable field."""

from __future__ import annotations

import re

from fgvr.names.name_text import count_words, trimmed, without_list_mark
from fgvr.names.refusals import says_nothing_there
from fgvr.names.reply_json import composed_name
from fgvr.names.sentences import restored, sentences, without_bold
from fgvr.names.spelling import spelling_key

_MODEL_WORDS = 8
_ADJECTIVE = (
    r"(?:best|most|educated|if\s+i\s+had\s+to\s+(?:choose|pick|give)|"
    r"as|likely|probable|fine[- ]grained|final|predicted|correct|closest|top|single|specific|possible|"
    r"overall|suggested|proposed|"
    r"appropriate|suitable|primary|common|english|full|short|my|detailed|exact|precise|estimated|main|vernacular|"
    r"product|image|object|"
    r"bird|dog|cat|flower|plant|car|item|animal|aircraft|vehicle|insect|fish|food|brand|class|species|breed|"
    r"category|model|one|word|#?\d+)"
)
_BEST_FIELD = (
    r"(?:label|class\s*label|answer|ans|prediction|guess|classification|identification|response|conclusion|verdict|"
    r"result|rank|top-1|output|match|solution|decision|pick|final|fine[- ]grained|identified(?:\s+as)?|detected|"
    r"requested)"
)
_NAME_FIELD = r"(?:name|product|title|item|object|subject|image|photo|picture)"
_KIND_FIELD = (
    r"(?:class|species|breed|category|model|variety|type|option\s+[a-h\d]|choice|candidate|make\s+and\s+model)"
)
_THING_FIELD = r"(?:bird|flower|plant|dog|cat|car|vehicle|aircraft)"
_FIELD = re.compile(
    rf"^(?:(?:therefore|thus|so|hence|finally|then),?\s+)?(?:the\s+|a\s+|an\s+|"
    rf"its\s+)?(?P<of>(?:{_ADJECTIVE}\s+){{0,5}}(?:(?-i:[a-z-]{{3,20}})\s+)?)(?:(?P<best>{_BEST_FIELD})|"
    rf"(?P<named>{_NAME_FIELD})|(?P<kind>{_KIND_FIELD})|(?P<thing>{_THING_FIELD})|(?P<letter>[A-H]))"
    r"(?:\s+(?:for|of|in)\s+(?:this|the)\s+(?:\w+\s+){0,3}?(?:image|photo|picture|photograph|bird|plant|flower|"
    r"object|item|product))?(?:\s+of)?(?:\s+\(?(?:#?\d|[a-z]+\s+name)\)?)?(?:\s+(?:is|would\s+be|could\s+be|"
    r"might\s+be))?\s*"
    r"(?:(?<!\d)[:=]+|[:=]+(?!\d)|[-=]?>|[→⇒➡]\ufe0f?|(?-i:(?<=[a-z])\s[-–—]\s(?=[A-Z])))\s*(?P<value>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_MAKE = re.compile(r"^(?:make|brand|manufacturer)\s*[:=]\s*(?P<value>\S.*)$", re.IGNORECASE)
_MODEL = re.compile(r"^(?:model|model\s+name|product)\s*[:=]\s*(?P<value>\S.*)$", re.IGNORECASE)
_YEAR = re.compile(r"^(?:model\s+)?year\s*[:=]\s*(?P<value>\d{4})\b", re.IGNORECASE)
_LATIN_FIELD = re.compile(
    r"\b(?:scientific|latin|binomial|botanical|taxonomic|genus|family|order|kingdom|brand|make|colou?r|age|sex|"
    r"country)\b",
    re.IGNORECASE,
)
_COMMON_FIELD = re.compile(r"\b(?:common|english|vernacular|product)\b", re.IGNORECASE)
_FINAL_FIELD = re.compile(r"\b(?:final|correct|conclusion)\b", re.IGNORECASE)


def best_field(text: str) -> str | None:
    """The value of the field most likely to hold the name; None if a protected text has no such field."""
    found: list[tuple[int, int, str]] = []
    pieces = sentences(text)
    if (composed := _make_and_model(pieces)) is not None:
        return composed
    for place, piece in enumerate(pieces):
        bare = without_bold(without_list_mark(piece.strip().lstrip("*#> ")))
        bare = re.sub(r"^[\[(]([A-Za-z ]{4,20})[\])]:?\s(?=\S)", r"\1: ", bare)  # "[Label] Tree Pipit"
        field = _FIELD.match(bare)
        if field is None:
            heading = _FIELD.match(f"{spelling_key(restored(bare))[:60]}: x")
            if place + 1 < len(pieces) and heading is not None and not heading["thing"] and not heading["letter"]:
                found.append((3, place, pieces[place + 1]))
            continue
        said = field["of"]
        if _LATIN_FIELD.search(said) or (field["letter"] and place > 0):
            continue
        value = field["value"].strip() or (pieces[place + 1] if place + 1 < len(pieces) else "")
        if not re.search(r"\w", value) or says_nothing_there(restored(value)):
            continue
        if field["thing"] and re.match(r"(?:an?|the)\s", value):
            continue  # "cat: a small animal" explains a name
        found.append((_rank(field), place, value))
    return min(found)[2] if found else None


def _rank(field: re.Match[str]) -> int:
    """How reliably a field holds the name; 0 is best."""
    if _FINAL_FIELD.search(field[0][: field.start("value")]):
        return 0
    if field["best"]:
        return 1
    return 2 if _COMMON_FIELD.search(field["of"]) or (field["named"] and not field["of"]) else 4


def _make_and_model(pieces: list[str]) -> str | None:
    """The name composed from parts of an answer: "Make: Audi", "Model: A4", "Year: 2012"."""
    plain = [restored(without_list_mark(piece.strip().lstrip("*#> "))) for piece in pieces]
    make, model, year = (
        next((trimmed(found["value"]) for piece in plain if (found := pattern.match(piece))), "")
        for pattern in (_MAKE, _MODEL, _YEAR)
    )
    if not make or not model or count_words(make) > 3 or count_words(model) > _MODEL_WORDS:
        return None
    return composed_name(make, model, year)


def is_field(line: str) -> bool:
    """Whether a protected line is a field that holds a name, such as "Label: …"."""
    return _FIELD.match(without_bold(line)) is not None
