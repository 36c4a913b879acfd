"""The config tree as data: its fields with types and docstrings, and the values that flags and files give them."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel

_T = TypeVar("_T")
_BASIC: Final = "basic"
Basic: TypeAlias = Annotated[_T, _BASIC]
"""Marks a field that people change in their first runs: `--help` of the whole job lists these, some twenty of them.

A field inside a part's part is listed where that part is marked, too. Of a part of the whole tree the mark says that it
concerns every stage's script.
"""
_TUNED: Final = "tuned"
Tuned: TypeAlias = Annotated[_T, _TUNED]
"""Marks a field that people change when they tune one stage: only `--help` of that stage's own script lists it.

A part with this mark inside a stage's part lends it to the basic fields in it.
"""


@dataclass(frozen=True)
class Leaf:
    """A field that holds a value.

    Attributes:
        name: dotted, as on the command line.
        annotation: its type.
        meaning: its docstring; of a `kind` that of the part it chooses.
        default: PydanticUndefined where a value is required.
        limits: what pydantic checks besides the type (`annotated_types`).
        kind: of the alternative that it belongs to; "" where its part is no union.
        basic: whether it is marked so, and all parts that it is inside of.
        tuned: the same, but some of these marks are `Tuned`; every basic field counts.
    """

    name: str
    annotation: Any
    meaning: str
    default: Any
    limits: tuple[Any, ...]
    kind: str
    basic: bool
    tuned: bool


@dataclass(frozen=True)
class Branch:
    """A field that holds a part, with fields of its own.

    Attributes:
        name: dotted.
        meaning: its docstring, else that of the part's class.
        kinds: of a union of parts, the alternatives' `kind`; () of a single part.
        default_kind: the one that holds without another; null where the part is none then.
        basic: whether it is marked so.
    """

    name: str
    meaning: str
    kinds: tuple[str, ...]
    default_kind: str
    basic: bool


def leaves(
    model: type[BaseModel],
    prefix: str = "",
    made: BaseModel | None = None,
    kind: str = "",
    around: frozenset[str] = frozenset({_BASIC, _TUNED}),
) -> Iterator[Leaf]:
    """Every leaf field below `model`; of a union of parts, those of all alternatives one after the other.

    Args:
        model: the part.
        prefix: its dotted name, with a dot behind it.
        made: what the field above has as its default, whose values are those of its fields: a part may set its own.
        kind: of the part, where it is one of several.
        around: the marks that the parts around it allow.
    """
    for name, info in model.model_fields.items():
        place, marks = f"{prefix}{name}", around & _marks(info.metadata)
        default = getattr(made, name) if made is not None else info.get_default(call_default_factory=True)
        parts = parts_of(info.annotation)
        if not parts:
            meaning = info.description or (_title(model) if name == "kind" else "")
            limits, basic, tuned = tuple(info.metadata), _BASIC in marks, _TUNED in marks
            yield Leaf(place, info.annotation, meaning, default, limits, kind, basic, tuned)
        for part in parts:
            same = default if type(default) is part else None
            yield from leaves(part, f"{place}.", same, _kind(part), marks if prefix else around)


def _marks(metadata: list[Any]) -> frozenset[str]:
    """The marks that a field has; a basic one is among those that are tuned, too."""
    return frozenset({_BASIC, _TUNED} if _BASIC in metadata else {_TUNED} if _TUNED in metadata else ())


def branches(model: type[BaseModel], prefix: str = "") -> Iterator[Branch]:
    """Every part below `model`, a part before those inside it."""
    for name, info in model.model_fields.items():
        parts = parts_of(info.annotation)
        if not parts:
            continue
        place, default = f"{prefix}{name}", info.get_default(call_default_factory=True)
        kinds = tuple(filter(None, map(_kind, parts)))
        made = _kind(type(default)) if isinstance(default, BaseModel) else "null"
        yield Branch(place, info.description or _title(parts[0]), kinds, made, _BASIC in info.metadata)
        for part in parts:
            yield from branches(part, f"{place}.")


@cache
def known_leaves(model: type[BaseModel]) -> tuple[Leaf, ...]:
    """All leaf fields of `model`, found once."""
    return tuple(leaves(model))


@cache
def known_branches(model: type[BaseModel]) -> dict[str, Branch]:
    """All parts below `model` by their dotted names, found once."""
    return {branch.name: branch for branch in branches(model)}


def parts_of(annotation: Any) -> list[type[BaseModel]]:
    """The alternatives of a type that are parts of the tree, and not values."""
    return [option for option in options(annotation) if isinstance(option, type) and issubclass(option, BaseModel)]


def parts_at(model: type[BaseModel], place: str) -> dict[str, type[BaseModel]]:
    """Kind → part, of a part or an item of a list, by its dotted name (`label.sources.0.mllm`); empty for a value."""
    found: list[Any] = [model]
    for step in place.split("."):
        found = [inner for each in found for inner in _inside(each, step)]
    return {_kind(part): part for each in found for part in parts_of(each)}


def _inside(annotation: Any, step: str) -> tuple[Any, ...]:
    """The alternatives of what a list or a part holds under a number or a name."""
    if get_origin(annotation) is tuple:
        return options(get_args(annotation)[0]) if step.isdecimal() else ()
    below = [part.model_fields[step] for part in parts_of(annotation) if step in part.model_fields]
    return tuple(option for info in below for option in options(info.annotation))


def _kind(part: type[BaseModel]) -> str:
    return str(part.model_fields["kind"].default) if "kind" in part.model_fields else ""


def _title(part: type[BaseModel]) -> str:
    """The first paragraph of a part's docstring."""
    return (part.__doc__ or "").partition("\n\n")[0]


def options(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; the annotation alone where it is none."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(found for option in get_args(annotation) for found in options(option))
    return options(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else (annotation,)


def type_name(annotation: Any) -> str:
    """A type for people: `int or null`, `proden|ce|cc`, `list of file|ask`."""
    if get_origin(annotation) is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is tuple and (parts := parts_of(get_args(annotation)[0])):
        return f"list of {'|'.join(map(_kind, parts))}"
    if get_origin(annotation) is tuple and hasattr(get_args(annotation)[0], "__metadata__"):
        return f"tuple[{type_name(get_args(annotation)[0])}, ...]"
    names = [option.__name__ if isinstance(option, type) else str(option) for option in options(annotation)]
    return " or ".join("null" if name == "NoneType" else name.replace("typing.", "") for name in names)


def nested(path: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as {"a": {"b": value}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def flat(tree: dict[str, Any], part: str = "") -> dict[str, Any]:
    """The values of a tree by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{part}{key}.") if isinstance(value, dict) else {f"{part}{key}": value}
    return found


OF_A_MODEL: Final = ("pretrained", "weights", "revision")
"""Fields that say something about the model named beside them."""


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """`lower` overruled by `upper`, deeply; another `kind` starts afresh, and another `model` without weights and
    revision of the one before.
    """
    if _is_another("kind", lower, upper):
        return upper
    of_before = OF_A_MODEL if _is_another("model", lower, upper) else ()
    merged = {key: value for key, value in lower.items() if key not in of_before}
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def _is_another(key: str, lower: dict[str, Any], upper: dict[str, Any]) -> bool:
    """Whether both layers name a kind or a model, and not the same; `detect.model` is a part, and names none."""
    named = key in lower and key in upper and not isinstance(upper[key], dict)
    return named and upper[key] != lower[key]


def default_kinds(model: type[BaseModel]) -> dict[str, Any]:
    """The lowest layer: the `kind` of every union whose default is one of its parts (`mllm.kind: vllm` …)."""
    tree: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        default = info.get_default(call_default_factory=True)
        if not isinstance(default, BaseModel):
            continue
        if "kind" in type(default).model_fields:
            tree[name] = {"kind": default.kind}  # type: ignore[attr-defined]  # as the line above asked
        elif below := default_kinds(type(default)):
            tree[name] = below
    return tree


def given_tree(part: BaseModel) -> dict[str, Any]:
    """What was given when a part was made, as a tree; with its `kind`, which need not have been given."""
    tree = {name: whole_tree(getattr(part, name)) for name in type(part).model_fields if name in part.model_fields_set}
    return {"kind": part.kind, **tree} if "kind" in type(part).model_fields else tree  # type: ignore[attr-defined]


def whole_tree(value: Any) -> Any:
    """A part as a tree of all its values; another value as it is."""
    if not isinstance(value, BaseModel):
        return value
    return {name: whole_tree(getattr(value, name)) for name in type(value).model_fields}
