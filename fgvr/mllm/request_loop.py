"""Feeds vLLM's synchronous engine: requests go in one by one, the engine is stepped while too many are unfinished."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fgvr import liveness
from fgvr.mllm.backend import EngineDead

Done = Callable[[Any], None]
"""Called with a finished `vllm.RequestOutput`."""


class RequestLoop:
    """Requests under way in one engine.

    `LLM.generate` renders all prompts before the first step and keeps all images until the end; here the caller
    decides how many are under way, so memory stays bounded at any number of images.
    """

    def __init__(self, engine: Any) -> None:
        """`engine` is a `vllm.v1.engine.llm_engine.LLMEngine`."""
        self._engine = engine
        self._waiting: dict[str, Done] = {}
        self._number = 0

    def submit(self, prompt: Any, params: Any, done: Done, *, whole: Callable[[], Any] | None = None) -> None:
        """Queue one rendered prompt.

        Args:
            prompt: an engine input; it may lack the pixels of an image that the engine is believed to have.
            params: `vllm.SamplingParams`.
            done: called with the finished output.
            whole: renders the prompt with the pixels, in case that the engine has dropped them meanwhile.

        Raises whatever the engine raises about this prompt (too long, not supported); the engine is left as if it
        had never been submitted.
        """
        from vllm.multimodal.cache import MultiModalCacheMissError

        try:
            self._submit(prompt, params, done)
        except MultiModalCacheMissError:
            if whole is None:
                raise
            self._submit(whole(), params, done)

    def _submit(self, prompt: Any, params: Any, done: Done) -> None:
        self._number += 1
        name = str(self._number)
        try:
            self._engine.add_request(name, prompt, params)
        except Exception:
            # The output processor may know the request although the core refused it: a step loop would wait for it.
            self._engine.abort_request([name])
            raise
        self._waiting[name] = done

    @property
    def unfinished(self) -> int:
        """Requests submitted and not finished."""
        return len(self._waiting)

    def wait(self, at_most: int = 0) -> None:
        """Step the engine until no more than `at_most` requests are unfinished.

        Raises:
            EngineDead: a step failed. What the engine holds is undefined from then on, also where it runs in this
                process and the error looks harmless.
        """
        while len(self._waiting) > at_most:
            try:
                outputs = self._engine.step()
            except Exception as error:
                raise EngineDead(f"the engine failed while computing ({type(error).__name__}: {error})") from error
            liveness.beat()
            for output in outputs:
                # Asked for final outputs only; the name is the one given to add_request.
                if output.finished:
                    self._waiting.pop(output.request_id)(output)
