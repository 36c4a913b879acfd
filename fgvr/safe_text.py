"""Text for consoles, logs, reports and MLflow: without secrets, and without characters that command a terminal.

Labels and answers come from a model, file names from strangers, and addresses may carry passwords or signatures. What
shows such text to people, or keeps it where more people read than those who started the run, lets it pass here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
SHORTEST_SECRET = 8
"""Values of secret variables that are shorter (`testing`) are words of other texts, too, and are left alone."""

_GIVEN: set[str] = set()

_WORDS = (
    r"(?:signature|credentials?|secret|password|passwd|passphrase|api[-_]?key|a(?:ccess|ccount)[-_]?key(?:[-_]?id)?|"
    r"(?:[a-z0-9][-_]|^|(?<=[^a-z0-9]))token)"
)
_NAME = rf"[\w.-]{{0,40}}{_WORDS}"
_SECRET_FIELD = re.compile(rf"{_WORDS}$", re.IGNORECASE)
# Every repetition has a bound where a match may begin at any place: without, a stranger's long text takes hours.
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), shown)
    for pattern, shown in (
        # scheme://user:password@host; after a colon the password may hold / and @, unless it is a port that follows.
        (r"""([a-z][a-z0-9+.-]{0,30}://)[^\s/@:'"<>]{0,200}:(?!\d{1,5}(?:/|\s|$))[^\s'"<>]{0,300}@""", r"\1***@"),
        (r"""([a-z][a-z0-9+.-]{0,30}://)[^\s/?#'"<>]{1,500}@""", r"\1***@"),
        # Signed URLs of AWS, Google, Azure (sig) and CloudFront (policy), and whatever is called a key or a token.
        (rf"""([?&;](?:{_NAME}|sig|key|token|auth|policy|key-pair-id|googleaccessid)=)[^&\s'"#<>]+""", r"\1***"),
        (rf"""(\b{_NAME}["']?=["']?)[^&\s'",;)}}\]]+""", r"\1***"),
        # JSON, flow YAML and what Python prints of a mapping.
        (rf"""([{{,\[]\s*["']?{_NAME}["']?\s*:\s*["']?)[^\s"',}}]+""", r"\1***"),
        # Header lines and prose.
        (r"""(\b(?:x-api-key|password|passwd)["']?\s{0,3}[:=]\s{0,3}["']?)[^\s"',;)}\]]+""", r"\1***"),
        (r"((?:bearer|basic)\s+)[\w.~+/=-]{8,}", r"\1***"),
        (r"\b(?:sk-|hf_|gh[pousr]_|glpat-|xox[abprs]-|AKIA|ASIA)[\w-]{12,}", MASK),
    )
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_VARIABLE = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)$")


def keep_secret(value: str) -> None:
    """From now on `masked` replaces this value in this process, wherever it stands."""
    if len(value) >= SHORTEST_SECRET:
        _GIVEN.add(value)


def masked(text: str) -> str:
    """`text` with `***` for secrets.

    That is: passwords and signatures in URLs, values that are called keys, tokens or passwords, and the values of
    environment variables whose name ends in KEY, TOKEN, SECRET or PASSWORD.
    """
    for value in _known_secrets():
        text = text.replace(value, MASK)
    for pattern, shown in _RULES:
        text = pattern.sub(shown, text)
    return text


def masked_tree(value: Any, name: str = "") -> Any:
    """The same for all texts of nested mappings and lists; what stands under the name of a secret goes as a whole."""
    if isinstance(value, Mapping):
        return {key: masked_tree(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_tree(item, name) for item in value]
    if isinstance(value, str):
        return MASK if value and _SECRET_FIELD.search(name) else masked(value)
    return value


def printable(text: str) -> str:
    """`text` for a terminal: colours are dropped, other control and direction characters become `�`; lines stay."""
    plain = _COLOUR.sub("", text)
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in plain)


def safe(text: str) -> str:
    """`masked` and `printable`."""
    return printable(masked(text))


def _known_secrets() -> list[str]:
    """Longest first: a secret may begin with another one."""
    named = {value for name, value in os.environ.items() if len(value) >= SHORTEST_SECRET and _VARIABLE.search(name)}
    return sorted(_GIVEN | named, key=len, reverse=True)
