"""Answers that are held to a JSON schema: what is asked, what the schema is, and how a reply is read.

The schema keeps to what servers agree on (closed objects, all of whose fields are required, arrays, strings and whole
numbers), so that one does for vLLM, llama.cpp, SGLang and the proprietary ones. A reply is read strictly: what is not
of the schema is no answer, and nothing is guessed from it.
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
"""What stands in the place of a name where the image shows nothing that can be named."""
MOST_CHARACTERS = 200
"""Of a reply that is quoted in a failure."""


@dataclass(frozen=True)
class StructuredNames:
    """The names of a reply in its order, each with its share of the answer's vote (sum 1)."""

    names: tuple[str, ...]
    shares: tuple[Fraction, ...]


def answer_schema(listed: int) -> dict[str, Any]:
    """The JSON schema of an answer with one name, or with up to `listed` of them and their confidences."""
    name: dict[str, Any] = {"type": "string"}
    if listed == 1:
        return _closed({"name": name})
    confidence = {"type": "integer", "minimum": 0, "maximum": 100}
    items = _closed({"name": name, "confidence": confidence})
    return _closed({"names": {"type": "array", "items": items, "minItems": 1, "maxItems": listed}})


def answer_pattern(listed: int) -> str:
    """The same as a regular expression, with the blanks of common JSON and no others.

    For an engine in this process: where any blanks are allowed, small models write them without end.
    """
    name = r'"name": "(?:[^"\\\x00-\x20]|\\["\\])(?:[^"\\\x00-\x1f]|\\["\\])*"'
    if listed == 1:
        return rf"\{{{name}\}}"
    one = rf'\{{{name}, "confidence": (?:100|[1-9]?[0-9])\}}'
    return rf'\{{"names": \[{one}(?:, {one}){{0,{listed - 1}}}\]\}}'


def instruction(listed: int) -> str:
    """What is said behind the prompt, so that a model knows the form that its answer is held to."""
    if listed == 1:
        form = '{"name": "..."}'
        return f'Answer in JSON: {form}, with "{NOT_VISIBLE}" as the name if the image does not show any.'
    form = '{"names": [{"name": "...", "confidence": 70}, ...]}'
    return (
        f"Answer in JSON: {form}, with your confidence in each of at most {listed} names in percent; with the one name"
        f' "{NOT_VISIBLE}" if the image does not show any.'
    )


def extra_tokens(listed: int) -> int:
    """Tokens of a reply beside its names, at most: one a character, as tokenizers of bytes have them, with indents."""
    if listed == 1:
        return len('{\n  "name": ""\n}')
    one = '    {\n      "name": "",\n      "confidence": 100\n    },\n'
    return len('{\n  "names": [\n  ]\n}') + listed * len(one)


def read_structured(text: str, listed: int, *, cut: bool = False) -> StructuredNames | Failure:
    """The names of a reply that was held to `answer_schema(listed)`.

    Confidences are the model's own claims. They become shares by their sum, whatever their unit (70, 0.7 or "70%");
    where one of them is missing or no number above or equal 0, or all are 0, all names share alike. A name with
    confidence 0 is none.

    Args:
        text: the reply.
        listed: names that were asked for; more are left out.
        cut: whether the limit of tokens ended the reply.

    Returns:
        At least one name; or a Failure: NOTHING_THERE where the image shows none, EMPTY_ANSWER for what is not of the
        schema, with a detail that begins with "cut off: " where the reply was cut off.
    """
    try:
        # Thoughts and code fences: of servers that hold a model to JSON by its prompt alone.
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
    """Whether a reply comes from a model that is held to the form; of one that was cut off, whether it may."""
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
    """(name, confidence) pairs of a reply of the schema; None where it is of another form."""
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
    """A claim as a number of one unit, percent written out ("70%") as its hundredth; None for what is none."""
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
