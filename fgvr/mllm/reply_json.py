"""Names in a reply that is JSON, or nearly: anywhere in the text, cut off, with single quotes or trailing commas."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

_BEST_FIRST = (
    (
        "finalanswer",
        "answer",
        "label",
        "finegrainedlabel",
        "classlabel",
        "finegrainedclasslabel",
        "bestlabel",
        "prediction",
    ),
    ("commonname", "productname", "englishname", "fullname", "name", "modelname", "displayname"),
    (
        "class",
        "classname",
        "finegrainedclass",
        "product",
        "title",
        "breed",
        "object",
        "item",
        "result",
        "identification",
    ),
    (
        "species",
        "category",
        "model",
        "output",
        "response",
        "guess",
        "text",
        "value",
        "bird",
        "car",
        "flower",
        "dog",
        "plant",
    ),
)
"""Keys under which models give the name, without case and marks; those of an earlier line go first: beside a common
name `species` is the Latin one."""
_RANK = {key: rank for rank, keys in enumerate(_BEST_FIRST) for key in keys}
_FLAT_LIMIT = 20
_KEY_AND_TEXT = re.compile(
    r"[\"'](?P<key>[\w -]{2,30})[\"']\s*:\s*(?:\[\s*)?(?P<quote>[\"'])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)"
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)+)"\s*(?=[,\]])|\'((?:[^\'\\]|\\.|\'(?=\w))+)\'\s*(?=[,\]])')
_VISIBLE_KEYS = {"visible", "isvisible", "present", "found"}


def json_names(text: str) -> list[str] | None:
    """The names that a JSON value in the text holds, in its order, best key first.

    Returns:
        None where there is no JSON; an empty list, or one with an empty text, where the JSON names nothing (null).
    """
    for value in _values(text):
        if (names := _names_in(value)) is not None:
            return names
    return _from_fragments(text)


def _values(text: str) -> Iterator[Any]:
    """JSON objects and lists in the text, then what reads as Python's."""
    decoder = json.JSONDecoder()
    starts = [start.start() for start in re.finditer(r"[\[{]", text)]
    for start in starts:
        try:
            value, _ = decoder.raw_decode(text, start)
        except ValueError:  # also for a number of thousands of digits
            continue
        except RecursionError:  # brackets without end; from the next one on there are hardly fewer
            return
        yield value
    for start in starts[:1]:
        end = max(text.rfind("}"), text.rfind("]")) + 1
        if 0 < end - start < 20_000:
            try:
                yield ast.literal_eval(text[start:end].strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                return


def _names_in(value: Any) -> list[str] | None:
    """["a", "b"], [{"label": "a", …}, …], {"labels": [...]}, {"1": "a", "2": "b"} or {"a": 0.7, "b": 0.2}."""
    if isinstance(value, list | tuple):
        found = (_name_of(item) if isinstance(item, dict) else item for item in value)
        names = [item for item in found if isinstance(item, str)]
        return names if names or not value or None in value else None
    if not isinstance(value, dict):
        return None
    named = _name_of(value)
    return _names_in_fields(value) if named is None else [named]


def _names_in_fields(value: dict[Any, Any]) -> list[str] | None:
    """The names in an object without a field that is known to hold one."""
    nested = (_names_in(item) for item in value.values() if isinstance(item, list | dict))
    if inner := next((names for names in nested if names), None):
        return inner
    if value and all(isinstance(item, int | float) for item in value.values()):
        return None if _VISIBLE_KEYS & {_plain(key) for key in value} else list(map(str, value))
    texts = [item for item in value.values() if isinstance(item, str)]
    return texts or ([""] if value and all(item is None for item in value.values()) else None)


def _name_of(item: dict[Any, Any]) -> str | None:
    """The value of the field that holds the name: a text, a list of one text, or "" for null."""
    ranked = sorted((key for key in item if _plain(key) in _RANK), key=lambda key: _RANK[_plain(key)])
    for key in ranked:
        value = item[key]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            return value
        if isinstance(value, dict) and (inner := _name_of(value)) is not None:
            return inner
    return "" if ranked and all(item[key] is None for key in ranked) else None


def _plain(key: Any) -> str:
    return re.sub(r"[^a-z]", "", str(key).lower())


def _from_fragments(text: str) -> list[str] | None:
    """Names in what was meant to be JSON: a field with its text, or the closed texts of a list that never closes."""
    fields = [
        (_RANK[_plain(field["key"])], place, field["text"])
        for place, field in enumerate(_KEY_AND_TEXT.finditer(text))
        if _plain(field["key"]) in _RANK
    ]
    if fields:
        best = min(fields)[0]
        return [_unescaped(found) for rank, _, found in fields if rank == best]
    begin = text.find("[")
    found = [double or single for double, single in _QUOTED.findall(text[begin:])] if begin >= 0 else []
    return [_unescaped(item) for item in found] or None


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text.replace('\\"', '"').replace("\\'", "'")
