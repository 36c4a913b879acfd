"""The name inside an answer of whole sentences: "The bird in the image appears to be a **House Sparrow** (…).".

Every sentence that states what the image shows makes a finding. A finding that reads as a name (capital letters,
bold or italic type, a Latin name beside it) goes before one that is a common noun ("a sunflower"), that before one
without an article ("often used"); among equals the first one counts. Nothing here knows any name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ARTICLE = r"(?:an?|the|some|one)\s+"
_HEDGE = (
    r"(?:most|very|quite|indeed|actually|almost\s+certainly|certainly|likely|probably|possibly|perhaps|definitely|clearly|"
    r"commonly|specifically|either|identified\s+as|classified\s+as|known\s+as|called|named|described\s+as|considered|"
    r"believed\s+to\s+be|thought\s+to\s+be|(?:an?\s+|the\s+)?(?:type|kind|variet(?:y|ies)|species|breed|example|members?|"
    r"cultivars?|hybrid|photo|picture|image|close-up|(?:rear|front|side|back)(?:\s+view)?|view|pair|group|bunch|clusters?|"
    r"characteristics|features|appearance|description|head)s?\s+of|(?:of|from|to)\s+the\s+(?:species|genus|variety|breed|"
    r"model)|the\s+(?:species|genus|breed)|those\s+of|that\s+of)\s+"
)
_COPULA = (
    r"(?:is|are|was|appears?\s+to\s+(?:be|match|show|belong\s+to)|seems?\s+to\s+be|looks?\s+(?:like|to\s+be)|"
    r"(?:could|might|may|must|would|can)\s+be|shows?|showcases?|depicts?|displays?|features?|(?:closely\s+|most\s+)*"
    r"(?:resembles?|match(?:es)?)|represents|belongs?\s+to|has\s+features\s+consistent\s+with|contains?)"
)
_SUBJECT = (
    r"(?:(?:the|this|these|that|an?)\s[^.:;]{0,80}?\b(?:image|picture|photo|photograph|pictured|shown|depicted|provided|"
    r"foreground|description|question|species|model|breed|variety)\b[^.:;]{0,40}?\s|"
    r"(?:this|these|it|they|that)(?:\s*(?='s|'re)|\s+)(?:\w+ly\s+)?|(?:this|these|the)\s+(?:\w+\s+){1,2}?)"
)
_STATEMENT = re.compile(
    rf"(?:^|[,–—)]\s*|\b(?:that|so|therefore|and)\b,?\s)\s*{_SUBJECT}(?P<copula>{_COPULA}\s+|'s\s+|'re\s+)"
    rf"(?P<prefix>(?:{_HEDGE})*(?:{_ARTICLE})?(?:{_HEDGE})*(?:{_ARTICLE})?)(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_SUGGESTED = re.compile(  # "this suggests it is a Tree Pipit"
    rf"\b(?:(?:that|which|it)\s+{_COPULA}|could\s+be|likely|resembles?|consistent\s+with|identified\s+as)\s+"
    rf"(?P<prefix>(?:{_HEDGE})*{_ARTICLE}(?:{_HEDGE})*)(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_COMMON_NAME = re.compile(
    r"^(?:\s+L\.?)?(?:\s*\([^)]*\))?[,\s(]*(?:is\s+|also\s+|which\s+)*(?:commonly|popularly|often|better|widely|more\s+commonly)\s+(?:also\s+)?"
    rf"(?:known|referred\s+to|called)\s+(?:as\s+)?(?:{_ARTICLE})?(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_MORE_EXACTLY = re.compile(
    rf"^[,\s(]*(?:and\s+)?(?:more\s+)?(?:specifically|(?:most\s+)?likely|probably|possibly)\b,?\s+(?:{_HEDGE})*(?:{_ARTICLE})?"
    r"(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_NAME_END = re.compile(
    r"\s*[(,;:\n\"“”]|\s+[-–—]+\s|[.!?](?:\s|$)|"
    r"\s+(?:which|that|who|from|based|known|due|because|characteri[sz]ed|recogni[sz]ed|recogni[sz]able|identifi\w+|"
    r"specifically|likely|given|although|though|but|however|seen|shown|depicted|pictured|perched|sitting|standing|parked|"
    r"flying|displayed|in\s+(?:the|this|its|full|bloom)|with|on\s+an?|as\s+(?:it|indicated|evidenced|suggested)|"
    r"and\s+(?:is|are|was|its|has|it)|is|are|was|has|have|or|since|by|to|(?:species|genus|family|plant)(?=[\s.,]|$))\b",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*(?P<name>[^*\n]+?)\*\*(?!\s*:)")
_BESIDE_LATIN = re.compile(r"(?P<name>[A-Z][\w'’-]+(?:\s+[A-Z][\w'’-]+)*)\s+\(\*?[A-Z][a-z]+ [a-z]{3,}")
_LATIN = re.compile(r"^[A-Z][a-z]+(?: (?:x |× )?[a-z]{3,})?$")
_LINNAEUS = re.compile(r"^([A-Z][a-z]+ [a-z]+) L$")
_SENTENCE_END = re.compile(r"(?P<word>\S*)[.!?。！？]\s+(?=[A-Z*\"“0-9])|[。！？]|\n+")
_NO_SENTENCE_END = re.compile(
    r"^(?:\d{1,2}|St|Mt|Ft|Dr|Mr|Mrs|Ms|Jr|Sr|No|vs|var|sp|spp|cf|subsp|ca|[A-Z](?:\.[A-Z])*)$"
)
_NO_NAME = re.compile(
    r"^(?:not\b|too\b|very\b|difficult|hard\b|unclear|unknown|unidenti|impossible|challenging|important|possible|"
    r"likely$|based|characteri|indicative|consistent|similar|distinctive|visible|blurry|its\b|one\b|there\b|"
    r"(?:small|large|medium)(?:[ -]sized)?$|(?:known|described|found|native|from|of|in|cultivars?|cultivated|variet\w+|"
    r"hybrids?|specimens?|members?)\b|\w$|"
    r".*\b(?:colou?r(?:ation|ed)?|shape|appearance|petals|plumage|closely|family|order)$)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\b(?:\w+ly|often|also|now|more|less|better|used|made|grown|seen|as|can|for|in|at)\b")
_ANY_THING = re.compile(
    r"^(?:(?:image|photo|picture|object|thing|item|product|animal|bird|insect|fish|dog|cat|plant|flower|tree|car|vehicle|"
    r"species|cluster|group|bunch|head|close-up|small|large|medium|medium-sized|tall|tiny|big|bright|dark|light|pale|vivid|"
    r"vibrant|beautiful|colou?rful|single|young|adult|male|female|of|an?|the|with|and|red|orange|yellow|green|blue|purple|"
    r"violet|pink|brown|black|white|gr[ae]y)s?(?:\s+|$))+$",
    re.IGNORECASE,
)
MAX_WORDS = 12
"""Longer findings are clauses, not names."""
_WITHOUT_BLANKS = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True)
class _Finding:
    """A name, how much it reads as one (2: as a name, 1: as a common noun, 0: hardly), and the words after it."""

    name: str
    strength: int
    rest: str


def name_in_prose(text: str) -> str | None:
    """The name that the text says the image shows, or None; markdown may be present, and is used.

    A common name beside a Latin one is preferred, since people's class names are common names. Without a statement
    the last bold words count, which is how long answers end ("…most likely a **Mexican Sunflower**"), then a name
    with a Latin one in brackets.
    """
    found = [finding for sentence in sentences(text) for finding in _findings(sentence)]
    best = max(found, key=lambda finding: finding.strength, default=None)
    if best is not None and best.strength:
        return _common(best) or _exactly(best, found) or best.name
    bold = [match["name"].strip() for match in _BOLD.finditer(text) if not match["name"].rstrip().endswith(":")]
    beside = [match["name"] for match in _BESIDE_LATIN.finditer(text)]
    cut = (_cut(name) for name in [*reversed(bold), *beside])
    return next((name for name in cut if name is not None), None if best is None else best.name)


def count_words(name: str) -> int:
    """Words of a name; of Chinese, Japanese, Thai and Lao, which have no blanks, four letters count as a word."""
    return len(name.split()) + len(_WITHOUT_BLANKS.findall(name)) // 4


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


def _findings(sentence: str) -> Iterator[_Finding]:
    """What a sentence states, if anything."""
    plain = _unmarked(sentence)
    statement = _STATEMENT.search(plain)
    if statement is not None:  # "a bird that appears to be a Tree Pipit": the relative clause has the name
        inner = _NAME_END.search(statement["name"])
        relative = None if inner is None else _SUGGESTED.match(statement["name"], inner.start() + 1)
        statement = relative or statement
    for match in (statement, _SUGGESTED.search(plain)):
        name = None if match is None else _cut(match["name"])
        if match is None or name is None:
            continue
        rest = match["name"][match["name"].find(name) + len(name) :]
        marked = re.search(rf"\*\s?{re.escape(name)}", sentence) is not None
        if marked or re.search(r"[A-Z]", name) or re.match(r"\s*\([A-Z][a-z]+ [a-z]", rest):
            yield _Finding(name, 2, rest)
            return
        plural = match.groupdict().get("copula", "").strip().lower() in {"are", "'re"}
        noun = re.search(rf"{_ARTICLE}|\bof\s", match["prefix"], re.IGNORECASE) or _COMMON_NAME.match(rest)
        if noun or not _CLAUSE.search(name):
            yield _Finding(name, 1 if noun or plural else 0, rest)
            return


def _common(finding: _Finding) -> str | None:
    """The common name that follows a Latin one."""
    if not _LATIN.match(finding.name):
        return None
    match = _COMMON_NAME.match(finding.rest)
    if match is None:
        return None
    first = _cut(match["name"])
    if first is not None and re.match(r"^[A-Z][a-z]+ [a-z]+(?:i|us|um|is|ae|ens)$", first):  # another Latin name, or
        other = re.match(rf"\s+or\s+(?:{_ARTICLE})?(?P<name>\S.*)", match["name"][len(first) :], re.DOTALL)
        return (_cut(other["name"]) if other is not None else None) or first
    return first


def _exactly(finding: _Finding, found: list[_Finding]) -> str | None:
    """A kind's name inside the same answer, where the finding says only what kind of thing it is: "a gull, …"."""
    match = _MORE_EXACTLY.match(finding.rest)
    names = [_cut(match["name"])] if match is not None else []
    if finding.name.islower() and " " not in finding.name:
        names += [other.name for other in found if other.strength == 2]
    last = finding.name.split()[-1].casefold()
    return next((name for name in names if name and " " in name and name.split()[-1].casefold() == last), None)


def _unmarked(text: str) -> str:
    return re.sub(r"\*{1,3}|_{2}|`", "", re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", text))


def _cut(text: str) -> str | None:
    """The name at the start of `text`; None where there is none."""
    text = text.lstrip(" \"“'*")
    end = _NAME_END.search(text)
    name = (text[: end.start()] if end is not None else text).strip(" .,'\"*_`")
    name = _LINNAEUS.sub(r"\1", name)
    # What a name's capitals begin after says how it looks: "a male Orchard Oriole", "the rear of a black Audi A4".
    described = re.match(r"^(?:[a-z][a-z-]*\s+)+(?=[A-Z])", name)
    if described is not None:
        name = name[described.end() :]
    if not name or _NO_NAME.match(name) or count_words(name) > MAX_WORDS:
        return None
    return None if _ANY_THING.match(name) else name
