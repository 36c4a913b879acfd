"""The config tree as data: its fields with types and docstrings, and the values that flags and files give them."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


@dataclass(frozen=True)
class Leaf:
    """A field that holds a value: its dotted name, type, docstring and default (PydanticUndefined where required)."""

    name: str
    annotation: Any
    meaning: str
    default: Any


def leaves(model: type[BaseModel], prefix: str = "", made: BaseModel | None = None) -> Iterator[Leaf]:
    """Every leaf field below `model`; of a union of parts, those of all alternatives one after the other.

    `made`: what the field above has as its default, whose values are those of its fields: a part may set its own.
    """
    for name, info in model.model_fields.items():
        place = f"{prefix}{name}"
        default = getattr(made, name) if made is not None else info.get_default(call_default_factory=True)
        parts = [option for option in options(info.annotation) if is_part(option)]
        if not parts:
            yield Leaf(place, info.annotation, info.description or "", default)
        for part in parts:
            yield from leaves(part, f"{place}.", default if type(default) is part else None)


@cache
def known_leaves(model: type[BaseModel]) -> tuple[Leaf, ...]:
    """All leaf fields of `model`, found once."""
    return tuple(leaves(model))


def options(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; the annotation alone where it is none."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(found for option in get_args(annotation) for found in options(option))
    return options(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else (annotation,)


def is_part(annotation: Any) -> bool:
    """Whether a type is a part of the tree, and not a value."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def type_name(annotation: Any) -> str:
    """A type for people: `int or null`, `proden|ce|cc`."""
    if get_origin(annotation) is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    names = [option.__name__ if isinstance(option, type) else str(option) for option in options(annotation)]
    return " or ".join("null" if name == "NoneType" else name.replace("typing.", "") for name in names)


def nested(path: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as {"a": {"b": value}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """`lower` overruled by `upper`, deeply; another `kind` starts afresh."""
    if "kind" in upper and upper["kind"] != lower.get("kind", upper["kind"]):
        return upper
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


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
