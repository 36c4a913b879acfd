"""Text fields of the config that are prompts or templates; those that cannot work are refused."""

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
    """A template is filled in by replacing {}, so that names may contain braces of their own."""
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


def _with_choices(text: str) -> str:
    filled = ("question", "options", "name")
    places = _PLACE.findall(_said(text))
    missing = next((place for place in filled if place not in places), None)
    if missing is not None:
        raise ValueError(f"has no {{{missing}}}, which is filled in with the {missing} of each request")
    unknown = next((place for place in places if place not in filled), None)
    if unknown is not None:
        raise ValueError(f"has {{{unknown}}}, which is not filled in: {{question}}, {{options}} and {{name}} are")
    return text


def _with_asked(text: str) -> str:
    places = _PLACE.findall(_said(text))
    if "name" not in places:
        raise ValueError("has no {name}, which is filled in with what is asked about")
    unknown = next((place for place in places if place != "name"), None)
    if unknown is not None:
        raise ValueError(f"has {{{unknown}}}, which is not filled in: only {{name}} is")
    return text


def _phrase(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: write null for a context that starts at random")
    if re.search(r"[{}]", text):
        raise ValueError("has braces, and nothing is filled in: where the name stands is near.name_position")
    return text


Prompt: TypeAlias = Annotated[str, AfterValidator(_said)]
"""A prompt, not empty."""
NameTemplate: TypeAlias = Annotated[str, AfterValidator(_with_name)]
"""A prompt of CLIP with {} as the placeholder of the name."""
ListPrompt: TypeAlias = Annotated[str, AfterValidator(_with_count)]
"""A prompt with {k} as the placeholder of a number."""
SubjectPrompt: TypeAlias = Annotated[str, AfterValidator(_with_subject)]
"""A prompt with placeholders, all optional, for what images show, what its kinds are called, and who knows them."""
ChoicePrompt: TypeAlias = Annotated[str, AfterValidator(_with_choices)]
"""A prompt with {question}, {options} and {name} as the placeholders of a multiple-choice question and a class."""
AskedPrompt: TypeAlias = Annotated[str, AfterValidator(_with_asked)]
"""A prompt with {name} as the placeholder of what is asked about."""
Phrase: TypeAlias = Annotated[str, AfterValidator(_phrase)]
"""The beginning of a learned context."""
