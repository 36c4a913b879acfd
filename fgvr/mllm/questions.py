"""Aspect questions: read from a file that people edit, or written and ranked by a language model (MaKD, 3.1).

The prompts are the paper's; what comes back is parsed as what it is, text by a talkative stranger.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from fgvr import schemas, storage
from fgvr.errors import UserError
from fgvr.mllm.answers import spelling_key
from fgvr.mllm.backend import Sampling, TextGenerator
from fgvr.mllm.prompts import text_conversation

log = logging.getLogger(__name__)

SYSTEM = "You are a good question maker."
"""The paper's system prompt."""

MAX_CLASS_NAMES = 300
"""Names that a prompt lists at most; of a larger list every n-th, so that all of the alphabet is there."""

_RANKING = (
    "Select {count} of the most relevant and distinct questions from the list, focusing on various key features that"
    " distinguish different class in the dataset. Write the selected questions as they stand, one a line, the most"
    " useful first."
)
_ROUNDS = 4
_REPLY_TOKENS = 4096
_LIST_MARK = re.compile(r"^\s*(?:[-*•–>]|\(?\d{1,3}[.):]|Q(?:uestion)?\s*\d{1,3}\s*[.):]?)\s*", re.IGNORECASE)
_QUESTION = re.compile(r"[^.!?\n]*\?")
_STARTS = re.compile(
    r"^(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would|should)(?:n['’]t)?\s", re.IGNORECASE
)
_TO_THE_READER = re.compile(r"\b(?:you|your|me|i)\b", re.IGNORECASE)


class QuestionsError(UserError, ValueError):
    """No usable questions; the message names the file or shows the model's reply."""


@dataclass(frozen=True)
class AspectQuestion:
    """A question, its rank (1 = most useful) and where it comes from."""

    text: str
    rank: int
    source: str


def read_questions(uri: str) -> list[AspectQuestion]:
    """Questions of a file, best first: one a line (`#` starts a comment), or a CSV with the column `text`.

    A CSV may have the columns `rank` and `source`, too. Repeated questions are dropped.

    Raises:
        QuestionsError: no such file, or no question in it.
    """
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError:
        raise QuestionsError(f"questions.file: there is no file {uri}") from None
    except UnicodeDecodeError as error:
        raise QuestionsError(f"questions.file: {uri} is not UTF-8 text: {error}") from None
    name = uri.rsplit("/", 1)[-1]
    if uri.lower().endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if "text" not in (reader.fieldnames or []):
            raise QuestionsError(f"questions.file: {uri} needs a column text, has {reader.fieldnames}")
        try:
            rows = sorted(reader, key=lambda row: int(row.get("rank") or 10**9))
        except ValueError as error:
            raise QuestionsError(f"questions.file: {uri}: a rank is not a whole number: {error}") from None
        found = [((row["text"] or "").strip(), row.get("source") or name) for row in rows]
    else:
        found = [(line.strip(), name) for line in text.splitlines() if not line.lstrip().startswith("#")]
    kept = {spelling_key(question): (question, source) for question, source in reversed(found) if question}
    if not kept:
        raise QuestionsError(f"questions.file: there is no question in {uri}")
    ordered = [(q, source) for q, source in dict.fromkeys(found) if q and kept[spelling_key(q)] == (q, source)]
    for question, _ in ordered:
        if not question.endswith(("?", "？", "؟")):
            log.warning("questions.file: %r has no question mark; it is asked as it stands", question[:100])
    return [AspectQuestion(question, rank, source) for rank, (question, source) in enumerate(ordered, start=1)]


def parse_questions(reply: str) -> list[str]:
    """The yes/no questions in a language model's reply, without numbering, markdown and chatter.

    A line is kept if it holds exactly one question, and that one starts like a yes/no question in English; repeated
    questions are dropped.
    """
    kept: dict[str, str] = {}
    for line in reply.splitlines():
        plain = _LIST_MARK.sub("", re.sub(r"\*{1,3}|`|_{2}|^#+\s*", "", line.strip())).strip(" \"'“”")
        questions = [question.strip(" \"'“”:-") for question in _QUESTION.findall(plain)]
        if len(questions) != 1:
            continue
        question = " ".join(questions[0].split(":")[-1].split())
        if _STARTS.match(question) and not _TO_THE_READER.search(question):
            kept.setdefault(spelling_key(question), question[0].upper() + question[1:])
    return list(kept.values())


def generation_prompt(classes: Sequence[str], subject: str, count: int, known: Sequence[str] = ()) -> str:
    """The paper's instruction; `known` questions are not to be repeated."""
    prompt = (
        f"The dataset consists of {len(classes)} classes and images of {subject}. The class list is as follows:"
        f" {', '.join(listed(classes))}. Generate {count} feature-specific Yes or No questions, focusing on clear and"
        " distinct aspects of the objects in the images in the dataset. Write one question a line."
    )
    return prompt + ("\nDo not repeat any of these:\n" + "\n".join(known) if known else "")


def ranking_prompt(questions: Sequence[str], count: int) -> str:
    """The paper's instruction to select; the order of the reply is the rank."""
    return "\n".join([_RANKING.format(count=count), *questions])


def listed(classes: Sequence[str]) -> list[str]:
    """At most MAX_CLASS_NAMES of the names, evenly spread."""
    step = -(-len(classes) // MAX_CLASS_NAMES)
    return list(classes[:: max(1, step)])


def generate_questions(
    llm: TextGenerator, classes: Sequence[str], *, subject: str, generate: int, keep: int, source: str
) -> list[AspectQuestion]:
    """Let a language model write `generate` questions and select `keep`, best first.

    A model that writes too few is asked again for others; one that selects too few is filled up in the order of
    writing.

    Raises:
        QuestionsError: no reply held a yes/no question.
    """
    written: dict[str, str] = {}
    reply = ""
    for _ in range(_ROUNDS):
        known = list(written.values())
        reply = _ask(llm, generation_prompt(classes, subject, generate - len(known), known))
        before = len(written)
        for question in parse_questions(reply):
            written.setdefault(spelling_key(question), question)
        if len(written) >= generate or len(written) == before:
            break
    if not written:
        raise QuestionsError(f"questions.llm: no yes/no question in the model's reply, which was {reply[:500]!r}")
    questions = list(written.values())[:generate]
    chosen: dict[str, str] = {}
    if len(questions) > keep:
        selected = {spelling_key(question) for question in questions}
        for question in parse_questions(_ask(llm, ranking_prompt(questions, keep))):
            if (key := spelling_key(question)) in selected:
                chosen[key] = written[key]
    ranked = list(chosen.values()) + [question for question in questions if spelling_key(question) not in chosen]
    return [AspectQuestion(question, rank, source) for rank, question in enumerate(ranked[:keep], start=1)]


def question_rows(questions: Iterable[AspectQuestion]) -> pa.Table:
    """Rows of the questions table: ids in the order of the ranks."""
    rows = [
        {"question_id": question_id, "text": question.text, "rank": question.rank, "source": question.source}
        for question_id, question in enumerate(questions)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.QUESTIONS)


def write_questions(questions: Iterable[AspectQuestion]) -> bytes:
    """A CSV that `read_questions` reads again."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("rank", "text", "source"))
    writer.writerows((question.rank, question.text, question.source) for question in questions)
    return text.getvalue().encode()


def _ask(llm: TextGenerator, prompt: str) -> str:
    (answer,) = llm.generate([text_conversation(prompt, SYSTEM)], Sampling(max_tokens=_REPLY_TOKENS))
    if answer.text is None:
        reason = answer.failure.detail if answer.failure is not None else "no reply"
        raise QuestionsError(f"questions.llm: the model did not answer: {reason}")
    return answer.text
