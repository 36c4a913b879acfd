"""Yes/no questions asked about many images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fgvr.mllm.backend import AspectAnswer
from fgvr.mllm.prompt_loop import REQUESTS_UNDER_WAY, PromptLoop, Tally
from fgvr.mllm.question_prompts import QuestionPrompts
from fgvr.mllm.request_loop import RequestLoop
from fgvr.mllm.yes_no import AnswerTokens, probability_of_yes
from fgvr.schemas import Reason


class AspectTally(Tally[AspectAnswer]):
    """Collects the replies about one image, one a question."""

    def __init__(self, questions: int, tokens: AnswerTokens) -> None:
        """`questions`: Q; `tokens`: what stands for yes and no."""
        super().__init__()
        self._tokens = tokens
        self._p_yes = np.full(questions, np.nan, dtype=np.float32)
        self._mass = np.zeros(questions, dtype=np.float32)

    def keep(self, prompt: int, logprobs: Mapping[int, float]) -> None:
        """See Tally."""
        yes, no = logprobs[self._tokens.yes], logprobs[self._tokens.no]
        self._p_yes[prompt], self._mass[prompt] = probability_of_yes(yes, no)

    def answer(self) -> AspectAnswer:
        """The image's probabilities, or why there are none."""
        if self.failure is None and not self._mass.any():
            self.fail(Reason.NO_LABEL_MASS, "neither word had a measurable probability for any question")
        if self.failure is not None:
            return AspectAnswer(failure=self.failure)
        return AspectAnswer(self._p_yes, self._mass, self.prompt_tokens, self.cached_tokens)


class AspectLoop(PromptLoop[AspectAnswer]):
    """One set of questions, ready to be asked about any number of images.

    Attributes:
        tokens: what stands for yes and no.
    """

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
        self.tokens = tokens
        asked = [(tokens.yes, tokens.no)] * questions
        super().__init__(
            loop, prompts, asked, lambda: AspectTally(questions, tokens), requests_under_way=requests_under_way
        )
