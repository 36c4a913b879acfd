"""Small text files that people write: any encoding and line ends that editors choose."""

from __future__ import annotations

import codecs
import re
from typing import Final

# The longer marks first: that of UTF-32 begins with that of UTF-16.
_ENCODINGS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile(r"\r\n|\r|\n")


def encoding_of(start: bytes) -> str:
    """The encoding that a file's first bytes say: UTF-16 and UTF-32 by their marks, else UTF-8, with a mark or without.

    Raises:
        UnicodeDecodeError: UTF-16 or UTF-32 without a mark, which has a zero byte beside nearly every letter.
    """
    for mark, encoding in _ENCODINGS:
        if start.startswith(mark):
            return encoding
    zero = start[:4].find(b"\0")
    if zero >= 0:
        raise UnicodeDecodeError("utf-8", start, zero, zero + 1, "it is UTF-16 or no text; save it as UTF-8")
    return "utf-8"


def decoded(data: bytes) -> str:
    """A file's text, without a byte-order mark; raises UnicodeDecodeError where it is none."""
    text = data.decode(encoding_of(data))
    if data and not text and not data.startswith(codecs.BOM_UTF8):  # two or four bytes, the mark alone
        raise UnicodeDecodeError("utf-8", data, 0, len(data), "it is UTF-16 without a letter")
    return text


def lines(text: str) -> list[str]:
    """Lines as editors show them: a name may hold what `str.splitlines` takes for the end of one, such as U+0085."""
    found = _LINE_END.split(text)
    return found[:-1] if not found[-1] else found
