"""Aspect questions: read from a file that people edit, or written and ranked by a language model (MaKD, 3.1).

The prompts are the paper's; the replies are parsed as the untrusted, chatty text they are.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from fgvr import schemas, storage
from fgvr.errors import UserError
from fgvr.mllm.backend import Answer, Sampling, TextGenerator
from fgvr.mllm.prompts import text_conversation
from fgvr.mllm.question_duplicates import drop_duplicates
from fgvr.names.merging import NameEncoder
from fgvr.names.reply import without_thoughts
from fgvr.names.spelling import spelling_key
from fgvr.text_files import EditedCsvError, decoded, lines, read_edited_csv

log = logging.getLogger(__name__)

READER = 1
"""Increase it when the same model and names would give other questions: changed prompts, or changed parsing."""
SYSTEM = "You are a good question maker."
"""The paper's system prompt."""

MAX_CLASS_NAMES = 300
"""Most names listed in a prompt; of a longer list every n-th name, spread over the alphabet."""

_RANKING = (
    "Select {count} of the most relevant and distinct questions from the list, focusing on various key features that"
    " distinguish different class in the dataset. Write the selected questions as they stand, one a line, the most"
    " useful first."
)
MAX_WORDS = 40
"""Longest generated question in words; a longer one is a story, and costs tokens for every image."""
_ROUNDS = 4
_REPLY_TOKENS = 4096
_CELLS = re.compile(r"\||(?<=\?)[\"']\s*,\s*[\"']")  # cells of a table, items of a list of texts
_MARKS = re.compile(r"\*{1,3}|`|_{2}|^#+\s*|</?[a-z]+>")
_LIST_MARK = re.compile(r"^\s*(?:[-*•–>]|\(?\d{1,3}[.):]|Q(?:uestion)?\s*\d{1,3}\s*[.):]?)\s*", re.IGNORECASE)
_QUESTION = re.compile(r"(?:[^.!?\n]|[.!](?=\S))*\?")
_STARTS = re.compile(
    r"^(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would|should)(?:n['’]t)?\s", re.IGNORECASE
)
_TO_THE_READER = re.compile(r"\b(?:you|your|me|i)\b", re.IGNORECASE)
_SECOND = re.compile(r"\b(?:and|or)\s+(?:is|are|does|do|has|have|can)\s", re.IGNORECASE)
_HEADING = re.compile(r"^[^?]*(?::|\s[-–—])\s+")


class QuestionsError(UserError, ValueError):
    """No usable questions; the message names the file or shows the model's reply."""


@dataclass(frozen=True)
class AspectQuestion:
    """A question, its rank (1 = most useful) and where it comes from."""

    text: str
    rank: int
    source: str


def read_questions(uri: str) -> list[AspectQuestion]:
    """The questions in a file, best first: one per line (`#` starts a comment), or a CSV or TSV with the column `text`.

    A table may also have the columns `rank` and `source`. Repeated questions are dropped.

    Raises:
        QuestionsError: no such file, or no questions in it.
    """
    is_table = uri.lower().endswith((".csv", ".tsv"))
    try:
        data = storage.read_bytes(uri)
        text = "" if is_table else decoded(data)
    except FileNotFoundError:
        raise QuestionsError(f"questions.file: there is no file {uri}") from None
    except UnicodeDecodeError as error:
        raise QuestionsError(f"questions.file: {uri} is not UTF-8 text: {error.reason}") from None
    name = uri.rsplit("/", 1)[-1]
    if is_table:
        found = [(row["text"].strip(), row.get("source") or name) for row in _rows_by_rank(data, uri)]
    else:
        found = [(line.strip(), name) for line in lines(text) if not line.lstrip().startswith("#")]
    kept = {spelling_key(question): (question, source) for question, source in reversed(found) if question}
    if not kept:
        raise QuestionsError(f"questions.file: there is no question in {uri}")
    ordered = [(q, source) for q, source in dict.fromkeys(found) if q and kept[spelling_key(q)] == (q, source)]
    for question, _ in ordered:
        if len(question.split()) > MAX_WORDS:
            log.warning("questions.file: %r… is long; every image is asked all of it", question[:100])
        if not question.endswith(("?", "？", "؟")):
            log.warning("questions.file: %r has no question mark; it is asked as it stands", question[:100])
    return [AspectQuestion(question, rank, source) for rank, (question, source) in enumerate(ordered, start=1)]


def _rows_by_rank(data: bytes, uri: str) -> list[dict[str, str]]:
    """Rows of a CSV of questions, best first; raises QuestionsError."""
    try:
        rows = [row.fields for row in read_edited_csv(data, uri, ("text",), ("rank", "source"))]
    except EditedCsvError as error:
        raise QuestionsError(f"questions.file: {error}") from None
    try:
        return sorted(rows, key=lambda row: int(row.get("rank") or 10**9))
    except ValueError as error:
        raise QuestionsError(f"questions.file: {uri}: a rank is not a whole number: {error}") from None


def parse_questions(reply: str) -> list[str]:
    """The yes/no questions in a language model's reply, without its thoughts, numbering, markdown and chatter.

    A line, a cell of a markdown table, or a text in a JSON list is kept if it holds exactly one question of at most
    MAX_WORDS words that starts like a yes/no question in English, the language of the prompts; repeated questions
    are dropped.
    """
    kept: dict[str, str] = {}
    for line in without_thoughts(reply)[0].splitlines():
        for cell in _CELLS.split(line):
            question = _question_of(cell)
            if question is not None:
                kept.setdefault(spelling_key(question), question[0].upper() + question[1:])
    return list(kept.values())


def _question_of(line: str) -> str | None:
    """The single question of a line, if it is a yes/no question about the photo."""
    plain = _LIST_MARK.sub("", _MARKS.sub("", line.strip())).strip(" \"'“”,[]{}")
    if _STARTS.match(plain) and plain.endswith("?") and plain.count("?") == 1:
        found = plain  # the whole line, which may contain "St. Bernard" or "5.0 litres"
    else:
        questions = _QUESTION.findall(plain)
        if len(questions) != 1:
            return None
        found = questions[0].strip(" \"'“”:-–—")
    question = " ".join((found if _STARTS.match(found) else _HEADING.sub("", found).lstrip("[\"'")).split())
    if not _STARTS.match(question) or _TO_THE_READER.search(question) or _SECOND.search(question):
        return None
    return question if len(question.split()) <= MAX_WORDS else None


def generation_prompt(classes: Sequence[str], subject: str, count: int, known: Sequence[str] = ()) -> str:
    """The paper's instruction; `known` questions are not to be repeated."""
    prompt = (
        f"The dataset consists of {len(classes)} classes and images of {subject}. The class list is as follows:"
        f" {', '.join(listed(classes))}. Generate {count} feature-specific Yes or No questions, focusing on clear and"
        " distinct aspects of the objects in the images in the dataset. Write one question a line."
    )
    return prompt + ("\nDo not repeat any of these:\n" + "\n".join(known) if known else "")


def ranking_prompt(questions: Sequence[str], count: int) -> str:
    """The paper's instruction to select questions; the order in the reply is the rank."""
    return "\n".join([_RANKING.format(count=count), *questions])


def listed(classes: Sequence[str]) -> list[str]:
    """At most MAX_CLASS_NAMES of the names, evenly spread."""
    step = -(-len(classes) // MAX_CLASS_NAMES)
    return list(classes[:: max(1, step)])


@dataclass(frozen=True)
class Wanted:
    """What a language model should write.

    Attributes:
        subject: what the classes are ("birds").
        generate: number of questions requested before the ranking.
        keep: Q, the questions kept by rank.
        similarity: cosine from which a question is a near-duplicate (see `fgvr.mllm.question_duplicates`); None: only
            identical questions are.
    """

    subject: str
    generate: int
    keep: int
    similarity: float | None = None


def generate_questions(
    llm: TextGenerator, classes: Sequence[str], wanted: Wanted, *, source: str, load_encoder: Callable[[], NameEncoder]
) -> list[AspectQuestion]:
    """Let a language model write questions and select the best; of near-duplicates the better ranked one stays.

    If the model writes too few, it is asked for more; if it selects too few, they are filled up in the order of
    writing.

    Args:
        llm: the model.
        classes: names of what the photos may show.
        wanted: how many questions, and about what.
        source: value of the table's column `source`.
        load_encoder: loads text embeddings for near-duplicates; called only if two questions may be one.

    Raises:
        QuestionsError: no reply contained a yes/no question.
    """
    written = _written(llm, classes, wanted)
    ranked = _ranked(llm, written, wanted.keep)
    if wanted.similarity is not None:
        ranked, repeats = drop_duplicates(ranked, wanted.subject, load_encoder, wanted.similarity)
        for question, earlier in repeats.items():
            log.info("questions: %r repeats %r, which ranks higher", question, earlier)
        log.info(
            "questions: %d written, %d near-duplicates dropped, %d kept",
            len(written),
            len(repeats),
            min(len(ranked), wanted.keep),
        )
    if len(ranked) < wanted.keep:
        log.warning("questions: %d of questions.keep = %d are left", len(ranked), wanted.keep)
    return [AspectQuestion(question, rank, source) for rank, question in enumerate(ranked[: wanted.keep], start=1)]


def _written(llm: TextGenerator, classes: Sequence[str], wanted: Wanted) -> list[str]:
    """At most `wanted.generate` questions, in the order of writing."""
    written: dict[str, str] = {}
    reply = Answer("")
    for _ in range(_ROUNDS):
        known = list(written.values())
        reply = _ask(llm, generation_prompt(classes, wanted.subject, wanted.generate - len(known), known))
        for question in parse_questions(reply.text or ""):
            written.setdefault(spelling_key(question), question)
        if len(written) >= wanted.generate or len(written) == len(known):
            break
    if not written:
        cut = (
            f" was cut off at {_REPLY_TOKENS} tokens (of a model that thinks first, turn that off) and"
            if reply.cut
            else ""
        )
        raise QuestionsError(
            f"questions.llm: no yes/no question in English in the model's reply, which{cut} was"
            f" {(reply.text or '')[:500]!r}; try another model, or write questions of your own and give them as"
            " questions.file"
        )
    return list(written.values())[: wanted.generate]


def _ranked(llm: TextGenerator, questions: Sequence[str], keep: int) -> list[str]:
    """All questions, starting with those that the model selects."""
    chosen: dict[str, str] = {}
    if len(questions) > keep:
        known = {spelling_key(question): question for question in questions}
        for question in parse_questions(_ask(llm, ranking_prompt(questions, keep)).text or ""):
            if (key := spelling_key(question)) in known:
                chosen[key] = known[key]
    return list(chosen.values()) + [question for question in questions if spelling_key(question) not in chosen]


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


def _ask(llm: TextGenerator, prompt: str) -> Answer:
    """A reply that has text."""
    (answer,) = llm.generate([text_conversation(prompt, SYSTEM)], Sampling(max_tokens=_REPLY_TOKENS))
    if answer.text is None:
        reason = answer.failure.detail if answer.failure is not None else "no reply"
        raise QuestionsError(f"questions.llm: the model did not answer: {reason}")
    if answer.cut:
        log.warning(
            "questions.llm: a reply was cut off at %d tokens; a last question that was not complete is left out",
            _REPLY_TOKENS,
        )
    return answer
