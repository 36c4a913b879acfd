"""What two spellings of one name have in common."""

from __future__ import annotations

import unicodedata


def spelling_key(name: str) -> str:
    """What two spellings of a name have in common: no case, accents on Latin letters, punctuation or extra blanks.

    "Black-footed  Albatross." and "black footed albatross" share a key, as do "Anna's" and "Annas".
    """
    letters: list[str] = []
    for letter in unicodedata.normalize("NFKD", name.casefold()):
        if not unicodedata.combining(letter):
            letters.append(letter)
        elif letters and not _is_latin(letters[-1]):
            letters.append(letter)  # in other scripts a mark is a letter's identity (й, が, hi vowels)
    text = unicodedata.normalize("NFC", "".join(letters)).replace("'", "").replace("’", "")
    # Marks of other scripts are part of words, which \w does not know.
    kept = (letter if letter.isalnum() or unicodedata.category(letter).startswith("M") else " " for letter in text)
    return " ".join("".join(kept).split())


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN")
