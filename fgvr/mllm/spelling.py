"""What two spellings of one name have in common, and what tells two names apart: letters, numbers and signs."""

from __future__ import annotations

import re
import unicodedata

_PLAIN = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+)*")  # most names; nothing but case and hyphens is to be folded there
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\u20e3]")
_TRADEMARK = re.compile("[™℠®©]")  # before NFKD, which makes letters of them
_SMALL_DIGIT = re.compile(r"(?<=\d)(?=[²³¹⁰-⁹₀-₉¼-¾⅐-⅞①-⑳])")
_MEGA = re.compile(r"(?<=\d)(\s?)M(?=(?:W|V|A|J|N|Ω|Pa|Wh|VA)\b)")  # a milliwatt differs in case alone
_ANGSTROM = re.compile(r"(?<=\d)(\s?)A\u030a(?!\w)")  # an ampere differs in the accent alone
_PER = re.compile(r"(?<=\d)( ?[^\W\d_]{1,3})/(?=[^\W\d_]{1,3}\b)")  # m/s are not ms
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


def spelling_key(name: str, *, accents: bool = False) -> str:
    """What two spellings of a name have in common: no case, accents on Latin letters, punctuation or extra blanks.

    "Black-footed  Albatross." and "black footed albatross" share a key, as do "Anna's" and "Annas". Numbers and signs
    are no punctuation: "1.5 l" and "15 l", "1/2" and "12", "C", "C#" and "C++", "-5" and "5", '5"' and "5'" have
    keys of their own. A number may be written in several ways: "10,000" is "10000", "1,5" is "1.5", "2 × 4" is "2x4".

    Args:
        name: in any script.
        accents: whether "pâté" and "pate" are two names.

    Returns:
        Words with a blank between; "" for a text without a letter or a digit.
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
    """Without case, characters that nobody sees and, unless asked for, Latin accents; of signs for one thing one."""
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
            letters.append(letter)  # in other scripts a mark is a letter's identity (й, が, hi vowels)
    return unicodedata.normalize("NFC", "".join(letters))


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN")


def _sign(found: re.Match[str]) -> str:
    """What is left of a sign: itself beside the word that it belongs to, or a blank."""
    match found.lastgroup:
        case "before" | "and" | "also":
            return found[0].strip()
        case "ratio":
            return found["ratio"]
        case "after":
            return found[0].strip() + " "
    # Marks of other scripts are part of words, which \w does not know.
    return found[0] if unicodedata.category(found[0]).startswith("M") else " "
