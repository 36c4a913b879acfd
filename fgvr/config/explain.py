"""What is wrong with a config, in a line that names the field, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any, Final

from pydantic import BaseModel

from fgvr.config.run import Config
from fgvr.config.tree import known_branches, known_leaves, parts_at

OWN_FLAGS: Final = ("config", "plan", "help")
"""Of every script, besides the fields of the config."""

WRITTEN: Final = {
    "tuple_type": ", a list such as [a, b]",
    "dict_type": ", a mapping such as {name: value}",
    "bool_parsing": ", true or false",
}
"""How values of a type are written, by the type of pydantic's error."""


def explain(problem: Any) -> str:
    """One of pydantic's `ValidationError.errors()` in words."""
    place = field_of(problem["loc"])
    value = problem.get("input")
    context = problem.get("ctx") or {}
    match problem["type"]:
        case "extra_forbidden":
            return f"{place}: {_unknown(place)}"
        case "union_tag_invalid":
            return f"{place}.kind = {context['tag']!r}: should be {context['expected_tags'].replace(', ', ' or ')}"
        case "union_tag_not_found":
            return f"{place}.kind: required, {' or '.join(map(repr, _kinds(place)))}"
        case "model_type" | "model_attributes_type":
            return f"{place} = {value!r}: this part has fields of its own ({_instead(place, value)})"
        case "missing":
            part, _, last = place.rpartition(".")
            too_short = f"{part}: has too few values"
            return too_short if last.isdecimal() else f"{place}: required; give it in the config or as --{place} VALUE"
    shown = f" = {value!r}" if not isinstance(value, dict | BaseModel) else ""
    said = problem["msg"].removeprefix("Value error, ")  # of a validator here, which says it in words of its own
    said = said.replace("Input should", "should").replace("String should", "should").partition(", unable to ")[0]
    said += _hint(problem["type"], place, value)
    return f"{place}{shown}: {said}" if place else said


def _instead(place: str, value: Any) -> str:
    """What was meant by a part that is given as one value: its kind, or one of its fields."""
    if value in _kinds(place):
        return f"did you mean {place}.kind = {value!r}?"
    items = [f"{place}.{name}" for part in parts_at(Config, place).values() for name in part.model_fields]
    below = dict.fromkeys(leaf.name for leaf in known_leaves(Config) if leaf.name.startswith(f"{place}."))
    listed = f"{', '.join(list(below or dict.fromkeys(items))[:3])} …"
    return f"{listed}; --help {place} lists them" if below else listed


def _kinds(place: str) -> Collection[str]:
    """The kinds of a part, or of an item of a list of parts."""
    return [kind for kind in parts_at(Config, place) if kind]


def _hint(kind: str, place: str, value: Any) -> str:
    """How a value is written that people write otherwise."""
    if kind == "string_pattern_mismatch":
        return "".join(f". {leaf.meaning}" for leaf in known_leaves(Config) if leaf.name == place)
    if isinstance(value, str) and "," in value and place.rpartition(".")[2].isdecimal():  # one value of a list
        return f"; several values are a list: [{', '.join(part.strip() for part in value.split(','))}]"
    if kind == "float_parsing" and "," in value:
        return ", with a point and not a comma"
    return WRITTEN.get(kind, "")


def field_of(loc: tuple[Any, ...]) -> str:
    """The field's name, without the alternative of a union, which pydantic has in the path: that is in `kind`."""
    place = ""
    for part in map(str, loc):
        # Only there: `clip` and `folder` are names of fields, too.
        if part not in parts_at(Config, place):
            place = f"{place}.{part}" if place else part
    return place


def _unknown(place: str) -> str:
    """A field of other kinds of its part, or of none."""
    part, _, field = place.rpartition(".")
    found = [leaf.kind for leaf in known_leaves(Config) if leaf.name == place]
    if found and not any(found):  # a field of a part without kinds, whose whole name is given as one key
        return f"a preset has parts: write {field} below {part.replace('.', ': ')}:"
    if found:
        return f"only with {part}.kind {' or '.join(map(repr, found))}"
    return f"there is no such field{suggestion(place)}"


def suggestion(place: str) -> str:
    """The field that was probably meant: a similar name in the same part, the same name elsewhere, a similar path."""
    known = [*dict.fromkeys(leaf.name for leaf in known_leaves(Config)), *known_branches(Config), *OWN_FLAGS]
    part, _, field = place.rpartition(".")
    known = list(
        dict.fromkeys(
            [*known, *(f"{part}.{name}" for each in parts_at(Config, part).values() for name in each.model_fields)]
        )
    )
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == part}
    if close := difflib.get_close_matches(field, list(beside), n=1, cutoff=0.7):
        return f"; did you mean {beside[close[0]]}?"
    if same := [name for name in known if name.rpartition(".")[2] == field][:3]:
        return f"; did you mean {' or '.join(same)}?"
    close = difflib.get_close_matches(place, known, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else " (--help all lists every field)"
