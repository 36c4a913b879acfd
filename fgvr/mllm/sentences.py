"""Text cut into sentences: abbreviations, initials and list numbers end none, nor do the marks inside product names."""

from __future__ import annotations

import re

_ABBREVIATIONS = frozenset(
    re.findall(
        r"\w+",
        "St Mt Ft Dr Mr Mrs Ms Jr Sr No Nos Nr vs Vs var sp spp cf subsp ssp ca approx Co Inc Ltd Corp Bros "
        "Assn Vol Ed Conv Mk Ser Gen Gov Rev Prof Capt Lt Col Sgt Ave Blvd feat Intl Mfg Dept Est oz lb lbs "
        "ml fl qt gal pcs pc ft cm mm kg etc Sta Ste Pt Pk Cie Mlle Mme Sra Srta Univ Natl Orig Lic Ltda aff "
        "cv hort ",
    )
)
"""Words whose full stop ends no sentence, in this one place."""
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


def sentences(text: str) -> list[str]:
    """The text cut at line breaks and at sentence ends that a capital letter follows."""
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
    """Whether the full stop after `word` ends a sentence: not that of a number `first` in a list or an abbreviation."""
    if not _SENTENCE_START.match(following):
        return False
    bare = word.rsplit(":", 1)[-1].lstrip("(*\"“'\ue000\ue002\ue0e0")
    if first and bare.isdigit() and len(bare) <= 2:
        return False
    if bare in _ABBREVIATIONS or _INITIALS.match(bare):
        return _STARTS_ANEW.match(following) is not None and bare not in {"St", "Mt", "Dr", "Mr", "Mrs", "Ms", "No"}
    return True
