"""Answers of whole sentences: splitting them, marking quoted words, and recognising statements about a photo."""

from __future__ import annotations

import re

# Patterns of statements about a photo: "The bird in the image appears to be a …", "I would label this as …".
#
# Each pattern has the groups `prefix` (articles and hedges before the name) and `name` (the name and all that
# follows).

ARTICLE = r"(?:an?|the|some|one)\s+"
HEDGE = (
    r"(?:most|very|quite|indeed|actually|almost\s+certainly|certainly|likely|probably|possibly|perhaps|definitely|"
    r"clearly|maybe|"
    r"commonly|specifically|either|simply|just|best|identified\s+as|classified\s+as|known\s+as|called|named|"
    r"described\s+as|considered|labell?ed(?:\s+as)?|"
    r"believed\s+to\s+be|thought\s+to\s+be|(?:an?\s+|the\s+)?(?:type|kind|variet(?:y|ies)|species|breed|example|"
    r"members?|"
    r"cultivars?|hybrid|photo|photograph|picture|image|close-up|(?:rear|front|side|back)(?:\s+view)?|view|pair|"
    r"group|bunch|clusters?|"
    r"characteristics|features|appearance|description|head|bottle|box|pack|packet|package|can|bag|jar)s?\s+of|"
    r"(?:of|from|to)\s+the\s+(?:species|genus|variety|breed|family|"
    r"model)|the\s+(?:species|genus|breed)|those\s+of|that\s+of|of)\s+"
)
COPULA = (
    r"(?:is|are|was|would\s+be|appears?\s+to\s+(?:be|match|show|belong\s+to)|seems?\s+to\s+be|"
    r"looks?\s+(?:to\s+me\s+)?(?:like|to\s+be)|(?:should|can|could|may|might|would)\s+be\s+(?:labell?ed|classified|"
    r"named|"
    r"called|identified|described|categori[sz]ed)(?:\s+as)?|captures?|presents?|portrays?|illustrates?|highlights?|"
    r"(?:could|might|may|must|can|should)\s+(?:be|well\s+be)|shows?|showcases?|depicts?|displays?|features?|"
    r"(?:closely\s+|most\s+)*"
    r"(?:resembles?|match(?:es)?)|represents|belongs?\s+to|has\s+features\s+consistent\s+with|contains?|"
    r"points?\s+to|suggests?)"
)
SUBJECT = (
    r"(?:(?:it|this|that)\s+(?:looks|seems|appears)\s+(?:like|that|to\s+me\s+(?:like|that)|as\s+if)\s+(?:this|it|"
    r"that)\s+|"
    r"(?:(?:one|another|a|an|my)\s+)?(?:(?:possible|suitable|good|likely|common|english|best|final|correct|product|"
    r"class|fine-grained)\s+)*"
    r"(?:label|answer|name|guess|prediction|match)\s(?:of\s+(?:this|the)\s+[a-z]+\s)?|(?:this|these|it|they|"
    r"that)(?:\s*(?='s|’s|'re|’re)|\s+)(?:\w+ly\s+)?|(?:the|this|these|that|an?|my|your|"
    r"our)\s[^.:;]{0,80}?\b(?:image|picture|photo|photograph|pictured|shown|depicted|provided|"
    r"foreground|description|question|species|model|breed|variety|label|class|answer|name|guess|identification|"
    r"classification|category|prediction|"
    r"conclusion|candidate|match|subject|object|item|product|here|see|seen)\b[^.:;]{0,40}?\s|"
    r"(?:what|who)\s+(?:you|we|i)(?:['’]re|\s+are|\s+can)?\s*(?:see|seeing|have|looking\s+at)?\s*(?:here\s+|"
    r"in\s+(?:this|the)\s+\w+\s+)?|"
    r"(?:this(?:\s+(?:one|bird|car|flower|dog|plant|item|product))?|these|it|they|that)(?:\s*(?='s|’s|'re|’re)|\s+)(?:\w+ly\s+)?(?:(?:image|photo|picture)\s+)?|(?:this|"
    r"these|the)\s+(?:[\w-]+\s+){1,2}?)"
)
_NAMED = rf"(?P<prefix>(?-i:(?:{HEDGE})*(?:{ARTICLE})?(?:{HEDGE})*(?:{ARTICLE})?))(?P<name>\S.*)"
"""How a statement ends: hedges and articles, in lower case only, then the name and all that follows."""
STATEMENT = re.compile(
    rf"(?:^(?:(?:so|thus|then|hence|therefore|well|okay|ok|clearly|overall|again)\s+)?|[,–—):]\s*|(?-i:\b(?:that|so|"
    rf"therefore|and|think|believe|guess|say|sure|confident|certain|convinced|chance|possibility|likelihood|"
    rf"suspect)\b),?\s)\s*{SUBJECT}(?P<copula>{COPULA}[:,]?\s+|['’]s\s+|['’]re\s+)"
    rf"{_NAMED}",
    re.IGNORECASE | re.DOTALL,
)
FIRST_PERSON = re.compile(  # "I would classify this image as a Tree Pipit", "I can see a Tree Pipit"
    r"(?:^|[,–—:]\s*|\band\s)\s*(?:(?:i|we|you|one)(?:['’](?:d|m|re|ll|ve)|\s+(?:would|can|could|am|are|have|will|"
    r"might|do))?\s+(?:also\s+|clearly\s+|confidently\s+|best\s+)?"
    r"(?P<verb>classify|label|identify|identified|describe|call|name|categori[sz]e|recogni[sz]e|see(?:ing)?|looking\s+at|"
    r"(?:going|go)\s+with|lean(?:ing)?\s+towards?|got|"
    r"say|guess|go\s+with|think\s+of|choose|pick|answer|"
    r"believe|think|suspect|suggest|assign|provide|give|tag)\b"
    r"(?-i:\s+(?:this|it|that|the|these)(?:\s+(?:(?!as\b|an?\b)\w+\s+){0,2}?(?:image|photo|picture|bird|animal|car|"
    r"flower|plant|dog|cat|product|object|item|one|subject|label|class))?)?"
    r"(?-i:\s+(?:label|name|class))?\s*(?:as|with|to\s+be|is)?[:,]?\s+)"
    rf"{_NAMED}",
    re.IGNORECASE | re.DOTALL,
)
THERE_IS = re.compile(
    r"(?:^|,\s*)(?:there\s*(?:is|are|['’]s)|here\s*(?:is|are|['’]s)|here\s+we\s+have|pictured(?:\s+here)?\s+(?:is|"
    r"are)|shown(?:\s+here)?\s+(?:is|are)|"
    r"(?:it\s+)?can\s+be\s+(?:identified|classified|described|labell?ed|recogni[sz]ed)\s+as|featured\s+(?:is|are)|"
    r"we\s+have)\s+"
    rf"{_NAMED}",
    re.IGNORECASE | re.DOTALL,
)
SUGGESTED = re.compile(  # "this suggests it is a Tree Pipit"
    rf"\b(?:(?:that|which|it|this)\s+{COPULA}|could\s+be|likely|resembles?|consistent\s+with|identified\s+as|"
    rf"classified\s+as|described\s+as|labell?ed(?:\s+as)?|depicting|showing|"
    r"featuring)\s+"
    rf"(?P<prefix>(?-i:(?:{HEDGE})*{ARTICLE}(?:{HEDGE})*))(?P<name>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
NAMED_FIRST = re.compile(  # "A House Sparrow is shown in the image.", "House Sparrow is the best label."
    r"^(?P<prefix>(?:[Aa]n?|[Tt]he)\s+)?(?P<name>(?!(?:It|This|That|These|They|There|What|I|We|You|The|He|She|My|"
    r"In|On|One|Its|Based|Given|However|Without|To|As|If)\b)\S.{0,118}?)\s+"
    r"(?:is|are|was)\s+(?=(?:the\s+(?:best|most|correct|label|answer|name|class|species|subject|main)|my\s|shown|"
    r"depicted|pictured|visible|seen|perched|sitting|standing|"
    r"parked|displayed|featured|in\s+the\s+(?:image|photo|picture)|in\s+this|a\s+(?:fine|suitable|good)|what))",
    re.DOTALL,
)


# Splitting text into sentences: abbreviations, initials, list numbers and marks inside product names end no sentence.

_ABBREVIATIONS = frozenset(
    re.findall(
        r"\w+",
        "St Mt Ft Dr Mr Mrs Ms Jr Sr No Nos Nr vs Vs var sp spp cf subsp ssp ca approx Co Inc Ltd Corp Bros "
        "Assn Vol Ed Conv Mk Ser Gen Gov Rev Prof Capt Lt Col Sgt Ave Blvd feat Intl Mfg Dept Est oz lb lbs "
        "ml fl qt gal pcs pc ft cm mm kg etc Sta Ste Pt Pk Cie Mlle Mme Sra Srta Univ Natl Orig Lic Ltda aff "
        "cv hort ",
    )
)
"""Words whose full stop does not end a sentence."""
_STARTER = (
    r"(?:It|This|The|That|I|A|An|There|These|They|Its|He|She|We|You|In|As|If|Here|Let|What|Please|Would|However|"
    r"Based|Given|My|"
    r"Your|For|With|Sure|Note|From|Both|Also|Although|While|Without|One|His|Her|Their|Known|Identifying|Key)"
)
_SENTENCE_END = re.compile(
    rf"(?P<word>[^\s.]*(?:\.[^\s.]+)*)\.[\"”’)*\ue001\ue003\ue005]*\s+(?=(?P<next>\S+))|"
    rf"[!?][\"”’)]*\s+(?={_STARTER}['’]?\b)|[。！？]|\n+"
)
_SENTENCE_START = re.compile(r"[A-Z*\"“„«‘(0-9\ue000-\ue0ef]|(?:it|the|this|its|they|there|however)\b")
_STARTS_ANEW = re.compile(rf"{_STARTER}['’]?\b")
_GOES_ON = re.compile(r"(?:[A-Z0-9][\w'’&+-]*(?:\s+(?:of|the|and|in|for)){0,2}[ .]*){2,5}(?:$|(?=[,\n(]))")
_INITIALS = re.compile(r"^(?:[A-Z]|[^\W\d_](?:\.[^\W_])+)$")  # "J.", "U.S.", "e.l.f."

_QUOTES = (
    ('"', '"'),
    ("“", "”"),
    ("„", "“"),
    ("„", "”"),
    ("«", "»"),
    ("»", "«"),
    ("「", "」"),
    ("『", "』"),
    ("《", "》"),
    ("''", "''"),
)
_OPEN, _BOLD = 0xE000, 0xE0E0  # private code points: the n-th pair of quotes opens with _OPEN + 2n, bold with _BOLD
_ENDERS = {ord("."): "\ue0f0", ord("!"): "\ue0f1", ord("?"): "\ue0f2"}
_ENDERS_BACK = {ord(mark): chr(ender) for ender, mark in _ENDERS.items()}
_SINGLE = re.compile(r"(?<![\w'’‘])(?P<open>['‘])(?=\S)(?P<inside>(?:[^'‘’\n]|['’](?=\w)){1,120})['’](?!\w)")
_MARKED = re.compile(
    r"\*{2,3}(?=[^\s*])((?:[^*\n]|\*(?!\*)){1,200}?)(?<=\S)\*{2,3}|"
    r"(?<!\w)\*(?=[^\s*])([^*\n]{1,200}?)(?<=[^\s*])\*(?!\w)|"
    r"(?<!\w)_{1,3}(?=[^\s_])([^\n]{1,200}?)(?<=[^\s_])_{1,3}(?!\w)|`([^`\n]{1,200})`"
)
_LINK = re.compile(r"!?\[([^\[\]\n]{1,200})\]\((?:https?:|www\.|/|#)[^()\s]*\)")
_HEADING = re.compile(r"^\s*#{1,6}\s+", re.MULTILINE)


def sentences(text: str) -> list[str]:
    """The text split at line breaks, and at sentence ends that are followed by a capital letter."""
    found: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        word, following = end["word"], end["next"]
        first = not text[start : end.start()].strip(" *\ue0e0")
        if following is not None and not _ends_here(word, text[end.end() :], first=first):
            continue
        if end[0][0] in "!?" and _GOES_ON.match(text, end.end()):
            continue  # "Where's Wally? The Wonder Book"
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _ends_here(word: str, following: str, *, first: bool) -> bool:
    """Whether the full stop after `word` ends a sentence: not after a list number (`first`) or an abbreviation."""
    if not _SENTENCE_START.match(following):
        return False
    bare = word.rsplit(":", 1)[-1].lstrip("(*\"“'\ue000\ue002\ue0e0")
    if first and bare.isdigit() and len(bare) <= 2:
        return False
    if bare in _ABBREVIATIONS or _INITIALS.match(bare):
        return _STARTS_ANEW.match(following) is not None and bare not in {"St", "Mt", "Dr", "Mr", "Mrs", "Ms", "No"}
    return True


# Quoted and marked words are protected, so that other rules neither split them nor take their marks for part of a name.
#
# "The label is **tiger lily**" delimits a name; `*NSYNC`, `Toys "R" Us` and `'47 Brand` contain marks.


def protected(text: str) -> str:
    """Replaces marks around quoted and marked words by private code points; their full stops end no sentence.

    `restored` undoes this: quotes come back, bold and italic type does not.
    """
    text = re.sub(r"[\ue000-\ue0ff]", "", text)
    text = _HEADING.sub("", _LINK.sub(r"\1", text))
    text = _MARKED.sub(lambda found: _set_off(next(group for group in found.groups() if group), _BOLD), text)
    for number, (opening, closing) in enumerate(_QUOTES):
        if opening in text and closing in text:
            start, end = re.escape(opening), re.escape(closing)
            inside = rf"(?!\s)([^{start[-1]}{end[-1]}\n]{{1,120}})"
            for found in reversed(list(re.finditer(rf"(?<!\w){start}{inside}{end}(?!\w)", text))):
                text = text[: found.start()] + _set_off(found[1], _OPEN + 2 * number) + text[found.end() :]
    return _SINGLE.sub(
        lambda found: _set_off(found["inside"], _OPEN + 2 * (len(_QUOTES) + (found["open"] == "‘"))), text
    )


def _set_off(inside: str, opening: int) -> str:
    # In American style, the full stop inside the quotes still ends the sentence.
    stop = "." if inside.endswith(".") and not inside.endswith("..") and len(inside) > 3 else ""
    inside = inside[:-1] if stop else inside
    return f"{chr(opening)}{inside.translate(_ENDERS)}{chr(opening + 1)}{stop}"


def restored(text: str) -> str:
    """The text before `protected`, without bold and italic type."""
    if not re.search(r"[\ue000-\ue0ff]", text):
        return text
    text = without_bold(text).translate(_ENDERS_BACK)
    for number, (opening, closing) in enumerate((*_QUOTES, ("'", "'"), ("‘", "’"))):
        text = text.translate({_OPEN + 2 * number: opening, _OPEN + 2 * number + 1: closing})
    return text


def without_bold(text: str) -> str:
    """Protected text without bold and italic type; quotes stay protected."""
    return text.translate({_BOLD: None, _BOLD + 1: None})


def bold_words(text: str) -> list[str]:
    """The words of protected text in bold or italic type or as code, in order."""
    return re.findall(f"{chr(_BOLD)}([^{chr(_BOLD + 1)}]*){chr(_BOLD + 1)}", text)


def bold_places(text: str) -> dict[int, str]:
    """Position in `without_bold(text)` → bold words that begin there."""
    places: dict[int, str] = {}
    taken = 0
    for found in re.finditer(f"{chr(_BOLD)}([^{chr(_BOLD + 1)}]*){chr(_BOLD + 1)}", text):
        places[found.start() - taken] = found[1]
        taken += 2
    return places


def quoted(text: str) -> tuple[str, str] | None:
    """The quotation at the beginning of a protected text, and the rest; None if there is none."""
    if not text or not _OPEN <= ord(text[0]) < _BOLD + 2 or ord(text[0]) % 2:
        return None
    end = text.find(chr(ord(text[0]) + 1))
    return None if end < 0 else (text[1:end], text[end + 1 :])
