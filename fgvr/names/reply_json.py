"""Names in a reply that is JSON or nearly so: anywhere in the text, cut off, with single quotes or trailing commas."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from fgvr.names.reply import table_names

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
"""Keys under which models give the name, in folded form; keys of an earlier line are preferred: next to a common name,
`species` is the Latin one."""
_RANK = {key: rank for rank, keys in enumerate(_BEST_FIRST) for key in keys}
_ENDS = re.compile(r"(?:label|class|name|species|breed|answer|prediction|product)$")  # "predicted_class", "label_1"
_OTHER_NAMES = re.compile(r"scientific|latin|binomial|genus|family|brand|make|file|image")
_MORE = re.compile(r"^(?:alternative|other|candidate|second|further)")
_KEY_AND_TEXT = re.compile(
    r"(?<!\w)[\"']?(?P<key>[A-Za-z][\w -]{1,30})[\"']?\s*:\s*(?:\[\s*)?(?:(?P<quote>[\"'])(?P<text>(?:\\.|"
    r"(?!(?P=quote)).)*)(?P=quote)|(?P<bare>[^\s\"'\[{][^\n,}\]\"]*)(?=\s*[,}\n])|[\"'](?P<open>[^\n,}\"']+)(?=\}))"
)
_ONE_FIELD = re.compile(r"^[\"'][\w -]{2,30}[\"']\s*:")
_PERCENT = re.compile(r"^\s*(?:\d{1,3}(?:\.\d+)?\s*%?|0?\.\d+)\s*$")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)+)"\s*(?=[,\]])|\'((?:[^\'\\]|\\.|\'(?=\w))+)\'\s*(?=[,\]])')
_VISIBLE_KEYS = {"visible", "isvisible", "present", "found"}


def structured_names(text: str) -> list[str] | None:
    """The names in a reply that is JSON, nearly JSON or a table; None if it is neither."""
    if re.search(r"[{]|\[\s*[\[\"'“{]|^[\[(]", text) or _ONE_FIELD.match(text):
        names = json_names(text)
        if names is not None:
            return names
    return table_names(text)


def json_names(text: str) -> list[str] | None:
    """The names in the text's JSON, in order, from the best key.

    Returns:
        None if there is no JSON; an empty list, or one with an empty text, if the JSON names nothing (null).
    """
    if re.match(r"\(\s*[\"'].*\)\W*$", text, re.DOTALL):
        text = f"[{text.strip(' .')[1:-1]}]"
    if "{“" in text or "[“" in text:
        text = text.translate({ord("“"): '"', ord("”"): '"'})
    found = [names for value in _values(text) if (names := _names_in(value)) is not None]
    found = [names for names in found if names or text.lstrip()[:1] in "[{"]  # "- [ ] an item"
    if found:  # one object per line is also a list
        single = all(len(names) == 1 for names in found)
        return [names[0] for names in found] if single else found[0]
    return _from_fragments(text)


def _values(text: str) -> Iterator[Any]:
    """JSON objects and lists in the text, then Python literals."""
    decoder = json.JSONDecoder()
    starts = [start.start() for start in re.finditer(r"[\[{]", text)]
    end = 0
    for start in starts:
        if start < end:
            continue
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:  # also raised for numbers with thousands of digits
            continue
        except RecursionError:  # endlessly nested brackets; starting at the next one would not help
            return
        yield value
    for start in starts[:1] if not end else []:
        end = max(text.rfind("}"), text.rfind("]")) + 1
        if 0 < end - start < 20_000:
            try:
                yield ast.literal_eval(text[start:end].strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                return


def _names_in(value: Any) -> list[str] | None:
    """["a", "b"], [{"label": "a", …}, …], {"labels": [...]}, {"1": "a", "2": "b"} or {"a": 0.7, "b": 0.2}."""
    if isinstance(value, list | tuple):
        found = (_name_of(item) if isinstance(item, dict) else _first(item) for item in value)
        names = [item for item in found if isinstance(item, str)]
        return names if names or not value or None in value else None
    if not isinstance(value, dict):
        return None
    call = value.get("arguments", value.get("parameters"))
    if isinstance(call, dict):
        return _names_in(call)
    named = _name_of(value)
    if named is None:
        return _names_in_fields(value)
    more = (item for key, item in value.items() if _MORE.match(_plain(key)) and isinstance(item, list))
    return [named, *(name for item in more for name in _names_in(item) or [])] if named else [named]


def _first(item: Any) -> Any:
    """The name in a pair of name and number: ["Tree Pipit", 0.6]."""
    return item[0] if isinstance(item, list | tuple) and item else item


def _names_in_fields(value: dict[Any, Any]) -> list[str] | None:
    """The names in an object that has no known name field."""
    if numbered := [item for key, item in value.items() if re.search(r"\d$", str(key)) and isinstance(item, str)]:
        return numbered
    if _VISIBLE_KEYS & {_plain(key) for key, item in value.items() if item is False}:
        return ["not visible"]
    if value and all(_is_how_sure(item) for item in value.values()) and not _VISIBLE_KEYS & set(map(_plain, value)):
        return list(map(str, value))
    nested = (_names_in(item) for item in value.values() if isinstance(item, list | dict))
    if inner := next((names for names in nested if names), None):
        return inner
    texts = [item for item in value.values() if isinstance(item, str)]
    return texts or ([""] if value and all(item is None for item in value.values()) else None)


def _is_how_sure(item: Any) -> bool:
    """Whether a value is the model's confidence in the name that is its key: 0.7, "70%", {"confidence": 0.7}."""
    if isinstance(item, dict):
        return bool(item) and all(isinstance(inner, int | float) for inner in item.values())
    return isinstance(item, int | float) or (isinstance(item, str) and _PERCENT.match(item) is not None)


def _rank_of(key: Any) -> int | None:
    """How reliably a key holds the name, 0 is best; None if it does not."""
    plain = _plain(key)
    if plain in _RANK:
        return _RANK[plain]
    return len(_BEST_FIRST) if _ENDS.search(plain) and not _OTHER_NAMES.search(plain) else None


def _name_of(item: dict[Any, Any]) -> str | None:
    """The value of the name field: a text, the first text of a list, or "" for null."""
    ranks = {key: rank for key in item if (rank := _rank_of(key)) is not None and not re.search(r"\d$", str(key))}
    ranked = sorted(ranks, key=ranks.__getitem__)
    made = {_plain(key): str(value) for key, value in item.items() if isinstance(value, str | int)}
    make = made.get("make") or made.get("brand") or made.get("manufacturer")
    model = made.get("model") or made.get("modelname") or made.get("product")
    if make and model and (not ranked or ranks[ranked[0]] > 1 or _plain(ranked[0]) == "modelname"):
        return composed_name(make, model, made.get("year", ""))
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
    """Names in broken JSON: a name field with its text, or the complete texts of a list that is never closed."""
    fields = [
        (rank, place, field["text"] or field["bare"] or field["open"] or "")
        for place, field in enumerate(_KEY_AND_TEXT.finditer(text))
        if (rank := _rank_of(field["key"])) is not None
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


def composed_name(make: str, model: str, year: str) -> str:
    """A name composed from parts: "Audi", "A4", "2012"; a part contained in another one is not repeated."""
    start = "" if model.casefold().startswith(make.casefold()) else f"{make} "
    return f"{start}{model}" + (f" {year}" if year and year not in model else "")
