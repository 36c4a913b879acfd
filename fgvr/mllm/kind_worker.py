"""kind_answers: what kind of thing each name is, as a language model says without an image; one row per name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from fgvr.hierarchy.asked import AskedKinds, Chain, kind_key
from fgvr.mllm.backend import Answer, Sampling, TextGenerator
from fgvr.mllm.prompts import text_conversation
from fgvr.names.answers import clean_answer
from fgvr.names.reply import bounded, unwrap
from fgvr.part_worker import remarks_of
from fgvr.schemas import KIND_ANSWERS, Failure, Reason

RULES = 1
"""Increase it when the same answers come to mean other kinds."""
ITSELF, CIRCLE = "itself", "circle"
"""Why a chain ends, beside the reasons of `Reason`: the answer is the name that was asked, or a kind below it."""

_LEAD = re.compile(
    r"^\W*(?:the\s+|its\s+)?(?:(?:more\s+)?general\s+|parent\s+|direct\s+|usual\s+|common\s+)*"
    r"(?:kind|category|class|type|group|family|genus|order|parent|name)\b"
    r"[^.:\n]{0,60}?(?:\s(?:is|would\s+be)\b:?|:)[\s*_]*(?:an?\s|the\s)?(?=.*\w)",
    re.IGNORECASE,
)
"""What stands before a kind in an answer: "Family: Laridae", "The kind directly above it is …"."""
_RANK = re.compile(r"^(?:the\s+)?(?:genus|tribe|subfamily|family|order)\s+(?=[A-Z]\w+$)")
"""A rank before a scientific name: "genus Larus" is the kind that others call "Larus"."""


@dataclass(frozen=True)
class KindSettings:
    """What the workers need; picklable.

    Attributes:
        prompt: the question, with {name} for what it is about.
        rounds: most questions per name: its kind, the kind of that …
        max_tokens: longest answer.
    """

    prompt: str
    rounds: int
    max_tokens: int


@dataclass
class _Asked:
    """A name on its way up."""

    name: str
    answers: list[str | None] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    ended: str | None = None
    error: Failure | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    tokens_known: bool = True

    @property
    def last(self) -> str:
        """What is asked about next."""
        return self.kinds[-1] if self.kinds else self.name

    @property
    def open(self) -> bool:
        """Whether anything is."""
        return self.ended is None and self.error is None

    def take(self, answer: Answer, *, own: bool) -> None:
        """Read the answer about `last`; `own`: whether this name pays for it and fails with it."""
        self.answers.append(answer.text)
        if own:
            self.prompt_tokens += answer.prompt_tokens
            self.output_tokens += answer.output_tokens
            self.tokens_known &= answer.tokens_known
        kind = _kind(answer)
        if isinstance(kind, Failure):
            # What a server filters out it filters again; all else may be better next time (run.retry_failed). One of
            # the names that share a question is enough to ask it again, and a hundred failed rows would stop the run.
            broken = answer.text is None and kind.reason is not Reason.REFUSED
            if broken and own:
                self.error = kind
            self.ended = kind.reason.value
            return
        key = kind_key(kind)
        if key == kind_key(self.last):
            self.ended = ITSELF
        elif key in {kind_key(each) for each in (self.name, *self.kinds)}:
            self.ended = CIRCLE
        else:
            self.kinds.append(kind)


class KindWorker:
    """The PartWorker of kind_answers; see fgvr.part_worker.PartWorker."""

    def __init__(self, settings: KindSettings, backend: TextGenerator) -> None:
        """Ask a backend that is running already."""
        self.settings, self.backend = settings, backend

    @property
    def remarks(self) -> tuple[str, ...]:
        """See fgvr.part_worker.remarks_of."""
        return remarks_of(self.backend)

    def process(self, rows: pa.Table) -> pa.Table:
        """Kinds for rows with `class_id` and `name`: one row of `KIND_ANSWERS` each, in order.

        Names of a part that share a kind ask about it once. The first of them pays for it.
        """
        asked = [_Asked(name) for name in rows["name"].to_pylist()]
        replies: dict[str, Answer] = {}
        for _ in range(self.settings.rounds):
            waiting = [each for each in asked if each.open]
            payers = {kind_key(each.last): each for each in reversed(waiting) if kind_key(each.last) not in replies}
            fresh = dict(reversed(payers.items()))
            replies |= zip(fresh, self._ask([each.last for each in fresh.values()]), strict=True)
            for each in waiting:
                key = kind_key(each.last)
                each.take(replies[key], own=fresh.get(key) is each)
        return _rows(rows["class_id"].to_pylist(), asked)

    def _ask(self, names: Sequence[str]) -> list[Answer]:
        if not names:
            return []
        prompts = [self.settings.prompt.replace("{name}", name) for name in names]
        sampling = Sampling(self.settings.max_tokens)
        return self.backend.generate([text_conversation(prompt) for prompt in prompts], sampling)


def _kind(answer: Answer) -> str | Failure:
    """The kind that an answer means, read as the answers about photos are, behind what announces a kind."""
    if answer.text is None:
        return answer.failure or Failure(Reason.EMPTY_ANSWER, "no reply")
    reply = unwrap(bounded(answer.text))
    after = "" if reply.open_thought else _LEAD.sub("", reply.text, count=1)
    kind = clean_answer(after or answer.text, answer.cut)
    if isinstance(kind, Failure):
        return kind
    kind = _RANK.sub("", kind)
    return kind if kind_key(kind) else Failure(Reason.EMPTY_ANSWER, f"no name in {kind!r}")


def _rows(ids: Sequence[int], asked: Sequence[_Asked]) -> pa.Table:
    failures = [
        None if each.error is None else Failure(each.error.reason, f"{each.name}: {each.error.detail}")
        for each in asked
    ]
    return pa.table(
        {
            "class_id": ids,
            "name": [each.name for each in asked],
            "answers": [each.answers for each in asked],
            "kinds": [each.kinds for each in asked],
            "ended": [each.ended for each in asked],
            "prompt_tokens": [each.prompt_tokens if each.tokens_known else None for each in asked],
            "output_tokens": [each.output_tokens if each.tokens_known else None for each in asked],
            "error": [None if failure is None else failure.as_row() for failure in failures],
        },
        schema=KIND_ANSWERS,
    )


def kinds_of_rows(rows: pa.Table) -> AskedKinds:
    """The source of kinds that all rows of the table make; a row whose worker died has no kinds."""
    rows = rows.sort_by("class_id")
    pairs = zip(rows["name"].to_pylist(), rows["kinds"].to_pylist(), strict=True)
    return AskedKinds(tuple(Chain(name, tuple(kinds or ())) for name, kinds in pairs if name is not None))
