"""Many prompts about each of many images through one engine: image after image, a bounded number of them under way.

The prompts are the questions of the aspects, or the beginnings of class names: whatever is answered by the
log-probabilities of the first reply token. Image-major order is a must: the prompts of an image share its prefix in the
key-value cache, which is small beside all images. (Question-major order made the hit share collapse.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from fgvr.mllm.backend import Picture
from fgvr.mllm.question_prompts import QuestionPrompts
from fgvr.mllm.request_loop import RequestLoop
from fgvr.schemas import Failure, Reason

REQUESTS_UNDER_WAY = 256
"""Unfinished requests at most. 200–512 cost nothing; the images behind them stay in the engine's cache."""

AnswerT = TypeVar("AnswerT")


class Tally(ABC, Generic[AnswerT]):
    """Collects the replies about one image.

    Attributes:
        prompt_tokens: of all prompts.
        cached_tokens: of these, served from the prefix cache.
        failure: why the image has no answer.
    """

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.failure: Failure | None = None

    def add(self, prompt: int, output: Any) -> None:
        """Count one finished `vllm.RequestOutput`, the reply to prompt number `prompt`."""
        reply = output.outputs[0]
        if reply.finish_reason in {"error", "abort"} or not reply.logprobs:
            self.fail(Reason.ENGINE_ERROR, f"prompt {prompt}: vLLM ended the request: {reply.stop_reason}")
            return
        self.keep(prompt, {token: float(entry.logprob) for token, entry in reply.logprobs[0].items()})
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens or 0

    def fail(self, reason: Reason, detail: str) -> None:
        """The image has no answer; the first reason stays."""
        self.failure = self.failure or Failure(reason, detail)

    @abstractmethod
    def keep(self, prompt: int, logprobs: Mapping[int, float]) -> None:
        """Take the log-probabilities of the first reply token, those that were asked for among them."""

    @abstractmethod
    def answer(self) -> AnswerT:
        """What the replies give, or why there is nothing."""


class PromptLoop(Generic[AnswerT]):
    """One set of prompts, ready to be asked about any number of images."""

    def __init__(
        self,
        loop: RequestLoop,
        prompts: QuestionPrompts,
        asked: Sequence[tuple[int, ...]],
        tally: Callable[[], Tally[AnswerT]],
        *,
        requests_under_way: int = REQUESTS_UNDER_WAY,
    ) -> None:
        """Make the parameters of the requests, one object for all that ask for the same tokens.

        Args:
            loop: feeds the engine.
            prompts: about a picture.
            asked: of each prompt, the tokens whose log-probabilities answer it.
            tally: makes one for an image.
            requests_under_way: see REQUESTS_UNDER_WAY.
        """
        self.loop, self.prompts = loop, prompts
        self._tally = tally
        self._requests_under_way = requests_under_way
        made = {tokens: first_token_params(tokens) for tokens in dict.fromkeys(asked)}
        self._params = [made[tokens] for tokens in asked]

    def run(self, pictures: Iterable[Picture]) -> list[AnswerT]:
        """One answer a picture, in their order; raises EngineDead."""
        tallies: list[Tally[AnswerT]] = []
        for picture, first in self.loop.prepared(self._first, pictures, at_most=self._requests_under_way):
            tallies.append(self._tally())
            if isinstance(first, Failure):
                tallies[-1].failure = first
            else:
                self._ask(picture, first, tallies[-1])
        self.loop.wait()
        return [tally.answer() for tally in tallies]

    def _first(self, picture: Picture) -> tuple[Picture, Any]:
        """The first prompt about a picture, or why it cannot be asked."""
        try:
            return picture, self.prompts.first(picture)
        except Exception as error:  # processors and vLLM raise anything on an odd image
            return picture, _rejected(0, error)

    def _ask(self, picture: Picture, first: Any, tally: Tally[AnswerT]) -> None:
        """Submit the prompts about one picture; one that cannot be asked fails the picture."""
        inputs = self.prompts.inputs(picture, first)
        for prompt in range(len(self._params)):
            try:
                self._submit(picture, prompt, next(inputs), tally)
            except Exception as error:
                # Processors and vLLM raise anything on an odd image. The engine has not taken it, so only this row
                # fails; errors of the engine itself come out of `wait`.
                tally.failure = tally.failure or _rejected(prompt, error)
            if tally.failure is not None:
                return
            self.loop.wait(self._requests_under_way)

    def _submit(self, picture: Picture, prompt: int, rendered: Any, tally: Tally[AnswerT]) -> None:
        def done(output: Any) -> None:
            tally.add(prompt, output)

        self.loop.submit(rendered, self._params[prompt], done, whole=lambda: self.prompts.whole(picture, prompt))


def _rejected(prompt: int, error: Exception) -> Failure:
    return Failure(Reason.REQUEST_REJECTED, f"prompt {prompt}: {type(error).__name__}: {error}")


def first_token_params(tokens: tuple[int, ...]) -> Any:
    """VLLM's parameters of a request for one reply token: the exact log-probabilities of `tokens`, whatever their rank.

    `logprob_token_ids` gives these and no others; `logprobs` stays unset.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0,
        detokenize=False,
        logprob_token_ids=list(tokens),
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )
