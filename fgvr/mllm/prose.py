"""The name inside an answer of whole sentences: "The bird in the image appears to be a **House Sparrow** (…)."."""

from __future__ import annotations

import re

_HEDGES = (
    r"(?:(?:most|very|quite|indeed|actually|almost certainly|certainly|likely|probably|possibly|perhaps|definitely|"
    r"clearly|commonly|identified as|classified as|known as|called|named|described as|considered|believed to be|"
    r"thought to be|an? (?:type|kind|variety|species|breed|example|member|cultivar|photo|picture|image|close-up)s? of|"
    r"(?:of|from) the (?:species|genus|variety|breed|model)|the (?:species|genus|breed))\s+)*"
)
_ARTICLE = r"(?:(?:an?|the|some)\s+)?"
_COPULA = (
    r"(?:is|are|was|appears?\s+to\s+be|seems?\s+to\s+be|looks?\s+(?:like|to\s+be)|(?:could|might|may|must|would)\s+be|"
    r"shows?|showcases?|depicts?|displays?|features?|resembles?|matches|represents|belongs?\s+to)"
)
_SUBJECT = (
    r"(?:(?:the|this|these|that|an?)\s[^.:;]{0,80}?\b(?:image|picture|photo|photograph|pictured|shown|depicted|"
    r"foreground|description|question|species|model|breed|variety)\b[^.:;]{0,40}?\s|"
    r"(?:this|these|it|that|they|the\s+(?:\w+\s){1,2}?)(?:\s*(?='s|'re)|\s+))"
)
_STATEMENT = re.compile(
    rf"(?:^|,\s|\bthat\s|\bso\s|\btherefore,?\s)\s*{_SUBJECT}(?:{_COPULA}\s+|'s\s+|'re\s+){_HEDGES}{_ARTICLE}{_HEDGES}"
    r"(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_COMMON_NAME = re.compile(
    rf"\b(?:(?:also|commonly|better|popularly|often|and)\s+)*(?:known|referred to|called)\s+(?:commonly\s+)?(?:as\s+)?"
    rf"{_ARTICLE}(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_NAME_END = re.compile(
    r"\s*[(,;:\n\"“”]|\s+[-–—]+\s|[.!?](?:\s|$)|"
    r"\s+(?:which|that|who|from|based|known|due|because|characteri[sz]ed|recogni[sz]ed|recogni[sz]able|identifi\w+|"
    r"specifically|given|although|though|but|however|seen|shown|depicted|pictured|perched|sitting|standing|parked|"
    r"flying|displayed|in\s+(?:the|this|its|full|bloom)|with|on\s+an?|as\s+(?:it|indicated|evidenced|suggested)|"
    r"and\s+(?:is|are|was|its|has|it)|is|are|was|has|have|or|since|by|to)\b",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*(?P<name>[^*\n]+?)\*\*(?!\s*:)")
_LATIN = re.compile(r"^[A-Z][a-z]+ (?:x |× )?[a-z]{3,}$")
_SENTENCE_END = re.compile(r"(?P<word>\S*)[.!?。]\s+(?=[A-Z*\"“0-9])|\n+")
_NO_SENTENCE_END = re.compile(
    r"^(?:\d{1,2}|St|Mt|Ft|Dr|Mr|Mrs|Ms|Jr|Sr|No|vs|var|sp|spp|cf|subsp|ca|[A-Z](?:\.[A-Z])*)$"
)
_NO_NAME = re.compile(
    r"^(?:not\b|too\b|very\b|difficult|hard\b|unclear|unknown|unidenti|impossible|challenging|important|possible|"
    r"likely$|based|characteri|indicative|consistent|similar|distinctive|visible|blurry|its\b|one\b|there\b|"
    r"(?:small|large|medium)(?:[ -]sized)?$|species$|bird$|car$|flower$|(?:known|described|found|native|from|of|in)\b|"
    r".*\b(?:colou?r(?:ation|ed)?|shape|appearance|petals|plumage|closely|family|genus)$)",
    re.IGNORECASE,
)
MAX_WORDS = 12
"""Longer findings are clauses, not names."""


def name_in_prose(text: str) -> str | None:
    """The name that the text says the image shows, or None; markdown may be present, and is used.

    The first sentence that states what the image shows decides; a common name beside a Latin one is preferred, since
    people's class names are common names. Without such a sentence the last bold words count, which is how long
    answers end ("…most likely a **Mexican Sunflower**").
    """
    for sentence in sentences(text):
        plain = _unmarked(sentence)
        statement = _STATEMENT.search(plain)
        name = _cut(statement["name"]) if statement is not None else None
        if name is None or statement is None:
            continue
        if _LATIN.match(name):
            common = _COMMON_NAME.search(statement["name"][len(name) :])
            name = (_cut(common["name"]) if common is not None else None) or name
        return name
    bold = [found["name"].strip() for found in _BOLD.finditer(text) if not found["name"].rstrip().endswith(":")]
    return next((name for found in reversed(bold) if (name := _cut(found)) is not None), None)


def sentences(text: str) -> list[str]:
    """The text cut at line breaks and at sentence ends that a capital letter follows."""
    found: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if end["word"] and _NO_SENTENCE_END.match(end["word"].lstrip('(*"')):
            continue  # a number of a list, or an abbreviation: "1. Snapdragon", "St. Bernard"
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _unmarked(text: str) -> str:
    return re.sub(r"\*{1,3}|_{2}|`", "", re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", text))


def _cut(text: str) -> str | None:
    """The name at the start of `text`; None where there is none."""
    end = _NAME_END.search(text)
    name = (text[: end.start()] if end is not None else text).strip(" .,'\"*_`")
    if not name or _NO_NAME.match(name) or len(name.split()) > MAX_WORDS:
        return None
    return name
