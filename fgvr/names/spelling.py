"""Spellings of names: the key that spellings of a name share, scientific names, and the normal form of class names."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

# What two spellings of one name have in common, and what distinguishes two names: letters, numbers and signs.

_PLAIN = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+)*")  # most names: only case and hyphens need folding
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\u20e3]")
_TRADEMARK = re.compile("[™℠®©]")  # removed before NFKD, which would turn them into letters
_SMALL_DIGIT = re.compile(r"(?<=\d)(?=[²³¹⁰-⁹₀-₉¼-¾⅐-⅞①-⑳])")
_MEGA = re.compile(r"(?<=\d)(\s?)M(?=(?:W|V|A|J|N|Ω|Pa|Wh|VA)\b)")  # a milliwatt differs only in case
_ANGSTROM = re.compile(r"(?<=\d)(\s?)A\u030a(?!\w)")  # an ampere differs only in the accent
_PER = re.compile(r"(?<=\d)( ?[^\W\d_]{1,3})/(?=[^\W\d_]{1,3}\b)")  # m/s is not ms
_ONE_SIGN = str.maketrans(
    dict.fromkeys("‘’‛′ʹʻʼ`´", "'")
    | dict.fromkeys("“”„‟″«»", '"')
    | dict.fromkeys("‐‑‒–−", "-")
    | {"∕": "/", "♯": "#", "˚": "°", "٫": "."}
)
_QUOTED = re.compile(r"""(?<!\w)(?:"(?=\S)([^"]*\S)"|'(?=\S)([^']*\S)')(?!\w)""")
_APOSTROPHE = re.compile(r"(?<!\d)'|'(?=s\b)")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_CURRENCY = "[$€£¥¢₩₹₽₺₱₿]"
_TIMES = re.compile(r"(?<=\d) ?[x×*] ?(?=\d)|×(?=\d)|(?<=\d)×")
_SIGNS = re.compile(
    rf"""
    (?=[ ]?[^\w\s]|_)(?:                                           # at anything else not one of the rules is tried
      (?<=\d)(?P<blank>[ ]?)(?P<ratio>[/:])(?P=blank)(?=\d)        # 1/2, 1:18
    | (?<=\b\w)[ ]?(?P<and>&)[ ]?(?=\w\b|\w\w\b)                   # H&M
    | (?<=\b\w\w)[ ]?(?P<also>&)[ ]?(?=\w\b|\w\w\b)                # AT&T
    | (?P<before>
          (?<=\d)[.](?=\d)                                         # 1.5
        | (?<!\S)[.](?=\w)                                         # .22, .NET
        | (?<![^\s(\[])[-+±](?={_CURRENCY}?[.]?\d)                 # -5, +2
        | [<>≤≥#](?=[ ]?\d)                                        # <5, #2
        | {_CURRENCY}
      )
    | (?P<after>
          (?<=\w)(?:[ ]?[+#]+(?!\S)|[+#]+)                         # C#, C++, A+
        | [ ]?[%‰°♀♂♭]
        | (?<=\d)["']                                              # 5" and 5'
        | (?:(?<=\b[^\W\d_])|(?<=\b[^\W\d_]{{2}}))-(?!\w)          # A-
      )
    | [^\w\s]|_
    )
    """,
    re.VERBOSE,
)

_MARKS = re.compile(r"\*{1,3}|_{2}|`|[\"“”]")
_BINOMIAL = r"(?P<latin>[A-Z][a-z]+ (?:[x×] )?[a-z]{3,})\b"
_AFTER = re.compile(
    rf"^(?:\s+(?:flower|plant|species)s?)?\s*(?:\((?:or\s+|also\s+)?|,?\s*(?:scientific|botanic|"
    rf"formal)ally\s+known\s+as\s+)"
    rf"(?:genus\s+|species\s+)?{_BINOMIAL}"
)
_BEFORE = re.compile(
    rf"{_BINOMIAL}(?:\s*\([^)]*\))?,?\s+(?:also\s+|more\s+)?commonly\s+(?:known|referred\s+to|"
    rf"called)(?:\s+as)?\s+(?:an?\s+|the\s+)?$"
)
_REACH = 100
"""How many characters around a name are searched for its scientific name."""
LONG_NAME: Final = 120
"""A name with more characters is probably a text, or the rest of a file after a quote that is never closed."""
# Invisible: byte-order marks, soft hyphens, direction marks, zero-width blanks. Joiners are part of words in Persian,
# Indian scripts and emoji, and are removed at the ends only.
_NAME_MARKS = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e"
    r"\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe]"
)
_MAY_CHANGE = r"[^ -~]|^ | $|  "  # all other names are in normal form already
_JOINERS = "\u200c\u200d "
_EMPTY_LETTERS = str.maketrans({"\u2800": " ", "\u3164": " ", "\uffa0": " "})  # an empty Braille cell, Hangul fillers


def spelling_key(name: str, *, accents: bool = False) -> str:
    """The key shared by spellings of a name: no case, accents on Latin letters, punctuation or extra blanks.

    "Black-footed  Albatross." and "black footed albatross" share a key, as do "Anna's" and "Annas". Numbers and signs
    are not punctuation: "1.5 l" and "15 l", "1/2" and "12", "C", "C#" and "C++", "-5" and "5", '5"' and "5'" have
    different keys. A number may be written in several ways: "10,000" is "10000", "1,5" is "1.5", "2 × 4" is "2x4".

    Args:
        name: a name in any script.
        accents: whether accents count, so that "pâté" and "pate" have different keys.

    Returns:
        Words separated by a blank; "" for a text without letters and digits.
    """
    if _PLAIN.fullmatch(name):
        return name.lower().replace("-", " ")
    text = _QUOTED.sub(lambda quoted: f" {quoted[1] or quoted[2]} ", _folded(name, accents).replace("''", '"'))
    text = _APOSTROPHE.sub("", text)
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    text = " ".join(re.sub(r"(?<=\d),(?=\d)", ".", text).split())
    text = _TIMES.sub("x", _PER.sub(r"\1 per ", text))
    text = " ".join(_SIGNS.sub(_sign, text).split())
    return text if any(letter.isalnum() for letter in text) else ""


def _folded(name: str, accents: bool) -> str:
    """Without case, invisible characters and (unless `accents`) Latin accents; equivalent signs become one."""
    text = _INVISIBLE.sub("", _TRADEMARK.sub(" ", name.translate(_ONE_SIGN)))
    text = unicodedata.normalize("NFKD", _SMALL_DIGIT.sub(" ", text)).replace("⁄", "/")
    text = _ANGSTROM.sub(r"\1angstrom", _MEGA.sub(r"\1mega", text))
    if accents:
        return unicodedata.normalize("NFC", text.casefold())
    letters: list[str] = []
    for letter in text.casefold():
        if not unicodedata.combining(letter):
            letters.append(letter)
        elif letters and not _is_latin(letters[-1]):
            letters.append(letter)  # in other scripts marks distinguish letters (й, が, Hindi vowels)
    return unicodedata.normalize("NFC", "".join(letters))


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN")


def _sign(found: re.Match[str]) -> str:
    """What a sign becomes: itself next to the word that it belongs to, else a blank."""
    match found.lastgroup:
        case "before" | "and" | "also":
            return found[0].strip()
        case "ratio":
            return found["ratio"]
        case "after":
            return found[0].strip() + " "
    # Combining marks of other scripts are part of words, but \w does not match them.
    return found[0] if unicodedata.category(found[0]).startswith("M") else " "


# Scientific names given next to a common name: the answer's own evidence that two names mean one species.


def scientific_name(answer: str, name: str) -> str:
    """The genus and species that the answer gives right after or before `name`; "" if there is none.

    "Lotus flower, scientifically known as *Nelumbo nucifera*" and "**Indigo Bunting** (*Passerina cyanea*)" have it
    after the name, "Convolvulus sabatius, commonly known as dwarf morning glory" before. A genus alone is not enough.
    """
    text = _MARKS.sub("", answer)
    for place in re.finditer(re.escape(name), text, re.IGNORECASE):
        found = _AFTER.match(text[place.end() : place.end() + _REACH])
        found = found or _BEFORE.search(text[max(0, place.start() - _REACH) : place.start()])
        if found is not None:
            return found["latin"]
    return ""


# The normal form of class names: names that people cannot distinguish are one class, whatever file they come from.


@lru_cache(maxsize=2**16)
def one_form(name: str) -> str:
    r"""A name in NFC, without invisible marks and outer blanks; each run of blanks becomes one blank.

    "\ufeffHouse\u00a0 Sparrow\r\n" → "House Sparrow". Case and punctuation stay: they may distinguish products.
    """
    seen = unicodedata.normalize("NFC", _NAME_MARKS.sub("", name.translate(_EMPTY_LETTERS)))
    return " ".join(seen.split()).strip(_JOINERS)


def one_form_each(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of names in normal form, null for empty ones; processes each distinct name once per chunk."""
    if not pc.any(pc.match_substring_regex(names, _MAY_CHANGE)).as_py():
        return pc.if_else(pc.equal(names, ""), pa.scalar(None, names.type), names)
    encoded = names.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], names.type).dictionary_encode()
    forms = [one_form(name) or None for name in encoded.dictionary.to_pylist()]
    return pa.chunked_array([pc.take(pa.array(forms, names.type), encoded.indices)])


def odd_names(names: pa.ChunkedArray) -> list[str]:
    """The odd names of a column, without duplicates."""
    may_be = pc.or_(pc.match_substring_regex(names, r"[\r\n]"), pc.greater(pc.utf8_length(names), LONG_NAME))
    return [name for name in pc.unique(names.filter(may_be)).to_pylist() if is_odd(name)]


def is_odd(name: str) -> bool:
    """Whether a name, as written, spans lines or is longer than names usually are."""
    written = name.strip()
    return len(written) > LONG_NAME or "\n" in written or "\r" in written


def fold_name(name: str) -> str:
    """A name for comparison: the key of its spelling, accents kept: "Brewer's  Black-Bird" → "brewers black bird".

    Numbers and signs stay, so that "C" is wrong for "C#", and "15 l" for "1.5 l".
    """
    return spelling_key(one_form(name), accents=True)
