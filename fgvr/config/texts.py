"""Texts of the config in which something is filled in, or that are said to a model: one that cannot work is refused."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

_PLACE = re.compile(r"\{(\w*)\}")


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: a model that is asked nothing answers anything")
    return text


def _with_name(text: str) -> str:
    """A template is filled by replacing {}, so that names may hold braces of their own."""
    if "{}" not in text:
        given = _PLACE.search(text)
        instead = "" if given is None else f", written {{}} and not {given[0]}"
        raise ValueError(
            f'has no place for the name{instead}: all names would look alike; write e.g. "a photo of a {{}}."'
        )
    if re.search(r"[{}]", text.replace("{}", "")):
        raise ValueError("has braces that are not filled in: only {} is, with the name")
    return text


def _with_count(text: str) -> str:
    if "{k}" not in _said(text):
        raise ValueError("has no {k}, the place for how many labels are asked for (label.listed)")
    return text


def _with_subject(text: str) -> str:
    filled = ("category", "unit", "expert")
    unknown = next((place for place in _PLACE.findall(_said(text)) if place not in {"", *filled}), None)
    if unknown is not None:
        raise ValueError(f"has {{{unknown}}}, which is not filled in: {{category}}, {{unit}} and {{expert}} are")
    return text


def _phrase(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: write null for a context that starts at random")
    if re.search(r"[{}]", text):
        raise ValueError("has braces, and nothing is filled in: where the name stands is near.name_position")
    return text


Prompt: TypeAlias = Annotated[str, AfterValidator(_said)]
"""What a model is asked or told: not empty."""
NameTemplate: TypeAlias = Annotated[str, AfterValidator(_with_name)]
"""A prompt of CLIP with {} in the place of the name."""
ListPrompt: TypeAlias = Annotated[str, AfterValidator(_with_count)]
"""A prompt with {k} in the place of a number."""
SubjectPrompt: TypeAlias = Annotated[str, AfterValidator(_with_subject)]
"""A prompt with places for what images show, what its kinds are called, and who knows them; it need not use them."""
Phrase: TypeAlias = Annotated[str, AfterValidator(_phrase)]
"""The beginning of a learned context."""
