"""Answers constrained to a JSON schema: the instruction, the schema, and the parsing of replies.

The schema uses only what servers agree on (closed objects whose fields are all required, arrays, strings and whole
numbers), so that it works with vLLM, llama.cpp, SGLang and proprietary servers. Replies are parsed strictly: what does
not match the schema is no answer, and nothing is guessed from it.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fgvr.names.answers import CUT_OFF
from fgvr.names.reply import unwrap
from fgvr.schemas import Failure, Reason

NOT_VISIBLE = "not visible"
"""Used in place of a name if the image shows nothing that can be named."""
MOST_CHARACTERS = 200
"""Most characters of a reply quoted in a failure."""


@dataclass(frozen=True)
class StructuredNames:
    """The names of a reply in order, each with its share of the answer's vote (sum 1)."""

    names: tuple[str, ...]
    shares: tuple[Fraction, ...]


def answer_schema(listed: int) -> dict[str, Any]:
    """The JSON schema of an answer with one name, or with up to `listed` names and their confidences."""
    name: dict[str, Any] = {"type": "string"}
    if listed == 1:
        return _closed({"name": name})
    confidence = {"type": "integer", "minimum": 0, "maximum": 100}
    items = _closed({"name": name, "confidence": confidence})
    return _closed({"names": {"type": "array", "items": items, "minItems": 1, "maxItems": listed}})


def answer_pattern(listed: int) -> str:
    """The same as a regular expression, with the whitespace of usual JSON only.

    For an engine in this process: if any whitespace is allowed, small models write it without end.
    """
    name = r'"name": "(?:[^"\\\x00-\x20]|\\["\\])(?:[^"\\\x00-\x1f]|\\["\\])*"'
    if listed == 1:
        return rf"\{{{name}\}}"
    one = rf'\{{{name}, "confidence": (?:100|[1-9]?[0-9])\}}'
    return rf'\{{"names": \[{one}(?:, {one}){{0,{listed - 1}}}\]\}}'


def instruction(listed: int) -> str:
    """Text appended to the prompt, so that the model knows the form of the answer."""
    if listed == 1:
        form = '{"name": "..."}'
        return f'Answer in JSON: {form}, with "{NOT_VISIBLE}" as the name if the image does not show any.'
    form = '{"names": [{"name": "...", "confidence": 70}, ...]}'
    return (
        f"Answer in JSON: {form}, with your confidence in each of at most {listed} names in percent; with the one name"
        f' "{NOT_VISIBLE}" if the image does not show any.'
    )


def extra_tokens(listed: int) -> int:
    """Most tokens of a reply besides its names: one per character (as with byte tokenizers), with indentation."""
    if listed == 1:
        return len('{\n  "name": ""\n}')
    one = '    {\n      "name": "",\n      "confidence": 100\n    },\n'
    return len('{\n  "names": [\n  ]\n}') + listed * len(one)


def read_structured(text: str, listed: int, *, cut: bool = False) -> StructuredNames | Failure:
    """The names in a reply that was constrained to `answer_schema(listed)`.

    Confidences are the model's own claims. They are normalised by their sum, whatever their unit (70, 0.7 or "70%");
    if one is missing or not a number ≥ 0, or all are 0, all names have equal shares. A name with confidence 0 is
    dropped.

    Args:
        text: the reply.
        listed: number of requested names; further ones are dropped.
        cut: whether the token limit ended the reply.

    Returns:
        At least one name; or a Failure: NOTHING_THERE if the image shows none, EMPTY_ANSWER if it does not match the
        schema, with a detail that begins with "cut off: " if the reply was cut off.
    """
    try:
        # Thoughts and code fences come from servers that ask for JSON in the prompt only.
        found = json.loads(unwrap(text).text)
    except (ValueError, RecursionError):
        return _unread(text, "no JSON", cut=cut)
    claims = _claims(found, listed)
    if claims is None:
        wanted = '{"name": …}' if listed == 1 else '{"names": [{"name": …, "confidence": …}, …]}'
        return _unread(text, f"not of the form {wanted}", cut=cut)
    named = [(name, confidence) for name, confidence in claims if name is not None and not _says_none(name)]
    if not named:
        return Failure(Reason.NOTHING_THERE, f"the model says that no name is visible: {text[:MOST_CHARACTERS]!r}")
    confidences = [confidence for _, confidence in named]
    if any(value is None for value in confidences) or not any(confidences):
        shares = [Fraction(1, len(named))] * len(named)
    else:
        weights = [value or Fraction(0) for value in confidences]
        total = sum(weights)
        named = [pair for pair, weight in zip(named, weights, strict=True) if weight]
        shares = [weight / total for weight in weights if weight]
    return StructuredNames(tuple(name for name, _ in named), tuple(shares))


def is_structured(text: str, listed: int, *, cut: bool) -> bool:
    """Whether a reply comes from a model constrained to the form; for a cut-off reply, whether it may."""
    if cut:
        return unwrap(text).text.startswith("{")
    read = read_structured(text, listed)
    return isinstance(read, StructuredNames) or read.reason is Reason.NOTHING_THERE


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _claims(found: Any, listed: int) -> list[tuple[str | None, Fraction | None]] | None:
    """(name, confidence) pairs of a reply that matches the schema; None if it does not."""
    if not isinstance(found, dict):
        return None
    items = [found] if listed == 1 else found.get("names")
    if not isinstance(items, list) or not items:
        return None
    if not all(isinstance(item, dict) and isinstance(item.get("name", 0), str | None) for item in items):
        return None
    return [(item["name"], _confidence(item.get("confidence"))) for item in items[:listed]]


def _says_none(name: str) -> bool:
    return re.sub(r"[\W_]+", " ", name).strip().casefold() in {"", NOT_VISIBLE}


def _confidence(value: Any) -> Fraction | None:
    """A confidence as a number; "70%" becomes a hundredth of 70; None for anything else."""
    scale = 1
    if isinstance(value, str):
        value, percent, rest = value.strip().partition("%")
        scale = 100 if percent else 1
        try:
            value = math.nan if rest else float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if value < 0 else Fraction(value) / scale


def _unread(text: str, why: str, *, cut: bool) -> Failure:
    said = f"the answer is {why}: {text[:MOST_CHARACTERS]!r}"
    return Failure(Reason.EMPTY_ANSWER, f"{CUT_OFF}{said}" if cut else said)
