"""Parses an answer that should be a list into its names: numbered, bulleted, JSON, comma-separated, with chatter.

This module only finds the text of each item; `fgvr.names.answers.clean_answer` turns it into a name, or finds that it
is none.
"""

from __future__ import annotations

import re

from fgvr.names.name_text import explains, is_aside, without_tail
from fgvr.names.refusals import is_refusal
from fgvr.names.reply import bounded, unwrap
from fgvr.names.reply_json import structured_names
from fgvr.names.sentences import bold_words, protected, restored, without_bold
from fgvr.names.spelling import spelling_key

_FIELD = r"(?:label|class|option|rank|candidate|guess|choice|answer|name|species|breed|prediction|top)"
_NUMBERED = re.compile(
    rf"^\s*(?:[*_]{{2}})?(?:{_FIELD}\s*)?[(\[#]?\d{{1,2}}(?:[.):\]](?:[*_]{{2}})?\s*(?!\d)|\s+-\s+(?!\d))",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    r"^\s*(?:[\u2460-\u2473\u2776-\u277f]\s*|#?\d{1,2}\s(?=[^\W\d])|#\d{1,2}\s+|\d{1,2}(?:\u20e3|st\b|nd\b|rd\b|"
    r"th\b)\s*[:.)-]?\s*|"
    r"[ivx]{1,4}[.)]\s+|(?:first|second|third|fourth|fifth|most\s+likely|next|then)(?:\s+\w+)?\s*:\s*|"
    r"\d{1,3}\s?%\s+)(?=\S)",
    re.IGNORECASE,
)
"""List marks that could be the beginning of a name if they stood in a single line."""
_BULLET = re.compile(
    r"^(?P<indent>\s*)(?:(?:[-*+•–—>·‣]|[a-hA-H][.)])\s+(?:\[[ xX]?\]\s+)?|"
    r"[\u2190-\u21ff\u25a0-\u25ff\u2700-\u2775\u2780-\u27bf\u2b50]\s*)"
)
_INTRODUCTION = re.compile(
    r"^[^,;:]*\b(?:labels?|names?|classes|candidates?|species|breeds?|models?|options?|guesses|possibilities|"
    r"answers?)\b"
    r"[^,;:]*?(?:\b(?:are|include|would be|could be)\b:?|:)\s*",
    re.IGNORECASE,
)
_GREETING = re.compile(
    r"^\W*(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|okay|ok|hello|hi|great(?:\s+question)?|got\s+it|"
    r"no\s+problem|alright)\s*[!.,:;]+\s*(?=\S)",
    re.IGNORECASE,
)
_CHATTER = re.compile(
    r"^\W*(?:(?:sure|certainly|of\s+course|absolutely|okay|ok|hello|hi|got\s+it|no\s+problem|alright|thank\s+you|"
    r"thanks)(?=\W*$|\s*[!.,:]\s*(?:here|these|the|i\b|let|based))|"
    r"here\s+(?:are|is)\b|here['’]s\b|based\s+on\b|note\b\s*[:,]|note\s+that\b|please\s+(?:note|let|provide)\b|"
    r"i\s+(?:hope|can|would|think|am|have|believe|see|cannot)\b|i['’](?:m|d|ve|ll)\b|let\s+me\b|"
    r"these\s+(?:are|labels|names)\b|hope\s+(?:this|that|it)\b|all\s+of\s+(?:these|them|the)\b|it\s+is\b|"
    r"it['’]s\s+(?:important|worth|also|possible|difficult|hard)\b|"
    r"the\s+(?:image|photo|picture|above|exact)\s+(?:is|are|shows|could|can|may|labels|names|species|model|"
    r"list)\b)|:\W*$",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"\b(?:is|are|was|appears?|seems?|looks?|shows|depicts|features)\s+(?!\d)|\b(?:can['’]?t|cannot)\b|['’]m\b"
)
_EXPLANATION = re.compile(r"(?:\*\*|__)?\s*(?:\s[-–—]+\s|:(?:\*\*|__)?\s)")
_SURE = re.compile(
    r"[\s,;:–—(-]*(?:\(|\b)(?:about\s+|approx\.?\s+|~)?\d{1,3}(?:\.\d+)?\s*%(?!\s*(?:fat|cotton|cocoa|wool|juice|"
    r"alcohol|vol|pure|silk|linen|milk|reduced|\w+\s+milk)).*$|"
    r"\s*\((?:very\s+)?(?:most|likely|probab|possib|confiden)[^)]*\)|\s*[(:–—-]+\s*(?:confidence|probability|p|"
    r"score)?\s*[:=]?\s*0?\.\d+\)?\s*$",
    re.IGNORECASE,
)
_MOST_READ = 20  # items parsed per requested name
_LONGEST_ITEM = 500  # characters: a name and the start of its description
_ONLY_FIELD = re.compile(rf"^\W*{_FIELD}\W*$", re.IGNORECASE)


def listed_names(raw: str, most: int, cut: bool = False) -> list[str]:
    """The items of an answer, in order.

    Args:
        raw: the answer.
        most: number of requested names; a longer list is cut to this length. A shorter one is taken as it is.
        cut: whether the token limit ended the answer: an item at its very end may be half a name and is left
            out.

    Returns:
        Texts of 1 to `most` items, to be cleaned; equal spellings are returned only once. If the answer holds no
        list, the answer itself is the single item: a name, a sentence with a name, a refusal, half of a first name.
    """
    reply = unwrap(bounded(raw))
    if reply.open_thought:
        return [raw]
    if reply.tagged:
        return list(reply.tagged)[:most]
    text = _GREETING.sub("", reply.text)
    items = structured_names(text)
    from_json = items is not None
    if items is None:
        items = [] if is_refusal(text) else _from_lines(text, most)
    if cut and items and _ends_with(raw, items[-1]):
        items = items[:-1]
    items = [item[:_LONGEST_ITEM] for item in items[: _MOST_READ * most]]  # a model may repeat a list without end
    shares = _shares(items)
    distinct: dict[str, str] = {}
    for item in items:
        bare = item if from_json else _without_explanation(item, shares=shares)
        if key := spelling_key(bare):
            distinct.setdefault(key, bare)
    if items and not distinct:
        return [""]  # an empty list is no name, and its numbers are no names
    return list(distinct.values())[:most] or [raw]


def _shares(items: list[str]) -> int:
    """How many items state the model's confidence; small percentages belong to products: "Milk 3.5%"."""
    percents = [
        float(number)
        for item in items
        if (found := _SURE.search(item))
        for number in re.findall(r"\d+(?:\.\d+)?|\.\d+", found[0])[:1]
    ]
    return len(percents) if percents and (max(percents) >= 20 or max(percents) <= 1) else 0


def _ends_with(text: str, item: str) -> bool:
    """Whether a text ends with the item, or with marks after it that more of the name could follow."""
    place = text.rfind(item)
    return place >= 0 and not re.search(r"[\n\]}]|\w", text[place + len(item) :])


def _from_lines(text: str, most: int) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    if numbered := _numbered(lines, text):
        return numbered
    bullets = [(found, line) for line in lines if (found := _BULLET.match(line))]
    if bullets:
        outermost = min(len(found["indent"]) for found, _ in bullets)
        return [line[found.end() :] for found, line in bullets if len(found["indent"]) == outermost]
    names = [line for line in lines if not _CHATTER.search(line)]
    if len(names) > 1:
        return names
    return _from_sentence(names[0] if names else text, most)


def _numbered(lines: list[str], text: str) -> list[str]:
    """The items separated by numbers, one per line or all in one line."""
    numbered = [_NUMBERED.sub("", line, count=1) for line in lines if _NUMBERED.match(line)]
    if len(numbered) > 1:
        return numbered
    if inline := _numbered_inline(text):
        return inline
    if any(re.search(r"\w", item) for item in numbered):
        return numbered
    ordinal = [_ORDINAL.sub("", line, count=1) for line in lines if _ORDINAL.match(line)]
    return ordinal if len(ordinal) > 1 and len(ordinal) >= len(lines) - 2 else []


def _numbered_inline(text: str) -> list[str]:
    """The items of "… 1. House Sparrow, 2. Tree Pipit 3) Robin": numbers that count up from 1."""
    starts: list[re.Match[str]] = []
    while True:
        marker = re.compile(rf"(?:^|[\s,;:])[(\[#]?{len(starts) + 1}[.)\]:]\s*(?=\D)")
        found = marker.search(text, starts[-1].end() if starts else 0)
        if found is None:
            break
        starts.append(found)
    if len(starts) < 2:
        return []
    ends = [*(start.start() for start in starts[1:]), len(text)]
    return [text[start.end() : end].strip(" \n,;") for start, end in zip(starts, ends, strict=True)]


def _from_sentence(text: str, most: int) -> list[str]:
    """The items of "A, B, and C", "A; B; C", "A / B", "A or B" after an introduction; other sentences are no lists."""
    introduction = _INTRODUCTION.match(text)
    text = text[introduction.end() :] if introduction is not None else text
    if introduction is None and _SENTENCE.search(text):
        return []
    text = re.sub(r"^\s*[\[({](.*)[\])}]\s*$", r"\1", re.sub(r"^\s*either\s+", "", text, flags=re.IGNORECASE))
    separator = next((mark for mark in (";", "|", ",", "、", " / ", " > ", " · ", " • ") if mark in text), None)
    if separator is None and text.count("/") == most - 1 > 1:
        separator = "/"
    pieces = [text] if separator is None else _split(text, separator)
    pieces = [re.sub(r"^\s*(?:and|or)\s+", "", piece) for piece in pieces if piece.strip()]
    # "Black and White Warbler": "and" splits the last piece only if a name is missing.
    last = (
        re.split(r"\s+or\s+|\s+and\s+" if separator and len(pieces) < most else r"\s+or\s+", pieces[-1].strip(" ."))
        if pieces
        else []
    )
    return [*pieces[:-1], *last]


def _split(text: str, separator: str) -> list[str]:
    """The pieces between separators outside brackets; "Milk, 1.5%" and "Fanta, 0.5 l" each stay in one piece."""
    pieces: list[str] = []
    for piece in text.split(separator):
        opened = pieces and pieces[-1].count("(") > pieces[-1].count(")")
        size = pieces and separator == "," and re.match(r"\s*\d+(?:[.,/]\d+)*\s*(?:%|[a-zA-Z\"]{1,5}\b)", piece)
        if opened or size:
            pieces[-1] += separator + piece
        else:
            pieces.append(piece)
    return pieces


def _without_explanation(item: str, *, shares: int) -> str:
    """The name without its description: "**House Sparrow** (70%): small"; "Label: House Sparrow" keeps its name.

    `shares`: number of list items with a percentage; several are confidences, a single one may belong to a product.
    """
    marked = protected(item.strip())
    bold = bold_words(marked)
    item = restored(marked)
    if bold and without_bold(marked).startswith(bold[0]) and re.match(r"\s*[:–—-]\s", item[len(restored(bold[0])) :]):
        item = restored(bold[0])
    sure = _SURE.search(item)
    if sure is not None and sure.start() and (shares > 1 or (shares and not is_aside_kept(item[sure.start() :]))):
        item = item[: sure.start()]
    while (parted := _EXPLANATION.search(item)) is not None and _ONLY_FIELD.match(item[: parted.start()]):
        item = item[parted.end() :]
    for parted in _EXPLANATION.finditer(item):
        head, tail = item[: parted.start()], item[parted.end() :]
        if re.search(r"\w", head) and explains(head, tail):
            item = head
            break
    return without_tail(item, in_list=shares > 1).strip(' \t,;*_`"“”') or item.strip(' \t,;.*_`"“”')


def is_aside_kept(said: str) -> bool:
    """Whether a percentage in brackets distinguishes products: "Milk (2%)"."""
    inside = re.match(r"\s*\(([^()]*)\)\s*$", said)
    return inside is not None and not is_aside(inside[1])
