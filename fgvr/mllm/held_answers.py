"""Answers that a server holds to a form: which of its ways of doing so it takes, and whether it keeps to it.

The first request goes alone: what a server cannot do ends the job with its own sentence, before images are spent on
it. Servers that know JSON but no schemas are held to JSON, of which the prompt says what is asked. Those that take the
field and do not heed it are found by their replies.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from fgvr.mllm.backend import Answer, BackendRefused
from fgvr.mllm.openai_requests import answer_of
from fgvr.mllm.retry import TryAgain
from fgvr.mllm.structured import MOST_CHARACTERS, answer_schema, is_structured
from fgvr.schemas import Failure, Reason

log = logging.getLogger(__name__)

FIELD = "response_format"
FREE = "set label.answer to free, or take kind vllm or another server"
CANNOT = f"label.answer = structured: it holds no answer to a JSON schema; {FREE}"
MOST_UNHEEDED = 3
"""Replies of another form before the first right one, after which the server is believed not to heed the field."""
MOST_ALONE = 4
"""Requests that go alone while none is answered; then the server is slow or ill, and the others need not wait."""
_SCHEMA, _JSON = "json_schema", "json_object"

Send: TypeAlias = Callable[[dict[str, Any], Callable[[Any], Answer]], Answer]
"""Sends a request with these fields beside its own; its reply is read by the function."""


class HeldAnswers:
    """What was learned of one server; safe for several threads."""

    def __init__(self, server: str) -> None:
        """`server`: its name in messages."""
        self._server = server
        self._way = _SCHEMA
        self._open = False
        self._alone = self._unheeded = 0
        self._refused: BackendRefused | None = None
        self._lock = threading.Lock()

    def ask(self, names: int, send: Send) -> Answer:
        """The answer to one request, held to the form of so many names.

        Raises:
            BackendRefused: the server cannot hold answers to it.
        """
        if not self._open:
            with self._lock:
                if self._refused is not None:
                    raise self._refused
                if not self._open:
                    return self._first(names, send)
        return send({FIELD: response_format(names, self._way)}, partial(self._read, names))

    def _first(self, names: int, send: Send) -> Answer:
        self._alone += 1
        try:
            try:
                return send({FIELD: response_format(names, self._way)}, partial(self._read, names))
            except BackendRefused as error:
                if self._way != _SCHEMA or CANNOT not in str(error):
                    raise
                self._way = _JSON
                answer = send({FIELD: response_format(names, self._way)}, partial(self._read, names))
                log.warning("%s knows JSON and no schemas: its answers' form is what the prompt asks for", self._server)
                return answer
        except BackendRefused as error:
            self._refused = error
            raise
        finally:
            self._open = self._open or self._alone >= MOST_ALONE

    def _read(self, names: int, reply: Any) -> Answer:
        """A chat completion as an answer; raises TryAgain where it may be of a server that does not heed the field."""
        message = reply.choices[0].message
        answer = answer_of(reply)
        if not message.content and getattr(message, "refusal", None):
            return replace(answer, text=None, logprob=None, failure=Failure(Reason.REFUSED, str(message.refusal)))
        if not answer.text or answer.failure is not None:
            return answer
        if is_structured(answer.text, names, cut=bool(answer.cut)):
            self._open = True
        elif not self._open:
            self._unheeded += 1
            said = f"its answer is of another form: {answer.text[:MOST_CHARACTERS]!r}"
            if self._unheeded >= MOST_UNHEEDED:
                raise BackendRefused(
                    f"{self._server}: label.answer = structured: it takes {FIELD} and does not heed it: {said}; {FREE}"
                )
            raise TryAgain(said, paid=True)
        return answer


def response_format(names: int, way: str = _SCHEMA) -> dict[str, Any]:
    """The field of a request that holds its answer to the schema of so many names, or to any JSON object."""
    if way == _JSON:
        return {"type": _JSON}
    return {"type": _SCHEMA, _SCHEMA: {"name": "labels", "strict": True, "schema": answer_schema(names)}}
