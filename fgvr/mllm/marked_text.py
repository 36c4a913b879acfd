"""Quoted and marked words of a text, set off so that other rules neither cut them nor take their marks for a name's.

"The label is **tiger lily**" bounds its name; `*NSYNC`, `Toys "R" Us` and `'47 Brand` have marks of their own.
"""

from __future__ import annotations

import re

_QUOTES = (
    ('"', '"'),
    ("“", "”"),
    ("„", "“"),
    ("„", "”"),
    ("«", "»"),
    ("»", "«"),
    ("「", "」"),
    ("『", "』"),
    ("《", "》"),
    ("''", "''"),
)
_OPEN, _BOLD = 0xE000, 0xE0E0  # private code points: the n-th pair of quotes opens with _OPEN + 2n, bold with _BOLD
_ENDERS = {ord("."): "\ue0f0", ord("!"): "\ue0f1", ord("?"): "\ue0f2"}
_ENDERS_BACK = {ord(mark): chr(ender) for ender, mark in _ENDERS.items()}
_SINGLE = re.compile(r"(?<![\w'’‘])(?P<open>['‘])(?=\S)(?P<inside>(?:[^'‘’\n]|['’](?=\w)){1,120})['’](?!\w)")
_MARKED = re.compile(
    r"\*{2,3}(?=[^\s*])((?:[^*\n]|\*(?!\*)){1,200}?)(?<=\S)\*{2,3}|"
    r"(?<!\w)\*(?=[^\s*])([^*\n]{1,200}?)(?<=[^\s*])\*(?!\w)|"
    r"(?<!\w)_{1,3}(?=[^\s_])([^\n]{1,200}?)(?<=[^\s_])_{1,3}(?!\w)|`([^`\n]{1,200})`"
)
_LINK = re.compile(r"!?\[([^\[\]\n]{1,200})\]\((?:https?:|www\.|/|#)[^()\s]*\)")
_HEADING = re.compile(r"^\s*#{1,6}\s+", re.MULTILINE)


def protected(text: str) -> str:
    """Text in which quoted and marked words are set off by private code points, and their full stops end no sentence.

    `restored` takes them out again: quotes come back, bold and italic type does not.
    """
    text = re.sub(r"[\ue000-\ue0ff]", "", text)
    text = _HEADING.sub("", _LINK.sub(r"\1", text))
    text = _MARKED.sub(lambda found: _set_off(next(group for group in found.groups() if group), _BOLD), text)
    for number, (opening, closing) in enumerate(_QUOTES):
        if opening in text and closing in text:
            start, end = re.escape(opening), re.escape(closing)
            inside = rf"(?!\s)([^{start[-1]}{end[-1]}\n]{{1,120}})"
            for found in reversed(list(re.finditer(rf"(?<!\w){start}{inside}{end}(?!\w)", text))):
                text = text[: found.start()] + _set_off(found[1], _OPEN + 2 * number) + text[found.end() :]
    return _SINGLE.sub(
        lambda found: _set_off(found["inside"], _OPEN + 2 * (len(_QUOTES) + (found["open"] == "‘"))), text
    )


def _set_off(inside: str, opening: int) -> str:
    # The full stop that American rules put inside the quotes ends the sentence all the same.
    stop = "." if inside.endswith(".") and not inside.endswith("..") and len(inside) > 3 else ""
    inside = inside[:-1] if stop else inside
    return f"{chr(opening)}{inside.translate(_ENDERS)}{chr(opening + 1)}{stop}"


def restored(text: str) -> str:
    """Text as it was before `protected`, without bold and italic type."""
    if not re.search(r"[\ue000-\ue0ff]", text):
        return text
    text = without_bold(text).translate(_ENDERS_BACK)
    for number, (opening, closing) in enumerate((*_QUOTES, ("'", "'"), ("‘", "’"))):
        text = text.translate({_OPEN + 2 * number: opening, _OPEN + 2 * number + 1: closing})
    return text


def without_bold(text: str) -> str:
    """Protected text without bold and italic type; quotes stay set off."""
    return text.translate({_BOLD: None, _BOLD + 1: None})


def bold_words(text: str) -> list[str]:
    """What protected text has in bold or italic type, or as code, in its order."""
    return re.findall(f"{chr(_BOLD)}([^{chr(_BOLD + 1)}]*){chr(_BOLD + 1)}", text)


def bold_places(text: str) -> dict[int, str]:
    """Where in `without_bold(text)` bold words begin, and what they are."""
    places: dict[int, str] = {}
    taken = 0
    for found in re.finditer(f"{chr(_BOLD)}([^{chr(_BOLD + 1)}]*){chr(_BOLD + 1)}", text):
        places[found.start() - taken] = found[1]
        taken += 2
    return places


def quoted(text: str) -> tuple[str, str] | None:
    """What a protected text that begins with a quotation quotes, and the rest; None where it does not."""
    if not text or not _OPEN <= ord(text[0]) < _BOLD + 2 or ord(text[0]) % 2:
        return None
    end = text.find(chr(ord(text[0]) + 1))
    return None if end < 0 else (text[1:end], text[end + 1 :])
