"""Multiple-choice questions about classes, in text alone: one request per turn for the exact probabilities of letters.

A class's requests go in one after the other; those of the same question and rotation share a prefix with all classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from fgvr.mllm.choices import ChoiceAnswer, ChoiceTask, averaged
from fgvr.mllm.vllm_engine.private import client_errors
from fgvr.mllm.vllm_engine.prompts import VllmPrompts
from fgvr.mllm.vllm_engine.requests import RequestLoop
from fgvr.mllm.vllm_engine.scoring import REQUESTS_UNDER_WAY, Tally, first_token_params
from fgvr.mllm.yes_no import AnswerWordError, reply_tokens, word_shares
from fgvr.schemas import Reason


class ChoiceTally(Tally[ChoiceAnswer]):
    """Collects the replies about one class, one per turn."""

    def __init__(self, task: ChoiceTask, tokens: Sequence[tuple[int, ...]]) -> None:
        """`tokens`: those of each turn's letters."""
        super().__init__()
        self._task, self._tokens = task, tokens
        self._shares: list[list[float]] = [[np.nan] * len(letters) for letters in tokens]
        self._mass = [0.0] * len(tokens)

    def keep(self, prompt: int, logprobs: Mapping[int, float]) -> None:
        """See Tally."""
        self._shares[prompt], self._mass[prompt] = word_shares([logprobs[token] for token in self._tokens[prompt]])

    def answer(self) -> ChoiceAnswer:
        """The class's probabilities, or why there are none."""
        if self.failure is not None:
            return ChoiceAnswer(failure=self.failure)
        return averaged(
            self._task,
            self._shares,
            self._mass,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
        )


class ChoiceLoop:
    """One set of questions, ready for any number of classes."""

    def __init__(self, loop: RequestLoop, prompts: VllmPrompts, task: ChoiceTask) -> None:
        """Find the tokens of the letters; raises AnswerWordError where one is not a single token of this model."""
        self._loop, self._prompts, self._task = loop, prompts, task
        prompt = prompts.text(task.conversation(task.turns[0], "a"))
        words = dict.fromkeys(task.letters(turn) for turn in task.turns)
        tokens = {letters: _tokens_of(prompts, prompt, letters) for letters in words}
        self._tokens = [tokens[task.letters(turn)] for turn in task.turns]
        params = {letters: first_token_params(found) for letters, found in tokens.items()}
        self._params = [params[task.letters(turn)] for turn in task.turns]

    def run(self, names: Iterable[str]) -> list[ChoiceAnswer]:
        """One answer per class name, in order; raises EngineDead."""
        tallies = []
        for name in names:
            tally = ChoiceTally(self._task, self._tokens)
            tallies.append(tally)
            self._ask(name, tally)
        self._loop.wait()
        return [tally.answer() for tally in tallies]

    def _ask(self, name: str, tally: ChoiceTally) -> None:
        """Submit the requests about a class; if the engine rejects one, the class fails."""
        for number, turn in enumerate(self._task.turns):
            try:
                prompt = self._prompts.without_picture(self._prompts.ids(self._task.conversation(turn, name)))
                self._loop.submit(prompt, self._params[number], partial(tally.add, number))
            except client_errors() as error:
                tally.fail(Reason.REQUEST_REJECTED, f"prompt {number}: {type(error).__name__}: {error}")
                return
            self._loop.wait(REQUESTS_UNDER_WAY)


def _tokens_of(prompts: VllmPrompts, prompt: str, letters: str) -> tuple[int, ...]:
    found = reply_tokens(prompts.tokenizer, prompt, letters)
    if found is None:
        raise AnswerWordError(
            f"signatures.llm: at the start of a reply this model's tokenizer does not write each of the letters "
            f"{letters} as one token of its own; ask fewer options, or take another model"
        )
    return found
