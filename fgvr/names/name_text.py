"""Text around a name in a line: articles, hedges, brackets, percentages and explanations.

The rules look at the form of the text next to a name (lower case, Latin endings, a percentage), never at the name: word
lists here match lower case only, or what can never be part of a name.
"""

from __future__ import annotations

import re

from fgvr.names.sentences import restored

MAX_CHARACTERS = 120
"""Longest name in characters; anything longer is not a name."""
MAX_WORDS = 12
"""Longest name in words; anything longer is a clause."""
_WITHOUT_BLANKS = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")

_LIST_MARK = re.compile(
    r"^\s*(?:[-*•–+>]\s+|[\u2022\u2190-\u21ff\u2460-\u2473\u25a0-\u25ff\u2776-\u277f]\s*|[-=]>\s*|\d\u20e3\s*|"
    r"[(\[]?\d{1,2}[.)\]:]\s+(?=\S)|[(\[][a-hA-H1-9][)\]]\s+)"
)
_HEDGE = re.compile(
    r"^(?:(?:(?-i:[Ii]s|[Cc]ould|[Mm]ight|[Cc]an)\s+(?-i:it|this|that|they)(?:\s+be)?(?=\s+an?\s))|"
    r"either(?=\s+an?\s)|(?:it['’]?s\s+)?(?:most\s+|very\s+|quite\s+|more\s+)?(?:likely|probably|possibly|perhaps|"
    r"maybe|"
    r"presumably|apparently|definitely|clearly|obviously|evidently|"
    r"almost\s+certainly|undoubtedly|probable)|(?:looks|seems|appears)\s+(?:like|to\s+be|to\s+show)|(?:could|might|"
    r"may|must|"
    r"would)\s+be|"
    r"identified\s+as|classified\s+as|best\s+described\s+as|closely\s+resembles|resembles|"
    r"pictured(?:\s+here)?\s+is|shown(?:\s+here)?\s+is|"
    r"(?:my\s+)?best\s+guess|something\s+like)\s*[:,]?\s+(?=\S)",
    re.IGNORECASE,
)
_INTRODUCTION = re.compile(
    r"^(?:(?:an?|the|this|these)\s+)?(?:(?:close[- ]?up|detailed|high[- ]quality|single|colou?r|clear|beautiful|"
    r"stock|product|cropped)\s+)*"
    r"(?:photo|picture|image|photograph|drawing|illustration|painting|view|close[- ]?up|snapshot|shot|depiction|"
    r"rendering)\s+"
    r"(?:of|showing|depicting|shows|depicts|featuring)\s+",
    re.IGNORECASE,
)
_COUNT = re.compile(
    r"^(?:(?:two|three|four|five|six|several|many|some|multiple|numerous)|[Aa]\s+(?:small\s+|large\s+)?(?:pair|"
    r"group|couple|bunch|flock|cluster|"
    r"bouquet|pile|collection|type|kind|variety|species|breed|member)\s+of(?:\s+(?:two|three|four|five|six|"
    r"several))?)\s+(?=[A-Za-z])"
)
_ARTICLE = re.compile(r"^(?:(?:[Aa]n?|the|this|these|that)\s+(?=[^\W\d_][\w'’.-]+)|The\s+(?=[a-z]))")
_LOWER_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=[^\W\d_][\w'’.-]+)")

_LATIN_WORD = r"[a-z]{2,}(?:us|um|is|a|ae|i|ii|e|ens|ans|ons|or|er|ix|ex|ax|on|do|os|es|as|ys|x|um|ops|eps|oides)"
_LATIN_NAME = re.compile(
    rf"^(?!(?:\w+\s+)?(?:blue|white|orange|purple|beige|olive|size|large|style|edition|cover|side|pole|cocoa|"
    rf"vanilla|chocolate|free|one|use|device|case|phone|machine|bottle|table|base|cable)\b)"
    rf"(?:[A-Z][a-zë-]{{2,}}\s+(?:[x×]\s*)?(?:{_LATIN_WORD})(?:-[a-z]+)?(?:\s+(?:(?:subsp|ssp|var|"
    rf"f)\.\s+)?[a-z-]{{3,}}){{0,2}}|[A-Z][a-z]{{2,}}\s+(?:spp?\.?)|"
    r"(?:genus|species|family)\s+[A-Z][a-z]+(?:\s+[a-z]+)?|[A-Z][a-z]+(?:idae|aceae|inae|iformes))(?:\s+(?:L|Mill|"
    r"Linn(?:aeus)?|Thunb)\.?)?\.?$"
)
_LATIN_GENUS = re.compile(r"^[A-Z][a-z]+(?:us|is|um|ia|ea|ae|ix|ops)$")
_SURE = re.compile(
    r"^(?:(?:with\s+)?(?:an?\s+)?(?:about|approx(?:imately|\.)?|around|~|≈|>|<)?\s*)?"
    r"(?:\d{1,3}(?:[.,]\d+)?\s*(?:%|percent)\s*(?:\w+\s+)?(?:confiden\w+|sure|certain\w*|probab\w+|likel\w+|match|"
    r"score|chance)?|"
    r"(?:(?:very\s+|quite\s+)?(?:high|low|medium|moderate|very\s+high)\s+)?(?:confidence|probability|likelihood|"
    r"certainty|score|p|prob|conf)\s*(?:level|score)?\s*"
    r"(?:[:=]|is|of)?\s*(?:\d+(?:[.,]\d+)?\s*%?|high|low|medium|very\s+high)?|(?:high|low|medium|"
    r"very\s+high)\s+(?:confidence|certainty|probability)|"
    r"0?[.,]\d{1,4}|1\.0+|\d{1,2}(?:\.\d)?\s*/\s*10|\d{1,3}\s*/\s*100)[.)\]]*$",
    re.IGNORECASE,
)
_BARE_PERCENT = re.compile(r"\s+(?:[5-9]\d|100)(?:\.\d+)?\s?%$")
_SAYS_SURE = re.compile(
    r"[\s,;(–—-]+(?:(?:with\s+|about\s+|approximately\s+)?\d{1,3}(?:\.\d+)?\s*(?:%|percent)\s*(?:confiden\w+|sure|"
    r"certain\w*|probab\w+|likel\w+|match|chance)|"
    r"(?:confidence|probability|score)\s*(?:score\s*)?[:=]?\s*\d+(?:\.\d+)?\s*%?|with\s+(?:high|low|medium|"
    r"moderate)\s+(?:confidence|certainty|probability))[\s)\].]*$",
    re.IGNORECASE,
)
_PORTION = re.compile(
    r"\b(?:chocolate|cocoa|cacao|cotton|alcohol|juice|wool|acid|gel|silk|linen|polyester|vol|pure|peroxide|vodka|"
    r"rum|gin|cream|milk|yogh?urt|"
    r"nylon|viscose|cashmere|recycled|organic|arabica|protein|deet|natural|fruit|solution|battery|humidity)\b",
    re.IGNORECASE,
)
_SAID_OF_ONE = re.compile(
    r"^(?:(?:an?\s+|the\s+)?(?:adult|juvenile|immature|young|baby|male|female|chick|pup(?:py)?|kitten|hen|drake|"
    r"cub|nestling|fledgling|breeding|non-?breeding|"
    r"summer|winter|plumage|in\s+flight|pair|flowering|in\s+bloom|front|rear|side|view|and|or|/|,)\s*)+$",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    r"^(?:(?:an?|the|this|it|its|they|these|also|or|known|likely|possibly|probably|perhaps|maybe|most|more|species|"
    r"genus|family|scientific(?:ally)?|latin|binomial|"
    r"commonly|common\s+name|often|formerly|previously|sometimes|based|not|as|see|i|specifically|e\.g\.|i\.e\.|aka|"
    r"a\.k\.a\.|because|due|given|which|"
    r"tentative|unsure|unconfirmed|best\s+guess|guess|uncertain|assumed|hybrid\s+of|synonym|syn\.|approximately|"
    r"note|if)\b[\s.:]|"
    r"(?:(?:(?:less|more|fairly|quite|pretty|somewhat|rather|highly|not|un|im)[\s-]*)?(?:likely|probable|sure|certain|confident)|possible|unsure|unconfirmed|tentative|guess|uncertain|estimated?|"
    r"approx\.?|probably|"
    r"possibly|perhaps|maybe|\?+)$|(?:most|very)\s+(?:likely|probabl))",
    re.IGNORECASE,
)
_COMMA_ASIDE = re.compile(
    r"^(?:an?|the|which|who|that|known|also|likely|probably|possibly|perhaps|maybe|commonly|often|sometimes|"
    r"scientifically|botanically|formally|based|specifically|"
    r"particularly|especially|with|of|from|due|given|as|i|in|on|at|most|more|or|and|though|although|but|because|"
    r"since|native|perched|seen|shown|male|female|"
    r"adult|juvenile|belonging|characteri[sz]ed|recogni[sz]\w+|identif\w+|family|genus|species|if|not|it|its|this|"
    r"though|"
    r"called|named|typically|usually|however|so|judging|where|while)\b(?!-)"
)
_VERB = re.compile(
    r"(?<=\s)(?:is|are|was|were|has|have|can|appears?|seems?|looks|shows|features|feeds|lives|grows|suggests?|"
    r"indicates?)\s+(?!\d)|['’](?:s|re)\s+(?:an?|the)\s"
)
_SAYS = re.compile(
    r"^(?:A|An|The|This|It|Its|These|They|Based|Known|Due|Because|Given|Characteri[sz]ed|Identified|Also|Often|"
    r"Likely|Probably|Possibly|Note|Native|Found|I|"
    r"Commonly|Typically|Usually|With|From|As|Typical|Recogni[sz]able)\s+[a-z]"
)
_SEPARATOR = re.compile(
    r"\s+[-–—]{1,3}\s+|\s*—\s*|\s+–\s*|:\s+|;\s*|\s+\|\s+|,\s+|\s+/\s+|\s+=\s+|\s*\.{3,}\s*|\s*…\s*"
)
_BRACKET = re.compile(r"\s*(?P<open>[(\[])(?P<inside>[^()\[\]]*)[)\]]\s*$")
_OPEN_BRACKET = re.compile(r"\s*[(\[][^()\[\]]*$")
_WITHIN_QUOTES = re.compile(r"^(?:\"([^\"]+)\"|'((?:[^']|'(?=\w))+)')$")
_STRAY_QUOTE = r"(?:\"(?=[^\"]*$)|'(?!\w))"  # of "'Tis the Season" it is an apostrophe
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55]")
_OTHER_GUESS = re.compile(
    r"\s+or\s+(?:an?|the|possibly|perhaps|maybe|another|some|similar)\s.*$|\s+(?:aka|a\.k\.a\.)\s.*$|"
    r"\s+(?:to\s+me|in\s+(?:this|the)\s+(?:image|photo|picture))$|(?<=\w)\[\d{1,2}\]$"
)
_HEDGE_AT_END = re.compile(
    r",?\s+(?:[Ii]\s+(?:think|believe|guess|suppose|would\s+say)|[Ii]['’]d\s+(?:say|guess)|most\s+likely|probably|"
    r"possibly|perhaps|maybe|or\s+similar|or\s+something\s+similar|"
    r"in\s+my\s+opinion|if\s+i\s+am\s+not\s+mistaken)$"
)

_PARTICLES = frozenset(
    re.findall(r"\w+", "a an and as at by de del des der du e et for from in la le n nor of on or the to und with x y")
)


def count_words(name: str) -> int:
    """Number of words; in Chinese, Japanese, Thai and Lao, which have no blanks, four letters count as a word."""
    return len(name.split()) + len(_WITHOUT_BLANKS.findall(name)) // 4


def is_title(text: str) -> bool:
    """Whether all words except particles are capitalised or have digits: "This Is Spinal Tap", "Lexus IS 350"."""
    words = [word for word in re.findall(r"[^\W_][\w'’.+#-]*", text) if word not in _PARTICLES]
    return len(words) > 1 and all(
        word[0].isupper() or any(letter.isupper() or letter.isdigit() for letter in word) for word in words
    )


def begins_with_title(text: str, words: int = 3) -> bool:
    """Whether a text is a title of at least `words` words, or is one up to a bracket, dash, comma or full stop."""
    title = re.split(r"\s[(–—-]|,\s|\.\s", text, maxsplit=1)[0]
    return is_title(title) and len(title.split()) >= (words if title != text else 2)


def is_short_enough(name: str) -> bool:
    """Whether a text is short enough to be a name."""
    return 0 < len(name) <= MAX_CHARACTERS and count_words(name) <= MAX_WORDS


def without_list_mark(text: str) -> str:
    """Without a bullet or number at the beginning."""
    return _LIST_MARK.sub("", text, count=1)


def trimmed(name: str) -> str:
    """Without surrounding blanks and punctuation; signs that belong to names (#1, C++, .NET, 7") stay."""
    name = " ".join(_EMOJI.sub(" ", restored(name)).split())
    for _ in range(3):
        before = name
        name = name.strip(" \t“”„‘«»‹›,;:–—=|\\~^")
        name = _WITHIN_QUOTES.sub(lambda found: found[1] or found[2], name)
        name = re.sub(
            rf"^(?:{_STRAY_QUOTE}|-+(?!\d)|/+|[!?]+(?![!?]|\s\()|\.+(?![.\w])|\*{{2,}}|\*(?=\s|$)|>\s*)+", "", name
        )
        name = re.sub(r"(?<=[^\d])[\"']$|(?:(?<=\s)|(?<=[.!?\"]))[-/*]+$|\*{2,}$|[.!?。！？、，]+$|’$", "", name)
        for opening, closing in ("{}", "()", "[]", "【】", "（）"):
            if name.startswith(opening) and name.endswith(closing) and _is_around(name, opening, closing):
                name = name[1:-1]
        if name == before:
            break
    return name.strip()


def _is_around(name: str, opening: str, closing: str) -> bool:
    """Whether the last bracket closes the first one."""
    depth = 0
    for place, letter in enumerate(name):
        depth += (letter == opening) - (letter == closing)
        if depth == 0:
            return place == len(name) - 1
    return False


def without_lead(name: str, *, exact: bool = False) -> str:
    """Without leading "a photo of", "likely", "two", articles; from an `exact` name only a lower-case article goes."""
    if exact:
        return _LOWER_ARTICLE.sub("", name)
    for _ in range(4):
        before = name
        for pattern in (_HEDGE, _INTRODUCTION, _COUNT, _ARTICLE):
            shorter = pattern.sub("", name, count=1)
            name = shorter if re.search(r"\w", shorter) else name
        if name == before:
            return name
    return name


def without_tail(name: str, *, in_list: bool = False) -> str:
    """Without what is said after the name: confidence, Latin name, explanation."""
    for _ in range(5):
        before = name
        name = trimmed(_without_sureness(name, in_list=in_list))
        name = _without_bracket(name)
        name = _without_explanation(name)
        name = _OTHER_GUESS.sub("", _HEDGE_AT_END.sub("", name))
        if name == before:
            break
    return trimmed(name)


def _without_sureness(name: str, *, in_list: bool) -> str:
    shorter = _SAYS_SURE.sub("", name)
    percent = _BARE_PERCENT.search(shorter)
    if percent is not None and (in_list or not _PORTION.search(shorter)):
        shorter = shorter[: percent.start()]
    return shorter if re.search(r"\w", shorter) else name


def _without_bracket(name: str) -> str:
    """Without a bracket, unless it distinguishes products: "Nothing Phone (2)", "Crisps (Sour Cream)"."""
    found = _BRACKET.search(name) or None
    if found is None:
        unclosed = _OPEN_BRACKET.search(name)  # cut off, or closed after a sentence's end
        if unclosed is None or unclosed.start() == 0 or ")" in name[unclosed.start() :]:
            return name
        inside = name[unclosed.start() :].strip(" ([")
        return name[: unclosed.start()] if is_aside(inside) else name
    head, inside = name[: found.start()].strip(), found["inside"].strip()
    if not re.search(r"\w", head):
        return name
    if (
        _LATIN_NAME.match(trimmed(head))
        and re.match(r"^[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)+$", inside)
        and len(head.split()) == 2
    ):
        return inside  # the common name is in the brackets
    return head if is_aside(inside, head=head) else name


def is_aside(inside: str, *, prose: bool = False, head: str = "") -> bool:
    """Whether words in brackets are a remark on the name `head` and not part of it; in `prose` any clause is."""
    inside = trimmed(inside.strip(" *"))
    if prose and (re.search(r"(?<![\w-])[a-z]{3,}", inside) or re.match(r"^[A-Z][a-z]+[ {][a-z]{3,}", inside)):
        return True
    initials = "".join(word[0] for word in inside.split())
    if len(initials) > 1 and head.split() and head.rsplit(maxsplit=1)[-1].casefold() == initials.casefold():
        return True  # "Hummer H2 SUT (Sport Utility Truck)"
    if (
        not inside
        or _LATIN_NAME.match(inside)
        or _LATIN_GENUS.match(inside)
        or _SAID_OF_ONE.match(inside)
        or _ASIDE.match(inside)
    ):
        return True
    if any(_LATIN_NAME.match(part.strip()) for part in inside.split(",")[1:]):
        return True
    if re.match(r"^\d{1,2}(?:\.\d+)?\s*%$", inside):
        return float(inside.rstrip(" %")) >= 10  # "Milk (2%)" is a product
    return _SURE.match(inside) is not None or _VERB.search(f" {inside} ") is not None or "©" in inside


def _without_explanation(name: str) -> str:
    marks = list(_SEPARATOR.finditer(name))
    ends = [*(mark.start() if mark[0].strip() != "," else None for mark in marks[1:]), None]
    for number, found in enumerate(marks):
        # Each further mark is judged separately: "Levi's 501 - Blue - a classic".
        head, tail = name[: found.start()], name[found.end() : next((end for end in ends[number:] if end), None)]
        if found[0].strip() in {",", ";"}:
            over = is_comma_aside(tail)
        elif found[0].strip() == "/":
            over = _LATIN_NAME.match(trimmed(tail)) is not None
        else:
            over = explains(head, tail)
        if over and re.search(r"\w", head):
            return head
    return name


def is_comma_aside(tail: str) -> bool:
    """Whether the text after a comma is not part of the name: "Milk, 1.5%" and "Fanta, 0.5 l" are names."""
    return bool(
        _COMMA_ASIDE.match(tail)
        or _LATIN_NAME.match(trimmed(tail))
        or (_SURE.match(tail) and re.search(r"[a-z]{4}", tail))
    )


def explains(head: str, tail: str) -> bool:
    """Whether the text after a dash or colon describes the name: lower case, a sentence, a Latin name, a percentage."""
    tail = tail.strip()
    if not re.search(r"\w", tail) or _SURE.match(tail) or _LATIN_NAME.match(trimmed(tail)):
        return True
    words = tail.split()
    if words[0][0].islower():
        return len(words) > 1 or _SAID_OF_ONE.match(tail) is not None
    if (
        _SAYS.match(tail)
        or _VERB.search(f" {tail} ")
        or (_ASIDE.match(tail) and not re.match(r"(?:A|An|The|This) [A-Z0-9]", tail))
    ):
        return True
    later = [word for word in words[1:] if word[0].isalpha()]
    if len(later) >= 1 and all(word[0].islower() for word in later) and not any(letter.isdigit() for letter in tail):
        return re.search(r"[A-Z]", head[1:]) is not None or len(words) > 2  # "House Sparrow: Small brown bird"
    return count_words(f"{head} {tail}") > MAX_WORDS
