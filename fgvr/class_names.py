"""The one form of a class's name: names that people cannot tell apart are one class, whatever file they come from."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

LONG_NAME: Final = 120
"""Characters of a name beyond which it is rather a text, or the rest of a file behind a quote that is not closed."""

# Byte-order marks, soft hyphens, marks of direction, widthless blanks: nobody sees them. Joiners are letters of
# Persian, of Indian scripts and of emoji, and go at the ends only.
_MARKS = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e"
    r"\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe]"
)
_MAY_CHANGE = r"[^ -~]|^ | $|  "  # all other names are in their one form
_JOINERS = "\u200c\u200d "
_EMPTY_LETTERS = str.maketrans({"\u2800": " ", "\u3164": " ", "\uffa0": " "})  # an empty Braille cell, Hangul fillers


@lru_cache(maxsize=2**16)
def one_form(name: str) -> str:
    r"""A name in NFC, without marks that cannot be seen, outer blanks and runs of blanks; each run is one blank.

    "\ufeffHouse\u00a0 Sparrow\r\n" → "House Sparrow". Case and punctuation stay: they may tell products apart.
    """
    seen = unicodedata.normalize("NFC", _MARKS.sub("", name.translate(_EMPTY_LETTERS)))
    return " ".join(seen.split()).strip(_JOINERS)


def one_form_each(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of names in their one form, null where nothing is left; each distinct name is looked at once a chunk."""
    if not pc.any(pc.match_substring_regex(names, _MAY_CHANGE)).as_py():
        return pc.if_else(pc.equal(names, ""), pa.scalar(None, names.type), names)
    encoded = names.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], names.type).dictionary_encode()
    forms = [one_form(name) or None for name in encoded.dictionary.to_pylist()]
    return pa.chunked_array([pc.take(pa.array(forms, names.type), encoded.indices)])


def odd_names(names: pa.ChunkedArray) -> list[str]:
    """The names of a column that are odd, each once."""
    may_be = pc.or_(pc.match_substring_regex(names, r"[\r\n]"), pc.greater(pc.utf8_length(names), LONG_NAME))
    return [name for name in pc.unique(names.filter(may_be)).to_pylist() if is_odd(name)]


def is_odd(name: str) -> bool:
    """Whether a name as it was written goes over lines or is longer than names are."""
    written = name.strip()
    return len(written) > LONG_NAME or "\n" in written or "\r" in written
