"""Finds the name in an answer of whole sentences: "The bird in the image appears to be a **House Sparrow** (…).".

Every sentence that states what the image shows yields a finding. Findings that look like a name (capital letters, bold
or italic type, quotes, a Latin name next to it) rank above common nouns ("a sunflower"), and these above words without
an article ("often used"); among equals the first one wins. No rule knows any particular name.

Words that end a name, or that turn it into a clause, match in lower case only: "Lexus IS 250", "Flying Spur".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fgvr.names.name_text import (
    MAX_WORDS,
    count_words,
    explains,
    is_aside,
    is_comma_aside,
    trimmed,
    without_lead,
    without_tail,
)
from fgvr.names.sentences import (
    ARTICLE,
    FIRST_PERSON,
    HEDGE,
    NAMED_FIRST,
    STATEMENT,
    SUGGESTED,
    THERE_IS,
    bold_places,
    bold_words,
    quoted,
    restored,
    sentences,
    without_bold,
)

_COMMON_NAME = re.compile(
    r"^(?:\s+L\.?)?(?:\s*\([^)]*\))?[,\s(]*(?:is\s+|also\s+|which\s+)*(?:commonly|popularly|often|better|widely|"
    r"more\s+commonly)\s+(?:also\s+)?"
    rf"(?:known|referred\s+to|called)\s+(?:as\s+)?(?:{ARTICLE})?(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_MORE_EXACTLY = re.compile(
    rf"^[,\s(]*(?:and\s+)?(?:more\s+)?(?:specifically|(?:most\s+)?likely|probably|"
    rf"possibly)\b,?\s+(?:{HEDGE})*(?:{ARTICLE})?"
    r"(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_PLACE = (
    r"(?:in|on|at|over|near|by|through|against|beside|under|with|"
    r"among|along|across|above|next|inside|outside|around|behind|atop|of)"
)
_SCENE = (
    r"(?:image|images|picture|photo|photograph|foreground|background|cent(?:er|re)|middle|wild|water|snow|grass|"
    r"garden|field|scene|frame|air|sky|sun|tree|trees|forest|"
    r"wood|woods|sand|rain|dark|front|back|provided|given|above|upper|lower|left|right|kitchen|street|zoo|corner|"
    r"distance|shot|view|first|second|third|fourth|"
    r"early|late|mid|\d{4}s?|family|genus|order|brand|category|class|style|series|line|range|\w+\s+(?:family|genus|"
    r"generation|series|style|category))"
)
_NAME_END = re.compile(
    r"\s+(?:which|that|who|whose|because|recogni[sz]ed|recogni[sz]able|identifiable|identified|specifically|likely|"
    r"given|although|though|but|however|while|whereas|"
    r"depicted|pictured|perched|parked|displayed|visible|featuring|surrounded|belonging|(?:characteri[sz]|"
    r"distinguish)ed|"
    r"(?:also|commonly|often|sometimes|scientifically|typically|usually|more|better|formally|generally)\s+(?:known|"
    r"called|referred|found|seen|used|identified|and)|"
    r"known\s+(?:as|for|to|by|scientifically)|based\s+on|due\s+to|native\s+to|similar\s+to|found\s+(?:in|on|across|"
    r"throughout)|common\s+in|"
    rf"(?:seen|shown|photographed|captured|taken)(?=\s+{_PLACE}\b|\s+here|[\s.,]*$)|"
    rf"(?:flying|sitting|standing|swimming|resting|feeding|foraging|walking|running|posing|lying|held|hovering|"
    rf"growing|blooming|wearing|holding|eating)"
    rf"(?=\s+(?:{_PLACE}|an?|the|its|up|down|amid)\b|[\s.,]*$)|"
    rf"in\s+(?:the|this|that|a)\s+(?:[a-z]+\s+)?{_SCENE}\b|in\s+(?:its|full|bloom|flight|this|breeding|an?)\b|"
    rf"from\s+(?:the|its|a|around|about|approximately|\d{{4}})\s|"
    r"with\s+(?!\d)(?=[a-z])(?![a-z]*[A-Z])|on\s+(?:an?|the|its|top)\s+(?![A-Z])|by\s+(?:an?|the|its)\s+(?![A-Z])|"
    r"by\s+[a-z]|to\s+(?:the|its|be|your|an?)\s+(?![A-Z])|at\s+(?:an?|the|its)\s+(?![A-Z])|"
    r"against\s|for\s+(?:its|their|this|the|sale)\b(?!\s+[A-Z])|as\s+(?:it|indicated|evidenced|suggested|seen|"
    r"shown|the|an?|well|part)\b|"
    r"and\s+(?:is|are|was|its|has|it|they|this|the|not|an?)\b|(?:is|are|was|were|has|have|may|appears?|"
    r"shows)(?=\s+(?!\d)|[\s.,]*$)|can(?=\s+(?:be|also|grow|reach|have|vary|live|range)\b)|or|since|"
    r"(?:species|genus|family)(?=[\s.,]|$))\b|"
    r"\s+(?:with|on|in|from|of)\s+(?:my|[a-z-]+ed)\s|\s+(?:here|there|to\s+me)(?=[.,!\s]*$)|"
    r"(?<![A-Z])[.!?]\s+(?=[a-z])(?=(?:it|the|this|its|they|however|there)\b)",
)
_SOFT_END = re.compile(r"(?P<mark>,(?!\d{3}\b)\s*|;\s*|:\s+|\s+[-–—]{1,3}\s+|\s*—\s*|\s*\n|\s*[(\[])")
_SIZE = re.compile(
    r"^(?:\d+(?:[.,/]\d+)*\s*(?:x\s*\d|ml|cl|l|g|kg|oz|lb|mm|cm|m|inch|in|pack|count|ct|pcs|pieces|gb|tb|w|v|\"|'|"
    r"%|-)|size\s)",
    re.IGNORECASE,
)
_BESIDE_LATIN = re.compile(r"(?P<name>[A-Z][\w'’-]{1,40}(?:\s+[A-Z][\w'’-]{1,40}){0,7})\s+\([A-Z][a-z]+ [a-z]{3,}")
_LATIN = re.compile(r"^[A-Z][a-z]+(?: (?:x |× )?[a-z]{3,})?$")
_LINNAEUS = re.compile(r"^([A-Z][a-z]+ [a-z]+) L$")
_ADVERB = r"(?!(?:\w*(?:l[il]|f|jel|hol|bel|bul|kel|gul|ral|sal|pol|p|wool|chil|anoma|fami|suppl|bar|dai))ly\b)\w{2,}ly"
_NO_NAME = re.compile(
    r"^(?:(?:not(?!-)|too|very|it|this|that|them|these|its|there|able|unable)\b|difficult|hard\s+to|unclear|unknown(?=$|\s+(?:species|type|kind|variety|breed|origin|bird|plant|flower|car|object|item)\b)|"
    r"unidenti|impossible|challenging|important|possible|"
    r"likely$|based\b|characteri|indicative|consistent|similar\s+to|distinctive$|visible|blurry|one\s+(?:of|that|"
    r"which|with)\b|"
    r"(?:small|large|medium)(?:[ -]sized)?$|(?:known|described|found|native|from|of|in|cultivars?|cultivated|"
    r"variet\w+|"
    r"hybrids?|specimens?|members?|what|how|why|where|when|because|also|often|important|essential|worth|typically|"
    r"usually)\b|\w$|"
    r"(?:family|genus|order)\s+[A-Z]|"
    r".*\b(?:colou?ration|colou?rs?|shape|appearance|petals|plumage|closely|family|order|type|kind|features|"
    r"characteristics|structure|bracts)$)"
)
_ONLY_ADVERB = re.compile(rf"^{_ADVERB}$")
_PARTICIPLE = re.compile(r"\s+(?:recogni|identif|distinguish|visible|seen|known|characteri|[a-z]+ed\b)")
_CLAUSE = re.compile(
    rf"\b(?:{_ADVERB}\b(?=\s)|(?:often|also|now|less|better)\b|(?:used|made|grown|seen)\s+(?:as|in|to|for|of|from|"
    rf"by|with)|can\s+(?:be|also)|as\s+(?:an?|it|the)\b|"
    r"for\s+(?:its|their|the)|at\s+(?:the|its)|more\s+\w+\s+than)"
)
_GENERIC = (
    r"(?:image|photo|picture|object|thing|item|product|animal|bird|insect|fish|dog|cat|plant|flower|tree|car|vehicle|"
    r"species|cluster|group|bunch|head|close-up)"
)
_ANY_THING = re.compile(
    rf"^(?:(?:{_GENERIC}|small|large|tall|tiny|big|bright|dark|light|pale|vivid|medium|medium-sized|"
    r"vibrant|beautiful|colou?rful|single|young|adult|male|female|of|an?|the|with|and|red|orange|yellow|green|blue|"
    r"purple|"
    r"violet|pink|brown|black|white|gr[ae]y|close-up|view)s?(?:\s+|$)){2,}$"
)
_ONLY_KIND = re.compile(rf"^{_GENERIC}s?$")
_LOOKS = re.compile(
    r"^(?:(?:an?|the|of|male|female|adult|young|juvenile|immature|baby|small|large|big|tiny|single|rear|front|side|"
    r"back|view|pair|group|close-up|old|new|modern|"
    r"vintage|classic|beautiful|bright|dark|light|pale|vivid|shiny|red|orange|yellow|green|blue|purple|violet|pink|"
    r"brown|black|white|gr[ae]y|silver|gold|golden|beige|"
    r"two|three|four|several|some|vehicle|model|car|bird|flower|plant|dog|cat|pickup|sedan|truck|convertible|"
    r"sports|four-door|two-door|compact|luxury|product|bottle|box|can|pack|"
    r"bag|jar|pair|blooming|flowering|breeding|typical|common|specific)\s+)+(?=[A-Z0-9])"
)


@dataclass(frozen=True)
class _Finding:
    """A name, how much it looks like one (2: a name, 1: a common noun, 0: hardly), and the words after it."""

    name: str
    strength: int
    rest: str


def name_in_prose(text: str) -> str | None:
    """The name that the protected text says the image shows, or None; markdown in it is used.

    A common name next to a Latin one is preferred, since class names are common names. Without a statement, the last
    bold words count, since long answers end that way ("…most likely a **Mexican Sunflower**"), then a name followed by
    a Latin one in brackets.
    """
    cut = sentences(text)
    found = [finding for sentence in cut for finding in _findings(sentence, alone=len(cut) == 1)]
    best = max(found, key=lambda finding: finding.strength, default=None)
    if best is not None and best.strength:
        return _common(best) or _exactly(best, found) or best.name
    bold = [
        _plain(words) for words in bold_words(text) if not words.rstrip().endswith(":") and not _is_heading(text, words)
    ]
    beside = [match["name"] for match in _BESIDE_LATIN.finditer(restored(text))]
    names = (_cut(name)[0] for name in [*reversed(bold), *beside] if count_words(name) <= MAX_WORDS)
    return next((name for name in names if name is not None), None if best is None else best.name)


def _plain(words: str) -> str:
    return trimmed(restored(words))


def _is_heading(text: str, words: str) -> bool:
    """Whether a colon follows bold words directly: "**Beak**: long"."""
    place = text.find(words)
    return re.match(r"[\ue000-\ue0ef]*\s*:", text[place + len(words) :]) is not None


def _findings(sentence: str, *, alone: bool) -> Iterator[_Finding]:
    """What a sentence states, if anything; `alone`: whether it is the whole answer."""
    sentence = re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", sentence)
    marked = bold_places(sentence)
    plain = without_bold(sentence)
    statement = STATEMENT.search(plain)
    if statement is not None and quoted(statement["name"]) is None:  # "a bird that appears to be a Tree Pipit"
        inner = re.search(r"\s+(?:that|which|who)\b|[,(]", statement["name"])
        relative = None if inner is None else SUGGESTED.match(statement["name"], inner.start() + 1)
        statement = relative or statement
    patterns = (FIRST_PERSON, THERE_IS, NAMED_FIRST, SUGGESTED)
    for match in (statement, *(pattern.search(plain) for pattern in patterns)):
        if match is None:
            continue
        start = match.start("prefix") if match["prefix"] else match.start("name")
        bold = next((words for place, words in marked.items() if start <= place <= match.start("name")), "")
        name, rest, exact = _said(match["name"], bold)
        if name is None:
            continue
        if (
            (exact and match.re is not SUGGESTED)
            or _reads_as_name(name)
            or re.match(r"\s*\(\W?[A-Z][a-z]+ [a-z]", rest)
        ):
            yield _Finding(name, 2, rest)
            return
        plural = (match.groupdict().get("copula") or "").strip().lower() in {"are", "'re", "’re"}
        noun = re.search(rf"{ARTICLE}|\bof\s", match["prefix"] or "", re.IGNORECASE) or _COMMON_NAME.match(rest)
        if _ONLY_KIND.match(name) and not alone:
            continue  # "The image shows a bird. It …" has more to say
        if noun or not _CLAUSE.search(name):
            yield _Finding(name, 1 if noun or plural else 0, rest)
            return


def _reads_as_name(name: str) -> bool:
    return re.search(r"[A-Z]|\d", name) is not None


def _said(text: str, bold: str) -> tuple[str | None, str, bool]:
    """The name at the start of a statement's end, what follows, and whether quotes or `bold` type delimit the name."""
    quotation = quoted(text)
    if quotation is not None:
        name = without_lead(_plain(quotation[0]), exact=True)
        bounds = not re.match(r"\s+[A-Z\d]", restored(quotation[1]))  # "Weird Al" Yankovic
        if bounds and name and not _NO_NAME.match(name) and count_words(name) <= MAX_WORDS:
            return name, restored(quotation[1]), True
    text = restored(text)
    bold = without_lead(_plain(bold), exact=True)
    if bold and text.startswith(bold) and not re.match(r"\s+(?:\d|[A-Z])|[\w'’-]", text[len(bold) :]):
        bound = _cut(bold)[0] if count_words(bold) > MAX_WORDS // 2 else _described(without_tail(bold))
        if bound and not _NO_NAME.match(bound) and not _ANY_THING.match(bound):
            return bound, text[len(bold) :], True
    return *_cut(text), False


def _common(finding: _Finding) -> str | None:
    """The common name that follows a Latin one."""
    if not _LATIN.match(finding.name):
        return None
    match = _COMMON_NAME.match(finding.rest)
    if match is None:
        return None
    first, rest = _cut(match["name"])
    if first is not None and re.match(r"^[A-Z][a-z]+ [a-z]+(?:i|us|um|is|ae|ens)$", first):  # another Latin name, or
        other = re.match(rf"\s+or\s+(?:{ARTICLE})?(?P<name>\S.*)", rest, re.DOTALL)
        return (_cut(other["name"])[0] if other is not None else None) or first
    return first


def _exactly(finding: _Finding, found: list[_Finding]) -> str | None:
    """The specific name elsewhere in the answer, if the finding is only a general kind: "a gull, …"."""
    match = _MORE_EXACTLY.match(finding.rest)
    names = [_cut(match["name"])[0]] if match is not None else []
    if finding.name.islower() and " " not in finding.name:
        names += [other.name for other in found if other.strength == 2]
    last = finding.name.split()[-1].casefold()
    return next((name for name in names if name and " " in name and name.split()[-1].casefold() == last), None)


def _cut(text: str) -> tuple[str | None, str]:
    """The name at the start of `text` (None if there is none), and what follows it."""
    text = restored(text).lstrip(' "“' if text.count('"') % 2 else " “")
    place = _end(text)
    name = text[:place]
    if name.rfind("(") > name.rfind(")"):  # a bracket that is never closed
        name = name[: name.rfind("(")] or name
    name = _described(_LINNAEUS.sub(r"\1", trimmed(name)))
    rest = text[place:]
    if not name or _NO_NAME.match(name) or count_words(name) > MAX_WORDS or _ANY_THING.match(name):
        return None, rest
    if _ONLY_ADVERB.match(name) and _PARTICIPLE.match(rest):
        return None, rest  # "easily recognizable"; "scaly" alone is a texture
    return name, rest


def _end(text: str) -> int:
    """Position at which the name at the start of `text` ends."""
    hard = _NAME_END.search(text)
    place = hard.start() if hard is not None else len(text)
    for soft in _SOFT_END.finditer(text, 0, place):
        head, tail = text[: soft.start()], text[soft.end() : place if hard is not None else len(text)]
        mark = soft["mark"].strip()
        if mark in {"(", "["}:
            inside = re.split(r"[)\]]", text[soft.end() :], maxsplit=1)[0]
            if soft.start() and (
                is_aside(inside, prose=True, head=head) or inside == text[soft.end() :] or len(inside) > 40
            ):
                return soft.start()
        elif mark in {"", ";"}:
            return soft.start()
        elif mark == ",":
            if is_comma_aside(tail) or not (
                _SIZE.match(tail) or (_is_variant(head, tail) and not re.match(r",?\s+or\b", text[place:]))
            ):
                return soft.start()
        elif explains(head, text[soft.end() :]):
            return soft.start()
    return place


def _is_variant(head: str, tail: str) -> bool:
    """Whether a comma separates a product from its variant at the sentence's end: "Nike Air Max 90, White."."""
    words = [word for word in tail.rstrip(" .,!").split() if word not in {"of", "with", "and", "for", "in"}]
    return (
        0 < len(words) <= 3
        and re.search(r"[A-Z]", head) is not None
        and all(re.match(r"[A-Z0-9]", word) for word in words)
    )


def _described(name: str) -> str:
    """Without descriptive words before a capitalised name: "a male Orchard Oriole", "the rear of a black Audi A4"."""
    return _LOOKS.sub("", name)
