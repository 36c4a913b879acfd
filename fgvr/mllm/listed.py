"""An answer that was asked for a list becomes the names in it: numbered, bulleted, in JSON, by commas, with chatter.

Only the text of each item is found here; `fgvr.mllm.answers.clean_answer` makes a name of it, or finds that it is none.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fgvr.mllm.answers import normalised
from fgvr.mllm.spelling import spelling_key

_NAME_KEYS = ("label", "name", "class", "species", "breed", "model", "answer")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)+)"\s*(?=[,\]])|\'((?:[^\'\\]|\\.|\'(?=\w))+)\'\s*(?=[,\]])')
_FIELD = r"(?:label|class|option|candidate|guess|choice|answer|name|species|breed|prediction|top)"
_NUMBERED = re.compile(
    rf"^\s*(?:[*_]{{2}})?(?:{_FIELD}\s*)?[(\[#]?\d{{1,2}}(?:[.):\]](?:[*_]{{2}})?\s*|\s+-\s+)", re.IGNORECASE
)
_BULLET = re.compile(r"^(?P<indent>\s*)(?:[-*+•–]|[a-hA-H][.)])\s+")
_INTRODUCTION = re.compile(
    r"^[^,;:]*\b(?:labels?|names?|classes|candidates?|species|breeds?|models?|options?|guesses|possibilities|answers?)\b"
    r"[^,;:]*?(?:\b(?:are|include|would be|could be)\b:?|:)\s*",
    re.IGNORECASE,
)
_CHATTER = re.compile(
    r"^\W*(?:sure|certainly|of course|okay|ok|here\s+(?:are|is)|based\s+on|note\b|please\b|i\s|i['’]|let\s+me|these\b|"
    r"hope\b|all\s+of\b|it\s+is\b|the\s+(?:image|photo|picture|above|exact)\b)|:\W*$",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"\b(?:is|are|was|appears?|seems?|looks?|shows?|depicts?|features?|can['’]?t|cannot)\b|['’]m\b", re.IGNORECASE
)
_SURE = re.compile(
    r"[\s,;:–—(-]*\d{1,3}(?:\.\d+)?\s*%.*$|\s*\((?:very\s+)?(?:most|likely|probab|possib|confiden)[^)]*\)",
    re.IGNORECASE,
)
_EXPLANATION = re.compile(r"(?:\*\*|__)?\s*(?:\s[-–—]+\s|:(?:\*\*|__)?\s)")
_ONLY_FIELD = re.compile(rf"^\W*{_FIELD}\W*$", re.IGNORECASE)


def listed_names(raw: str, most: int, cut: bool = False) -> list[str]:
    """The items of an answer in its order.

    Args:
        raw: the answer.
        most: names asked for; of a longer list the first ones are taken. A shorter one is taken as it is.
        cut: whether the answer was cut off: an item at its very end is lost then.

    Returns:
        Texts of 1 to `most` items, each to be cleaned; equal spellings once. Where the answer holds no list, it
        is the one item itself: a single name, a sentence with a name in it, or a refusal.
    """
    text = normalised(raw)
    items = _from_json(text) or _from_lines(text, most)
    if cut and items and text.rstrip(" *_\"'`").endswith(items[-1].strip(" *_\"'`")):
        items = items[:-1]
    distinct: dict[str, str] = {}
    for item in items:
        bare = _without_explanation(item)
        if key := spelling_key(bare):
            distinct.setdefault(key, bare)
    if items and not distinct:
        return [""]  # a list of nothing is no name, and its numbers are none
    return list(distinct.values())[:most] or [raw]


def _from_json(text: str) -> list[str]:
    """Names in a JSON list or object anywhere in the text; one that is cut off or has single quotes counts, too."""
    decoder = json.JSONDecoder()
    for start in re.finditer(r"[\[{]", text):
        try:
            value, _ = decoder.raw_decode(text, start.start())
        except ValueError:  # also for a number of thousands of digits
            continue
        except RecursionError:  # brackets without end; from the next one on there are hardly fewer
            break
        if names := _names_in(value):
            return names
    begin = text.find("[")
    return [double or single for double, single in _QUOTED.findall(text[begin:])] if begin >= 0 else []


def _names_in(value: Any) -> list[str]:
    """["a", "b"], [{"label": "a", …}, …], {"labels": [...]}, {"1": "a", "2": "b"} or {"a": 0.7, "b": 0.2}."""
    if isinstance(value, list):
        found = (_name_of(item) if isinstance(item, dict) else item for item in value)
        return [item for item in found if isinstance(item, str)]
    if not isinstance(value, dict):
        return []
    inner = next((_names_in(item) for item in value.values() if isinstance(item, list)), [])
    if inner:
        return inner
    if value and all(isinstance(item, int | float) for item in value.values()):
        return list(value)
    named = _name_of(value)
    return [named] if named is not None else [item for item in value.values() if isinstance(item, str)]


def _name_of(item: dict[str, Any]) -> str | None:
    """The value of the field that holds the name."""
    return next((item[key] for key in item if key.lower() in _NAME_KEYS and isinstance(item[key], str)), None)


def _from_lines(text: str, most: int) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    numbered = [_NUMBERED.sub("", line, count=1) for line in lines if _NUMBERED.match(line)]
    if len(numbered) > 1:
        return numbered
    if inline := _numbered_inline(text):
        return inline
    if numbered:
        return numbered
    bullets = [(found, line) for line in lines if (found := _BULLET.match(line))]
    if bullets:
        outermost = min(len(found["indent"]) for found, _ in bullets)
        return [line[found.end() :] for found, line in bullets if len(found["indent"]) == outermost]
    names = [line for line in lines if not _CHATTER.search(line)]
    if len(names) > 1:
        return names
    return _from_sentence(names[0] if names else text, most)


def _numbered_inline(text: str) -> list[str]:
    """The items of "… 1. House Sparrow, 2. Tree Pipit 3) Robin": numbers that rise by one from 1."""
    starts: list[re.Match[str]] = []
    while True:
        marker = re.compile(rf"(?:^|[\s,;:])[(\[#]?{len(starts) + 1}[.)\]:]\s*(?=\D)")
        found = marker.search(text, starts[-1].end() if starts else 0)
        if found is None:
            break
        starts.append(found)
    if len(starts) < 2:
        return []
    ends = [*(start.start() for start in starts[1:]), len(text)]
    return [text[start.end() : end].strip(" \n,;") for start, end in zip(starts, ends, strict=True)]


def _from_sentence(text: str, most: int) -> list[str]:
    """The items of "A, B, and C", "A; B; C", "A / B", "A or B", after an introduction; other sentences hold no list."""
    introduction = _INTRODUCTION.match(text)
    text = text[introduction.end() :] if introduction is not None else text
    if introduction is None and _SENTENCE.search(text):
        return []
    separator = next((mark for mark in (";", "|", ",", "、", " / ") if mark in text), None)
    pieces = [text] if separator is None else text.split(separator)
    pieces = [re.sub(r"^\s*(?:and|or)\s+", "", piece) for piece in pieces if piece.strip()]
    # "Black and White Warbler": "and" parts the last piece only where a name is missing.
    last = (
        re.split(r"\s+or\s+|\s+and\s+" if separator and len(pieces) < most else r"\s+or\s+", pieces[-1].strip(" ."))
        if pieces
        else []
    )
    return [*pieces[:-1], *last]


def _without_explanation(item: str) -> str:
    """The name before what is said of it: "**House Sparrow** (70%): small"; "Label: House Sparrow" keeps its name."""
    item = _SURE.sub("", item.strip())
    parts = [part for part in _EXPLANATION.split(item) if part.strip(" *_")]
    while len(parts) > 1 and _ONLY_FIELD.match(parts[0]):
        parts = parts[1:]
    return parts[0].strip(' \t,;.*_`"“”') if parts else ""
