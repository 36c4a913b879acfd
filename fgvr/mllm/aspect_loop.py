"""All questions about many images through one engine: image after image, a bounded number of requests under way.

Image-major order is a must: the questions of an image share its prefix in the key-value cache, which is small beside
all images. (Question-major order made the hit share collapse.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fgvr.mllm.backend import AspectAnswer, Picture
from fgvr.mllm.question_prompts import QuestionPrompts
from fgvr.mllm.request_loop import RequestLoop
from fgvr.mllm.yes_no import AnswerTokens, probability_of_yes
from fgvr.schemas import Failure, Reason

REQUESTS_UNDER_WAY = 256
"""Unfinished requests at most. 200–512 cost nothing; the images behind them stay in the engine's cache."""


class ImageTally:
    """Collects the replies about one image."""

    def __init__(self, questions: int) -> None:
        """`questions`: Q."""
        self._p_yes = np.full(questions, np.nan, dtype=np.float32)
        self._mass = np.zeros(questions, dtype=np.float32)
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self.failure: Failure | None = None

    def add(self, question: int, output: Any, tokens: AnswerTokens) -> None:
        """Count one finished `vllm.RequestOutput`."""
        reply = output.outputs[0]
        if reply.finish_reason in {"error", "abort"} or not reply.logprobs:
            self.fail(Reason.ENGINE_ERROR, f"question {question}: vLLM ended the request: {reply.stop_reason}")
            return
        first = reply.logprobs[0]
        yes, no = (float(first[token].logprob) for token in (tokens.yes, tokens.no))
        self._p_yes[question], self._mass[question] = probability_of_yes(yes, no)
        self._prompt_tokens += len(output.prompt_token_ids)
        self._cached_tokens += output.num_cached_tokens or 0

    def fail(self, reason: Reason, detail: str) -> None:
        """The image has no probabilities; the first reason stays."""
        self.failure = self.failure or Failure(reason, detail)

    def answer(self) -> AspectAnswer:
        """The image's probabilities, or why there are none."""
        if self.failure is None and not self._mass.any():
            self.fail(Reason.NO_LABEL_MASS, "neither word had a measurable probability for any question")
        if self.failure is not None:
            return AspectAnswer(failure=self.failure)
        return AspectAnswer(self._p_yes, self._mass, self._prompt_tokens, self._cached_tokens)


class AspectLoop:
    """One set of questions, ready to be asked about any number of images."""

    def __init__(
        self,
        loop: RequestLoop,
        prompts: QuestionPrompts,
        tokens: AnswerTokens,
        *,
        questions: int,
        requests_under_way: int = REQUESTS_UNDER_WAY,
    ) -> None:
        """`questions`: Q; `requests_under_way`: see REQUESTS_UNDER_WAY."""
        self.loop, self.prompts, self.tokens = loop, prompts, tokens
        self._questions = questions
        self._requests_under_way = requests_under_way
        self._params = aspect_params(tokens)

    def run(self, pictures: Iterable[Picture]) -> list[AspectAnswer]:
        """One answer a picture, in their order; raises EngineDead."""
        tallies: list[ImageTally] = []
        for picture in pictures:
            tallies.append(ImageTally(self._questions))
            self._ask(picture, tallies[-1])
        self.loop.wait()
        return [tally.answer() for tally in tallies]

    def _ask(self, picture: Picture, tally: ImageTally) -> None:
        """Submit the questions about one picture; one that cannot be asked fails the picture."""
        inputs = self.prompts.inputs(picture)
        for question in range(self._questions):
            try:
                self._submit(picture, question, next(inputs), tally)
            except Exception as error:
                # Processors and vLLM raise anything on an odd image. The engine has not taken it, so only this row
                # fails; errors of the engine itself come out of `wait`.
                tally.fail(Reason.REQUEST_REJECTED, f"question {question}: {type(error).__name__}: {error}")
            if tally.failure is not None:
                return
            self.loop.wait(self._requests_under_way)

    def _submit(self, picture: Picture, question: int, prompt: Any, tally: ImageTally) -> None:
        def done(output: Any) -> None:
            tally.add(question, output, self.tokens)

        self.loop.submit(prompt, self._params, done, whole=lambda: self.prompts.whole(picture, question))


def aspect_params(tokens: AnswerTokens) -> Any:
    """VLLM's parameters of one yes/no question; the object is shared by all requests.

    `logprob_token_ids` gives exactly these log-probabilities whatever their rank; `logprobs` stays unset.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0,
        detokenize=False,
        logprob_token_ids=[tokens.yes, tokens.no],
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )
