"""Text for consoles, logs, reports and MLflow: without secrets, and without characters that command a terminal.

Labels and answers come from a model, file names from strangers, and addresses may carry passwords or signatures. What
shows such text to people, or keeps it where more people read than those who started the run, lets it pass here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fgvr.secret_forms import MASK, is_secret_name, mask_forms, mask_places

__all__ = ["MASK", "keep_secret", "masked", "masked_tree", "masked_value", "masked_words", "printable", "safe"]

SHORTEST_SECRET = 8
"""Values of secret variables that are shorter (`testing`) are words of other texts, too, and are left alone."""
PLAIN_WORD = 20
"""So many small letters and nothing else (`password`, `changeme`) are a secret only where they stand alone."""

_GIVEN: set[str] = set()
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_VARIABLE = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)$")


def keep_secret(value: str) -> None:
    """From now on `masked` replaces this value in this process, wherever it stands."""
    if len(value) >= SHORTEST_SECRET:
        _GIVEN.add(value)


def masked(text: str) -> str:
    """A message with `***` for secrets.

    That is what `masked_value` masks, and what stands in a secret's place: headers, and values that are called keys,
    tokens or passwords.
    """
    return mask_places(masked_value(text))


def masked_words(words: Sequence[str]) -> list[str]:
    """A command line's words, each `masked`; one behind a flag with a secret's name (`--hf-token x`) goes whole."""
    flags = ["", *words][:-1]  # what stands before each
    return [
        MASK
        if before.startswith("--") and "=" not in before and word and is_secret_name(before) and word[:2] != "--"
        else masked(word)
        for before, word in zip(flags, words, strict=True)
    ]


def masked_value(text: str) -> str:
    """Data (a name, a path, a value of a config) with `***` for secrets, and otherwise as it is.

    That is: passwords and signatures in URLs, keys whose form is known, and the values of environment variables whose
    name ends in KEY, TOKEN, SECRET or PASSWORD.
    """
    for value in _known_secrets():
        if value not in text:
            continue
        if len(value) < PLAIN_WORD and value.isalpha() and value.islower():
            text = re.sub(rf"(?<![\w-]){value}(?![\w-])", MASK, text)
        else:
            text = text.replace(value, MASK)
    return mask_forms(text)


def masked_tree(value: Any, name: str = "") -> Any:
    """`masked_value` of all texts of nested mappings and lists; what stands under the name of a secret goes whole."""
    if isinstance(value, Mapping):
        return {key: masked_tree(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_tree(item, name) for item in value]
    if isinstance(value, str):
        return MASK if value and is_secret_name(name) else masked_value(value)
    return value


def printable(text: str) -> str:
    """`text` for a terminal: colours are dropped, other control and direction characters become `�`; lines stay."""
    plain = _COLOUR.sub("", text)
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in plain)


def safe(text: str) -> str:
    """`masked` and `printable`."""
    return printable(masked(text))


def _known_secrets() -> list[str]:
    """Longest first: a secret may begin with another one. A variable may also name the file that holds its secret."""
    named = {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_SECRET and _VARIABLE.search(name) and not os.path.exists(value)  # noqa: PTH110  # no error, however long
    }
    return sorted(_GIVEN | named, key=len, reverse=True)
