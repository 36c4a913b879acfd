"""Turns a model's answer into the name it means, or into the reason why there is none.

An answer is first unwrapped (`reply_text`), then searched for JSON (`reply_json`), fields ("Common name: …",
`answer_fields`), chatter ("Sure! Here is the label:") and hedges; a short answer is the name as it stands, and only
longer text is parsed as prose (`prose`). The answers table keeps the raw text for ever, so every step can be repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fgvr.names.answer_fields import best_field, is_field
from fgvr.names.name_text import (
    MAX_WORDS,
    begins_with_title,
    count_words,
    is_short_enough,
    is_title,
    trimmed,
    without_lead,
    without_list_mark,
    without_tail,
)
from fgvr.names.prose import name_in_prose
from fgvr.names.refusals import foreign_language, is_placeholder, is_refusal, mentions_refusal, says_nothing_there
from fgvr.names.reply import bounded, unwrap
from fgvr.names.reply_json import structured_names
from fgvr.names.sentences import bold_words, protected, quoted, restored, sentences, without_bold
from fgvr.names.spelling import spelling_key
from fgvr.schemas import Failure, Reason

_SHORT_ANSWER_WORDS = 8
_READ_FOR_A_NAME = 500  # characters of a line: a name and the start of its description
_SPEAKER = re.compile(
    r"^(?:assistant|ai|bot|model|a|agent|gpt|llava|qwen|gemini|claude|response)\s*:\s+(?=\S)", re.IGNORECASE
)
_DIALOGUE = re.compile(r"^(?:q|question|user|human)\s*:[^\n]*\n\s*(?:a|answer|assistant)\s*:\s*(?=\S)", re.IGNORECASE)
_CHATTER = re.compile(
    r"^(?:(?:(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|definitely|okay|ok|alright|all\s+right|got\s+it|"
    r"understood|no\s+problem|you['’]re\s+welcome|"
    r"great(?:\s+(?:question|photo|picture|image|shot))?|good\s+(?:question|day|morning|evening)|"
    r"interesting(?:\s+(?:question|photo|image))?|hello(?:\s+there)?|hi(?:\s+there)?|hey(?:\s+there)?|greetings|wow|"
    r"nice(?:\s+(?:photo|picture|shot|image))?|thanks?(?:\s+you)?(?:\s+(?:so\s+much|for)[^.!:\n]{0,60})?|yes|yep|"
    r"yeah|well|hmm+|perfect|excellent|happy\s+to\s+help|"
    r"i['’]d\s+be\s+(?:happy|glad)\s+to[^.!:\n]{0,80}|i['’]m\s+happy\s+to[^.!:\n]{0,80}|"
    r"i\s+can\s+help[^.!:\n]{0,80}|what\s+an?\s+(?:\w+\s+){0,4}?(?:photo|picture|image|shot|bird|animal|flower|car|"
    r"dog|cat|one)?)"
    r"\s*(?:[!.,:;…]+|\s[-–—]+)\s*(?![a-z]*\s*$)"
    r"|(?:so|okay|ok|alright|well|now|right|hmm+|got\s+it|first)?[,.!\s]*(?:let['’]?s|let\s+me|i\s+need\s+to|"
    r"i\s+should|i['’]ll|i\s+will|the\s+user)\s(?-i:(?=[a-z]))[^\n.:!]*[\n.:!]+\s*"
    r"|(?:here(?:['’]s|\s+is|\s+are|\s+you\s+go)|below\s+is|the\s+following\s+is)\b[^:\n.!]{0,100}(?::|\n|!)\s*"
    r"|(?:in\s+(?:short|brief|summary|conclusion|a\s+word|other\s+words)|to\s+sum\s+up|overall|simply\s+put|tl;?dr)\s*[:,]\s*"
    r"|(?:based\s+on|after|upon|judging\s+(?:by|from)|from|looking\s+at|given|considering|according\s+to|as\s+per|"
    r"with)\s+(?-i:(?=[a-z]))(?:(?!\b(?:is|are|be|seems|appears|looks|as|i|i['’]d|we)\s+[^:\s])[^\n:.(]){0,160}:\s*)+)",
    re.IGNORECASE,
)
_ONLY_CHATTER = re.compile(
    r"^(?:sure|certainly|of\s+course|absolutely|okay|ok|alright|got\s+it|understood|great\s+question|hello|hi|hey|"
    r"wow|thanks?|thank\s+you|here['’]s|here\s+(?:is|are)|let['’]s|let\s+me|"
    r"so,?\s+let|okay,?\s+(?:so|let)|got\s+it,?\s+let|no\s+problem|yes|no|based\s+on|to\s+identify|to\s+determine|"
    r"looking\s+at|first,|step\s+\d|i\s+need\s+to|i\s+should|i['’]ll|the\s+user)\b"
    r"(?:[^A-Z]*$|[\s,]+(?:let|the|this|I|here|it)\b)",
    re.IGNORECASE,
)
_HEADINGS = frozenset(
    """analysis|observation|observations|description|reasoning|identification|image description|features|
    key features|explanation|identifying features|image analysis|
    step 1|step by step|overview|summary|introduction|details|characteristics|visual features|note|notes|thought|
    thoughts|thinking|thinking process|process|context|background|
    evidence|rationale|justification|confidence|visual description|visual analysis|visual characteristics|
    observed features|distinguishing features|label|
    answer|final answer|conclusion|result|species|class|fine grained class label|common name|name""".replace(
        "\n    ", ""
    ).split("|")
)
_PARTS = frozenset(
    """beak|bill|tail|wings|wing|head|body|legs|colour|color|colors|colours|coloration|size|shape|habitat|
    behavior|behaviour|petals|leaves|stem|grille|headlights|design|logo|
    plumage|markings|pattern|texture|material|make|brand|model|body style|year""".replace("\n    ", "").split("|")
)
"""Words that describe photos: as headings they are dropped, standing alone they are names (a wing, a grille)."""
_STATEMENT = re.compile(
    r"^(?:(?i:this|that|it|these|those|they|he|she|there|here|what|who)(?:\s+(?:[a-z]\w*\s+){0,4}?(?:is|are|was|"
    r"appears?|seems?|looks?|shows?|depicts?|could|might|may|must|would|can|does|doesn|"
    r"has|resembles|features|represents|contains)\b|['’](?:s|re)\s(?=[a-z\d\"“\ue000-\ue0ef]|"
    r"[A-Z][\w'’.+-]+\s[A-Za-z]))|"
    r"(?:[Ii]n|[Oo]n|[Ff]rom)\s[^,\n]{0,60}(?:image|photo|picture|photograph|shot|scene)\b[^,\n]{0,20},|"
    r"(?:[Nn]ot|[Ii]t['’]?s\s+not|(?:[Ii]t|[Tt]his|[Tt]hat)\s+(?:is\s+not|isn['’]t))\s+an?\s|"
    r"[Ii]t['’]s\s(?=\S)|(?:(?:[Ff]irst|[Nn]ext|[Tt]hen|[Nn]ow),?\s)?I\s+[a-z]+\s+(?:at|the|this|that|an?|with|from|"
    r"it|can|for|toward|towards)\b|"
    r"[Yy]ou['’]ve\s+got\s|[Ll]abel\s+is\s|"
    r"[Ii](?:['’](?:m|d|ve|ll)\b|\s+(?:think|believe|guess|suspect|would|can|could|am|see|don|do|cannot|will|have|"
    r"might|identify|say|lean|go)\b)|[Ww]e\s+(?:see|can|have)\b|[Yy]ou(?:['’]re|\s+are|\s+can)\s|"
    r"(?i:based\s+on|judging|looking\s+at)\b.*,|(?i:(?:so|ok|okay|alright|well|now|hmm+|got\s+it|first|"
    r"next)?[,.!\s]*)(?:[Ll]et['’]?s|[Ll]et\s+me|[Ii]\s+(?:need|should|have)\s+to|[Ii]['’]ll)\s+[a-z]|"
    r"(?i:the|this|an?|my|in|from|based|given|judging|looking|pictured|shown|as|without|while|although|"
    r"unfortunately|regarding|concerning|due|because|therefore|thus|so|hence|after|to|with|it|that|most\s+probably|"
    r"clearly)\b[^\n]*?[a-z,]\s(?:is|are|"
    r"was|appears?|seems?|looks|shows?|depicts?|"
    r"(?:should|can|could|would|cannot|can['’]t|couldn['’]t)\s+(?:be|not)\b|captures|presents|portrays|depicts|"
    r"might\s+be|may\s+be|must\s+be|would\s+be|can\s+be|displays?|features|resembles|represents|"
    r"contains|has|have|it['’]s)\s|"
    r"(?i:the\s+|this\s+)?(?i:image|photo|picture|photograph)\s+(?:is|shows?|depicts?|displays?|features|contains|"
    r"appears|of)\b)"
)
_VERB_INSIDE = re.compile(
    r"(?<=\S)\s(?:is|are|was|were|appears|seems|looks\s+like|has\s+(?:an?|the|been|its)|have|would\s+be|could\s+be|"
    r"might\s+be|may\s+be|can\s+be|which\s+is)\s(?!\d)|"
    r"['’](?:s|re)\s(?:an?|the|likely|probably)\s|\s(?:shows|depicts|features|displays)\s(?:an?|the|its|two|"
    r"several)\s"
)
_COLON_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])?\s*\**([A-Za-z][\w /-]{1,30})\**\s*:\s+\S")
_FEATURES = re.compile(
    r"\b(?:feature|characteristic|detail|aspect|observation|trait|attribute|element|point|step|reason|clue|factor|"
    r"indicator|propert)(?:s|ies)?\b",
    re.IGNORECASE,
)
_LETTERED = re.compile(r"^(?:[A-H]|option\s+[A-H\d]|choice\s+[A-H\d])[.):]\s+(?=\S)", re.IGNORECASE)

READER = 2
"""Increase it when answers come to mean other names: name tables are then recomputed, without querying the model."""
OPEN_THOUGHT = (
    "the answer ended inside its thoughts, before a name: raise label.max_tokens, or turn the model's thinking off"
)
CUT_OFF = "cut off: "
"""Prefix of the failure details of answers that were cut off by the token limit."""


def clean_answer(raw: str | None, cut: bool = False) -> str | Failure:
    """The name that an answer means.

    Args:
        raw: the answer; None if there is none.
        cut: whether the token limit ended it: a name at its very end may then be half a name.

    Returns:
        The name in the model's spelling (case kept), or a Failure: EMPTY_ANSWER if nothing is left or no name can be
        found, REFUSED if the model does not know or will not say, NOTHING_THERE if the photo shows nothing of the
        kind, OTHER_LANGUAGE for a statement in a language that is not parsed.
    """
    reply = unwrap(bounded(raw or ""))
    if reply.open_thought:
        return Failure(Reason.EMPTY_ANSWER, f"{CUT_OFF}it ended inside its thoughts" if cut else OPEN_THOUGHT)
    if not re.search(r"\w", reply.text):
        nothing = f"{CUT_OFF}nothing was said before the end" if cut else f"the answer was {raw!r}"
        return Failure(Reason.EMPTY_ANSWER, nothing)
    read = _read(reply.text, explicit=reply.explicit)
    if not cut:
        return read
    if isinstance(read, str):
        return read if _is_complete(read, raw or "") else Failure(Reason.EMPTY_ANSWER, f"{CUT_OFF}{reply.text!r}")
    return read if read.reason is not Reason.EMPTY_ANSWER else Failure(read.reason, CUT_OFF + read.detail)


def _read(text: str, *, explicit: bool) -> str | Failure:
    """The name in an unwrapped answer, or why there is none."""
    names = structured_names(text)
    if names is not None:
        text, explicit = names[0] if names else "", True
        if not re.search(r"\w", text):
            return Failure(Reason.EMPTY_ANSWER, "the JSON in the answer names nothing")
    if is_refusal(text) or says_nothing_there(text):
        return _named_after_all(text) or _without_name(text)
    language = foreign_language(text)
    if language is not None:
        return Failure(Reason.OTHER_LANGUAGE, f"a statement in {language}, which is not read: {text!r}")
    name = _name_of(protected(text), exact=explicit)
    if name and spelling_key(name) and not is_placeholder(name):
        return name
    return (None if name else _named_after_all(text)) or _without_name(name or text, text)


def _named_after_all(text: str) -> str | None:
    """The name that follows an apology: "I'm sorry, I can't be certain, but it looks like a **Herring Gull**."."""
    if says_nothing_there(text):
        return None
    pieces = re.split(
        r"(?<=[.!])\s+|,?\s+but\s+(?:rather\s+)?|;\s+|\bhowever,?\s+", protected(text), flags=re.IGNORECASE
    )
    for piece in pieces[1:]:
        said = restored(piece)
        if not is_refusal(said) and not mentions_refusal(said) and _STATEMENT.match(said):
            found = name_in_prose(piece)
            named = found and (re.search(r"[A-Z]", found) or bold_words(piece))
            if found and named and not is_placeholder(found):
                return found
    return None


def _without_name(text: str, whole: str = "") -> Failure:
    """Why an answer has no name."""
    for said in dict.fromkeys((text, whole or text)):
        if says_nothing_there(said):
            return Failure(Reason.NOTHING_THERE, whole or text)
        if is_refusal(said) or mentions_refusal(said) or is_placeholder(said):
            return Failure(Reason.REFUSED, whole or text)
    return Failure(Reason.EMPTY_ANSWER, f"no name found in {(whole or text)!r}")


def _name_of(text: str, *, exact: bool = False, depth: int = 0) -> str | None:
    """The name in protected text; `exact`: a tag, a field or JSON says that the text is a name."""
    text = _DIALOGUE.sub("", text.strip())
    if depth < 3:
        value = best_field(text)
        if value is not None:
            found = _name_of(value, exact=True, depth=depth + 1)
            if found:
                return found
    if not exact:
        text = _without_chatter(text)
    quotation = quoted(text)
    if quotation is not None and not re.search(r"\w", quotation[1]):  # a quoted sentence is read as an unquoted one
        text, exact = quotation[0], True
    lines = [line for line in text.split("\n") if re.search(r"\w", line)]
    of_features = False
    while len(lines) > 1 and _is_heading(lines[0]):
        of_features = _FEATURES.search(restored(lines[0])) is not None
        lines = lines[1:]
    if not lines:
        return None
    if of_features and without_list_mark(lines[0]) != lines[0]:
        return _prose("\n".join(lines))
    return _direct(lines, exact=exact) or _prose("\n".join(lines))


def _prose(text: str) -> str | None:
    found = name_in_prose(text)
    if found is None:
        return None
    name = without_tail(without_lead(trimmed(found), exact=True))
    return name if is_short_enough(name) else None


def _without_chatter(text: str) -> str:
    """Without "Sure!", "Great question!" and "Here is the label:" at the beginning, if something follows."""
    spoken = _SPEAKER.sub("", text)
    plain = without_bold(spoken)
    found = _CHATTER.match(plain)
    if found is None or not found[0]:
        return spoken
    if not re.search(r"\w", plain[found.end() :]):
        return text
    start = [place for place, letter in enumerate(spoken) if without_bold(letter)][found.end()]
    if not without_bold(spoken[start - 1]):
        start -= 1  # keep the bold type of what follows, for `prose`
    return spoken[start:]


def _is_heading(line: str) -> bool:
    """Whether a line announces what follows: "### Label", "**Analysis**", "Here are the details:"."""
    bare = trimmed(restored(line))
    plain = restored(line)
    if plain.rstrip(" *_").endswith(":") and not is_field(line) and len(sentences(plain)) == 1:
        return count_words(plain) <= MAX_WORDS and name_in_prose(line) is None
    if spelling_key(bare) in _HEADINGS or (spelling_key(bare) in _PARTS and plain.strip() != line.strip()):
        return True
    return _ONLY_CHATTER.match(bare) is not None and count_words(bare) <= MAX_WORDS and name_in_prose(line) is None


def _direct(lines: list[str], *, exact: bool) -> str | None:
    """The name if the answer begins with it; None if the first line says more than a name."""
    headed = [found[1] for line in lines if (found := _COLON_LINE.match(restored(line)))]
    listed = sum(spelling_key(heading) not in _HEADINGS for heading in headed) > 1
    for first in _beginnings(lines[0]):
        name = _short_name(first, exact=exact, heading=listed)
        if name is not None:
            return name
    return None


def _beginnings(line: str) -> Iterator[str]:
    """The line if it is a single sentence, then its first sentence."""
    cut = sentences(line)
    if len(cut) == 1 or (all(piece[-1] in "!?" for piece in cut[:-1]) and is_title(restored(line))):
        yield line  # "Where's Wally? The Wonder Book"
    if len(cut) > 1:
        yield cut[0]


def _short_name(text: str, *, exact: bool, heading: bool) -> str | None:
    """The name if a sentence is only a name, without what surrounds it; None if the sentence says more."""
    text = text if exact else without_list_mark(text)
    quotation = quoted(text.strip())
    if heading and quotation is not None and restored(quotation[1]).lstrip().startswith(":"):
        return None
    if quotation is not None and not re.search(r"\w", re.sub(r"\([^)]*\)|^\s*[-–—:,].*$", "", restored(quotation[1]))):
        text, exact = quotation[0], True
    plain = restored(text if exact else _LETTERED.sub("", text)).strip()[:_READ_FOR_A_NAME]
    item = heading and not exact and re.search(r":\s", plain) is not None  # a list item with a heading: "Beak: long"
    if item or not re.search(r"\w", plain) or _states(plain, exact=exact):
        return None
    name = without_lead(without_tail(without_lead(trimmed(plain), exact=exact)), exact=exact)
    if name != trimmed(plain) and _states(name, exact=exact):
        return None  # "Most probably, this is a …"
    return name if _is_name(name, exact=exact, alone=name == trimmed(plain)) else None


def _states(text: str, *, exact: bool) -> bool:
    """Whether a text is a statement; titles are not: "I'm From Rice", "There Is Nothing Left to Lose"."""
    if not (_ONLY_CHATTER.match(text) or _STATEMENT.match(text)):
        return False
    contracted = re.match(r"(?i:it|that|this)['’]s\s+(?:an?|the)\s", text) or (
        not exact and re.match(r"\w+['’]s\s+(?i:an?|the)\s|[Ii]t['’]s\s", text)
    )
    return bool(contracted) or not begins_with_title(text)


def _is_name(name: str, *, exact: bool, alone: bool) -> bool:
    """Whether what is left of a sentence is a name; `alone`: whether it is the whole sentence."""
    if not is_short_enough(name) or (not alone and spelling_key(name) in _HEADINGS | _PARTS):
        return False
    title = is_title(name)
    if _VERB_INSIDE.search(f"{name} ") and not title:
        return False  # a finite verb makes it a sentence that contains a name
    return exact or title or count_words(name) <= _SHORT_ANSWER_WORDS


def _is_complete(name: str, text: str) -> bool:
    """Whether a cut-off answer continues after the name; if not, the name's last word may be incomplete."""
    place = text.find(name)
    return place >= 0 and not _may_go_on(text[place + len(name) :])


def _may_go_on(rest: str) -> bool:
    """Whether the text between a name and the cut may be the start of more of the name."""
    return not re.search(r"[\n.,;:!?\"”’)*`<]|\s\w", rest) or re.match(r"^[-–/&+']\s*\w*$", rest) is not None
