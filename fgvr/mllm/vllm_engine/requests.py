"""Feeds vLLM's synchronous engine: requests go in one by one; the engine is stepped while too many are unfinished.

Pixels are prepared on separate threads, and the engine is stepped while they are not ready.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fgvr import liveness
from fgvr.mllm.backend import EngineDead
from fgvr.mllm.vllm_engine.private import lost_pixels
from fgvr.prefetch import Ahead

log = logging.getLogger(__name__)

Done = Callable[[Any], None]
"""Called with a finished `vllm.RequestOutput`."""
Whole = Callable[[], Any]
"""Renders a prompt with its pixels."""
Item = TypeVar("Item")
Result = TypeVar("Result")
MOST_THREADS = 8
"""Limit for the threads that prepare pixels; each has its own processor."""


def pixel_threads() -> int:
    """As many threads as this worker may use cores; Ray states that number in an environment variable."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(MOST_THREADS, int(given) if given.isdigit() and int(given) else os.cpu_count() or 1)


@dataclass(frozen=True)
class _Request:
    """A request in flight: what to do with its output, and how to send it again with the pixels, if not done yet."""

    params: Any
    done: Done
    whole: Whole | None


class RequestLoop:
    """The requests in flight in one engine.

    `LLM.generate` renders all prompts before the first step and keeps all images until the end; here the caller
    decides how many requests are in flight, so memory stays bounded for any number of images.
    """

    def __init__(self, engine: Any, *, eager: bool = True, lora: Any = None) -> None:
        """Begin without requests.

        Args:
            engine: a `vllm.v1.engine.llm_engine.LLMEngine`.
            eager: step the engine whenever the next pixels are not ready. Otherwise only while it has half of its
                allowed
                requests: if pixels are the bottleneck, small steps gain nothing, and on a CPU they slow the pixels
                    down.
            lora: a `vllm.lora.request.LoRARequest` that all requests get; None: the model answers as it is.
        """
        self._engine, self._eager = engine, eager
        self._lora = {} if lora is None else {"lora_request": lora}
        self._waiting: dict[str, _Request] = {}
        self._number = 0
        self._threads = pixel_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="pixels")

    def prepared(self, work: Callable[[Item], Result], items: Iterable[Item], *, at_most: int) -> Iterator[Result]:
        """`map(work, items)` on threads, a little ahead; the engine is stepped while the next result is not ready.

        Args:
            work: makes an engine input with its pixels.
            items: consumed by another thread, only as fast as they can be processed.
            at_most: most unfinished requests when the next result is returned.
        """
        enough = 0 if self._eager else at_most // 2
        with Ahead(work, items, self._pool, ahead=2 * self._threads) as ahead:
            while True:
                self.wait(at_most)
                while len(self._waiting) > enough and not ahead.ready():
                    self._step()
                try:
                    yield next(ahead)
                except StopIteration:
                    return

    def submit(self, prompt: Any, params: Any, done: Done, *, whole: Whole | None = None) -> None:
        """Queue one rendered prompt.

        Args:
            prompt: an engine input; it may lack the pixels of an image that the engine is assumed to have.
            params: `vllm.SamplingParams`.
            done: called with the finished output.
            whole: renders the prompt with the pixels, in case the engine has dropped them. An engine in this process
                reports that at once; one in a separate process ends the request with an error later.

        Raises whatever the engine raises about this prompt (too long, not supported); the engine is left as if it
        had never been submitted.
        """
        try:
            self._submit(prompt, _Request(params, done, whole))
        except lost_pixels():
            if whole is None:
                raise
            self._submit(whole(), _Request(params, done, None))

    def _submit(self, prompt: Any, request: _Request) -> None:
        self._number += 1
        name = str(self._number)
        try:
            self._engine.add_request(name, prompt, request.params, **self._lora)
        except Exception:
            # The output processor may know the request although the core rejected it: stepping would wait for it for
            # ever.
            self._engine.abort_request([name])
            raise
        self._waiting[name] = request

    @property
    def unfinished(self) -> int:
        """Number of requests submitted but not finished."""
        return len(self._waiting)

    def wait(self, at_most: int = 0) -> None:
        """Step the engine until no more than `at_most` requests are unfinished.

        Raises:
            EngineDead: a step failed. The engine's state is undefined from then on, even if it runs in this process and
                the error looks harmless.
        """
        while len(self._waiting) > at_most:
            self._step()

    def _step(self) -> None:
        try:
            outputs = self._engine.step()
        except Exception as error:
            raise EngineDead(f"the engine failed while computing ({type(error).__name__}: {error})") from error
        liveness.beat()
        for output in outputs:
            # Only final outputs are requested; the name is the one given to add_request.
            if output.finished:
                self._finish(self._waiting.pop(output.request_id), output)

    def _finish(self, request: _Request, output: Any) -> None:
        """Pass on an output, or send the request again with the pixels, once, if the engine ended it with an error.

        An engine in a separate process reports a missing image that way; the output does not distinguish this from
        other errors, which may also be transient.
        """
        if request.whole is not None and output.outputs and output.outputs[0].finish_reason == "error":
            try:
                self._submit(request.whole(), _Request(request.params, request.done, None))
            except Exception as error:  # the output already says that it failed
                log.warning("a request that ended with an error cannot be sent again: %s", error)
            else:
                return
        request.done(output)
