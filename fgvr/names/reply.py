"""Removes what a model's reply is wrapped in: thoughts, end-of-turn marks, answer tags, HTML, code fences.

No rule knows what a name is. The marks are those of open models' chat templates and reasoning formats
(DeepSeek-R1, Qwen3, QwQ, Kimi-VL, GLM-4.5V, gpt-oss, Gemma, Command A, LLaVA-CoT, Magistral, Llama, Mistral, InternVL).
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass

from fgvr.names.spelling import spelling_key

_THOUGHT = (
    r"(?:[\w:]*(?:think|thought|reason|reflect|monolog|scratch_?pad|rationale|deliberat|planning)\w*|analysis|summary|"
    r"caption)"
)
"""Tags of thoughts, matched by the word in them: <think>, <seed:think>, <inner_thoughts>, <internal_monologue>."""
_PLAIN_THOUGHT = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis)"  # "[ThinkPad]" is not a tag
_OPENED = re.compile(
    rf"<\s?\|?{_THOUGHT}\|?\s?>|\[{_PLAIN_THOUGHT}\]|◁{_THOUGHT}▷|<\|channel\|?>\s*(?:analysis|commentary|"
    rf"thought)\b|<unused94>|<\|?(?:think|thought|reason)\w*\Z|<details[^<>]{{0,80}}>\s*<summary>|"
    r"\A(?-i:analysis(?=[A-Z]))|\Athinking\.{3}\n",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    rf"<\s?\|?/\s?{_THOUGHT}\|?\s?>|\[/{_PLAIN_THOUGHT}\]|◁/{_THOUGHT}▷|<\|end_of_thought\|>|<\|end_thinking\|>|"
    rf"<channel\|>|"
    r"<\|channel\|>\s*final\s*(?:<\|message\|>)?|<unused95>|</details>|(?-i:assistantfinal(?=[A-Z]))|"
    r"^\.{3}\s?done thinking\.?$",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER_TAG = (
    r"(?:[a-z]+_){0,3}(?:answer|final|conclusion|label|class|name|output|result|response|prediction|solution|species|"
    r"breed|category|product|item|object)"
)
_ANSWER = re.compile(
    rf"<(?P<tag>{_ANSWER_TAG})(?:\s[^<>]{{0,80}})?>\s*(?P<inside>.*?)\s*(?:</(?P=tag)>|\Z)|"
    r"<\|begin_of_(?:box|solution)\|>\s*(?P<box>.*?)\s*(?:<\|end_of_(?:box|solution)\|>|\Z)|"
    r"\[(?:ANSWER|RESPONSE)\]\s*(?P<bracket>.*?)\s*(?:\[/(?:ANSWER|RESPONSE)\]|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_BOXED = re.compile(r"(?:\\|(?<!\w))(?:boxed|fbox)\s*\{")
_COMMAND = re.compile(r"\\(?:text\w*|math\w+|emph|operatorname|mbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_MATHS = re.compile(r"\$\$?(?=\\)([^$\n]*)\$\$?|\\[(\[]([^\n]*?)\\[)\]]")
_ESCAPED = re.compile(r"\\([&%$#_*~ {}\[\]()!.+-])")
_TURN_START = re.compile(
    r"^\s*(?:<\|(?:im_start|start)\|>\s*assistant|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>|"
    r"<start_of_turn>\s*model|<\|turn>\s*model|<\|message\|>|<\|assistant\|>|<s>|<bos>|<\|begin_of_text\|>|"
    r"\[/INST\])\s*",
    re.IGNORECASE,
)
_TURN_END = re.compile(
    r"</s>|<s>|</?(?:start|end)_of_turn>|<turn\|>|<\|[^<>|\n]{1,40}\|?>|<[｜|][^<>\n]{1,40}[｜|]>|"
    r"<\|?(?:eos|bos|pad|unk|sep|eot|eod|endoftext|end_of_utterance|end_of_sentence|eot_id|end|image)\|?>|"
    r"</?(?:assistant|user|system)>|\[\|?/?end\w*\|?\]|<0x0A>|<\|\w*\|?\Z|"
    r"(?-i:\[/?(?:INST|EOS|BOS|EOT|EOD|SEP|PAD|DONE)\])",
    re.IGNORECASE,
)
_PROMPT = re.compile(r"\A.*\[/INST\](?=.*\w)", re.DOTALL)
_PLACES = re.compile(
    r"<\|?(?P<kind>b?box|quad|point)(?:_start)?\|?>[\s\d\[\](),.]*<[/|]?(?P=kind)(?:_end)?\|?>", re.IGNORECASE
)
_HTML_BREAK = re.compile(r"<(?:br|/p|/div|/li|/tr|/h[1-6]|hr)\s*/?>", re.IGNORECASE)
_HTML_CELL = re.compile(r"</t[dh]>(?=\s*<t[dh])", re.IGNORECASE)
_HTML = re.compile(r"<[/?]?[A-Za-z][\w.:-]{0,40}(?:\s[^<>]{0,200})?[/?]?>")
_ENTITIES = re.compile(r"&(?:#\d{2,6}|#x[0-9a-fA-F]{2,5}|[A-Za-z]{2,8}\d?);")
_FENCE = re.compile(r"```+[ \t]*[\w+-]*[ \t]*\n?(?P<inside>.*?)\n?\s*(?:```+|\Z)", re.DOTALL)
_INVISIBLE = re.compile(
    r"[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe0e\ufe0f\ufeff\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_ONE_FORM = {
    "<wide>",
    "<narrow>",
    "<noBreak>",
    "<small>",
    "<vertical>",
    "<initial>",
    "<medial>",
    "<final>",
    "<isolated>",
}


_LONGEST = 8_000
"""Characters of an answer that are read, half from its beginning and half from its end."""
_ENDLESS_SIGN = re.compile(r"(\W)\1{59,}")
_ENDLESS_WORD = re.compile(r"(\S{400})\S+")

_NAMES = re.compile(
    r"^(?:(?:fine grained|class|common|english|product|predicted|best|final|top|bird|dog|car|plant|flower|possible)\s)*"
    r"(?:label|name|class|answer|prediction|guess|product|species|breed|model|candidate|category|object|item)s?$"
)
_BESIDE = re.compile(
    r"^(?:#|no|rank|confidence(?: \w+)?|probability|score|likelihood|reason(?:ing)?|notes?|description|explanation|"
    r"scientific name|latin name|family|value|field|attribute|property|key|details?)$"
)
_RULE = re.compile(r"^[\s|:+=-]*-[\s|:+=-]*$")


@dataclass(frozen=True)
class Reply:
    """A model's reply without its wrapping.

    Attributes:
        text: the reply without thoughts, marks and fences; for a tagged answer, the content of the tag.
        explicit: whether a tag or box marks the text as the answer and nothing else.
        open_thought: whether the reply ended inside its thoughts: then there is no answer.
        tagged: the content of each tag if several of one kind follow each other, as in a list.
    """

    text: str
    explicit: bool = False
    open_thought: bool = False
    tagged: tuple[str, ...] = ()


def unwrap(raw: str) -> Reply:
    """A reply without its wrapping; see `Reply`."""
    text = _ENTITIES.sub(lambda entity: html.unescape(entity[0]), one_form(raw))
    text, open_thought = without_thoughts(_PROMPT.sub("", _PLACES.sub("", text)))
    whole, tagged = text, _tagged(text)
    if tagged is not None:
        text = tagged
    elif open_thought:
        return Reply("", open_thought=True)
    text = _up_to_the_turns_end(text)
    text = _HTML.sub("", _HTML_CELL.sub(" | ", _HTML_BREAK.sub("\n", text)))
    text = _without_latex(text)
    text = _FENCE.sub(lambda fence: f"\n{fence['inside']}\n", text) if "```" in text else text
    text = re.sub(
        r"^assistant\s*\n|(?:\\n)+$|(?<=\S)\s*#{2,}$|(?<=\w)\s?\[\^\d{1,2}\]$", "", text.strip(), flags=re.IGNORECASE
    )
    each = tuple(_HTML.sub("", found["inside"]) for found in _ANSWER.finditer(whole) if found["inside"])
    return Reply(text.strip(), explicit=tagged is not None, tagged=each if len(each) > 1 else ())


def bounded(text: str) -> str:
    """A text of limited length: a model that repeats itself without end must not hold up the others."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}\n{text[-_LONGEST // 2 :]}"
    text = _ENDLESS_SIGN.sub(lambda run: run[0][:60], text)
    return _ENDLESS_WORD.sub(r"\1", text)


def one_form(text: str) -> str:
    """NFC text in which full-width and no-break characters are plain and invisible ones are removed.

    Full NFKC would change names: "m²", "1½" and "Coca-Cola™".
    """
    text = unicodedata.normalize("NFC", text)
    if not text.isascii():
        text = "".join(letter if letter.isascii() else _plain(letter) for letter in text)
        text = unicodedata.normalize("NFC", text)  # half-width kana have separate characters for their marks
    return _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _plain(letter: str) -> str:
    kind, _, _ = unicodedata.decomposition(letter).partition(" ")
    if unicodedata.category(letter) == "Zs":
        return " "
    if kind in _ONE_FORM or "\ufb00" <= letter <= "\ufb06":  # the last are ligatures: ﬁ
        return unicodedata.normalize("NFKC", letter)
    return "\n" if letter in "\u2028\u2029\x85" else letter


def without_thoughts(text: str) -> tuple[str, bool]:
    """A reply after its thoughts, and whether they were never closed and nothing else was said."""
    closed = list(_CLOSED.finditer(text))
    if closed and text[closed[-1].end() :].strip():
        text = text[closed[-1].end() :]
    elif closed:  # thoughts after the answer
        first = _OPENED.search(text)
        return ("" if first is None else text[: first.start()]), False
    opened = _OPENED.search(text)
    if opened is None:
        return text, False
    return text[: opened.start()], not text[: opened.start()].strip(" \n*#")


def _tagged(text: str) -> str | None:
    """The content of the last answer tag or box; None if there is none or it is empty."""
    found = None
    for match in _ANSWER.finditer(text):
        inside = match["inside"] or match["box"] or match["bracket"] or ""
        found = inside if inside.strip() else found
    boxes = list(_BOXED.finditer(text))
    box = boxes[-1] if boxes else None  # the last one counts
    if box is not None and (inside := _braced(text, box.end())).strip():
        found = inside.replace("~", " ")  # TeX's blank
    return found


def _without_latex(text: str) -> str:
    """Replaces LaTeX commands and formulas by the text they typeset; removes backslashes before signs."""
    if "\\" not in text:
        return text
    text = _MATHS.sub(lambda maths: maths[1] or maths[2] or "", text)
    for _ in range(3):
        text = _COMMAND.sub(r"\1", text)
    return _ESCAPED.sub(r"\1", text)


def _braced(text: str, start: int) -> str:
    """From `start` to the closing brace, or to the end."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return text[start:]


def _up_to_the_turns_end(text: str) -> str:
    """Without turn marks; what follows the end of the model's own turn is dropped."""
    text = _TURN_START.sub("", text, count=1)
    place = 0
    for mark in _TURN_END.finditer(text):
        if text[place : mark.start()].strip():
            return text[place : mark.start()]
        place = mark.end()
    return text[place:]


# Names in a reply that is a table: Markdown, HTML (whose cells were converted to Markdown), or comma-separated.


def table_names(text: str) -> list[str] | None:
    """The cells of the column, or of the row, whose heading says that it holds names.

    Returns:
        The names in order; None if the text is no table, or a table without names.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    for mark in ("|", ",", "\t"):
        rows = [_cells(line, mark) for line in lines if mark in line.strip() and not _RULE.match(line)]
        if not rows or (mark != "|" and len(rows) != len(lines)):
            continue
        heading = [spelling_key(cell) for cell in rows[0]]
        column = next((place for place, cell in enumerate(heading) if _NAMES.match(cell)), None)
        others = [cell for place, cell in enumerate(heading) if place != column and cell]
        if column is not None and len(rows) > 1 and all(map(_BESIDE.match, others)):
            return [row[column] for row in rows[1:] if column < len(row) and re.search(r"\w", row[column])]
        if mark == "|" and all(len(row) == 2 for row in rows):
            named = [row[1] for row in rows if _NAMES.match(spelling_key(row[0])) and re.search(r"\w", row[1])]
            return named or None
    return None


def _cells(line: str, mark: str) -> list[str]:
    line = line.strip()
    line = line.removeprefix(mark).removesuffix(mark) if mark == "|" else line
    return [cell.strip(' *_`"') for cell in line.split(mark)]
