"""Names for MLflow and Prometheus, made from texts that people, models and file systems chose.

MLflow accepts letters, digits and a few other characters in names of parameters, metrics and tags, up to a length, and
refuses what would be another path (`..`, `a//b`, a leading slash). So a text is converted to a name here, and stored
beside it as a value. A text that is a valid name stays unchanged; any other name ends in a digest of its text, so that
two texts never share a name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fgvr.redact import masked_tree, safe

LONGEST_NAME = 250
"""Longest name of a parameter, metric or tag (MLflow 3.17), and of a run in its databases."""
LONGEST_EXPERIMENT = 500
LONGEST_PARAMETER = 500
"""Characters of a parameter's value that every version of MLflow accepts."""
LONGEST_TAG = 5000
MOST_PARAMETERS = 1000
RENAMED_TAG = "fgvr.names"
"""Tag with the original text of each name that differs from it."""
NO_NAME = "unnamed"

_BAD = re.compile(r"[^A-Za-z0-9_. -]+")  # no colon: servers on Windows refuse it; no slash: two in a row are refused
_DIGEST = re.compile(r"--[0-9a-f]{8}$")


def good_name(text: str, limit: int = LONGEST_NAME) -> str:
    """`text` itself where it is valid everywhere; otherwise its valid characters, and a digest of it."""
    plain = _BAD.sub("_", text).strip(" ")
    if plain.startswith("."):
        plain = f"_{plain}"
    if plain == text and text and len(text) <= limit and not _DIGEST.search(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[: limit - 10].rstrip(' ') or NO_NAME}--{digest}"


def named(pairs: Iterable[tuple[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by valid names, and the text of each changed name; repeated texts are all kept."""
    values: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    for text, value in pairs:
        name, again = good_name(text), 1
        while name in values:
            again += 1
            name = good_name(f"{text} #{again}")
        values[name] = value
        if name != text:
            renamed[name] = text
    return values, renamed


def names_tag(renamed: Mapping[str, str]) -> dict[str, str]:
    """The tag with the texts of changed names; empty where no name changed."""
    lines = [f"{name} = {shown(text, LONGEST_PARAMETER)}" for name, text in renamed.items()]
    return {RENAMED_TAG: "\n".join(lines)[:LONGEST_TAG]} if lines else {}


def shown(value: Any, limit: int) -> str:
    """A value as text for any database: without secrets or control characters, and not too long."""
    return safe(str(value))[:limit]


def flat(value: Any) -> list[tuple[str, str]]:
    """Nested values as (dotted name, value) pairs for parameters; lists, and all beyond MOST_PARAMETERS, as text."""
    leaves = list(_leaves(value, ""))
    pairs = [
        (name or "value", shown(masked_tree(item, name), LONGEST_PARAMETER)) for name, item in leaves[:MOST_PARAMETERS]
    ]
    if len(leaves) > MOST_PARAMETERS:
        more = len(leaves) - MOST_PARAMETERS
        pairs.append(("left out", f"{more:,} more; the run's config.yaml has all"))
    return pairs


def _leaves(value: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    elif not isinstance(value, Mapping):
        yield prefix, value


def run_name(text: str) -> str:
    """The name of a run (of an experiment with another limit): any printable characters, not empty, not too long."""
    return _title(text, LONGEST_NAME)


def experiment_name(text: str) -> str:
    """The name of an experiment; see `run_name`."""
    return _title(text, LONGEST_EXPERIMENT)


def _title(text: str, limit: int) -> str:
    plain = " ".join(safe(text).split())
    if len(plain) > limit:
        plain = f"{plain[: limit - 10]}--{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
    return plain or NO_NAME


def artifact_path(text: str) -> str:
    """A path below a run's artifacts; parts that lead outside or are invalid are converted to valid names."""
    return "/".join(good_name(piece) for piece in text.split("/") if piece) or NO_NAME


def label(text: str) -> str:
    """The value of a Prometheus label: one printable line of bounded length."""
    return _title(text, 128)
