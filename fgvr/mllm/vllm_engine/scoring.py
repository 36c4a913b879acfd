"""Many prompts about each of many images in one engine: image by image, with a bounded number of requests in flight.

The prompts are the questions of the aspects, or the beginnings of class names, which form a trie: anything answered by
the log-probabilities of the first reply token. The order must be image by image: an image's prompts share its prefix in
the key-value cache, which cannot hold many images. (Question by question, the cache hit rate collapsed.)

log p(name | prompt) = Σ_k log p(token_k | prompt, token_1 … token_{k−1}). Names share beginnings, so they form a trie:
one request per node (prompt and beginning) gives the log-probabilities of all tokens that may follow there. C names of
n tokens take about C · (n − 1) + 1 short requests with a shared prefix. (`prompt_logprobs` would take C, but vLLM
recomputes such prompts, image included, instead of reading them from its prefix cache.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from fgvr.errors import UserError
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import AspectAnswer, NameAnswer
from fgvr.mllm.vllm_engine.prompts import QuestionPrompts
from fgvr.mllm.vllm_engine.requests import RequestLoop
from fgvr.mllm.yes_no import AnswerTokens, blanks, control_tokens, probability_of_yes, token_ids
from fgvr.schemas import Failure, Reason

TOKENS_A_REQUEST = 128
"""Most tokens whose log-probabilities one request may ask for (vLLM's limit)."""

REQUESTS_UNDER_WAY = 256
"""Most unfinished requests. 200–512 cost nothing; the images behind them stay in the engine's cache."""
AnswerT = TypeVar("AnswerT")


class UnanswerableName(UserError, ValueError):
    """A class name that cannot be an answer of this model."""


@dataclass(frozen=True)
class Branch:
    """The request of one trie node: the tokens of a beginning, and the tokens that follow it in some name."""

    beginning: tuple[int, ...]
    following: tuple[int, ...]


class NameTree:
    """The trie of a list of names: the requests that score it, and the scores from their replies."""

    def __init__(self, names: Sequence[Sequence[int]], width: int = TOKENS_A_REQUEST) -> None:
        """`names`: token ids of each name, at least one; `width`: see TOKENS_A_REQUEST."""
        following: dict[tuple[int, ...], dict[int, None]] = {}
        for ids in names:
            for place, token in enumerate(ids):
                following.setdefault(tuple(ids[:place]), {})[token] = None
        self.branches: list[Branch] = []
        places: dict[tuple[tuple[int, ...], int], tuple[int, int]] = {}
        for beginning, tokens in sorted(following.items()):  # the empty beginning first; adjacent ones share a prefix
            listed = list(tokens)
            for start in range(0, len(listed), width):
                part = tuple(listed[start : start + width])
                places |= {(beginning, token): (len(self.branches), token) for token in part}
                self.branches.append(Branch(beginning, part))
        self._steps = [[places[tuple(ids[:k]), token] for k, token in enumerate(ids)] for ids in names]

    def scores(self, replies: Sequence[Mapping[int, float]]) -> npt.NDArray[np.float32]:
        """Mean log-probability of each name's tokens, nats, float32 [C].

        The mean, since names differ in their number of tokens (length normalisation); the end of the answer is not
        included.

        Args:
            replies: for each branch, log-probability by token.
        """
        means = [np.mean([replies[branch][token] for branch, token in steps]) for steps in self._steps]
        return np.array(means, dtype=np.float32)


def name_ids(tokenizer: Any, prompt: str, name: str) -> list[int]:
    """Token ids of a name as the reply to `prompt`, a rendered prompt.

    Raises:
        UnanswerableName: the name changes the last tokens of the prompt, has no tokens, or contains a control token:
            an image placeholder would need a second image, an end token would end the answer.
    """
    before = token_ids(tokenizer, prompt)
    controls = control_tokens(tokenizer)
    for blank in blanks(tokenizer, prompt, before):
        ids = token_ids(tokenizer, prompt + blank + name)
        if len(ids) > len(before) and ids[: len(before)] == before:
            wrong = sorted(controls.intersection(ids[len(before) :]))
            if wrong:
                marks = ", ".join(tokenizer.convert_ids_to_tokens(wrong))
                raise UnanswerableName(
                    f"the class name {name!r} has {marks}, which this model does not read as text; rename the class, "
                    "or take another teacher than the MLLM (makd.distillation.teacher)"
                )
            return ids[len(before) :]
    raise UnanswerableName(f"the class name {name!r} has no tokens of its own as an answer of this model")


class Tally(ABC, Generic[AnswerT]):
    """Collects the replies about one image.

    Attributes:
        prompt_tokens: of all prompts.
        cached_tokens: how many of these came from the prefix cache.
        failure: why the image has no answer.
    """

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.failure: Failure | None = None

    def add(self, prompt: int, output: Any) -> None:
        """Count a finished `vllm.RequestOutput`, the reply to prompt number `prompt`."""
        reply = output.outputs[0]
        if reply.finish_reason in {"error", "abort"} or not reply.logprobs:
            self.fail(Reason.ENGINE_ERROR, f"prompt {prompt}: vLLM ended the request: {reply.stop_reason}")
            return
        self.keep(prompt, {token: float(entry.logprob) for token, entry in reply.logprobs[0].items()})
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens or 0

    def fail(self, reason: Reason, detail: str) -> None:
        """Mark the image as failed; the first reason stays."""
        self.failure = self.failure or Failure(reason, detail)

    @abstractmethod
    def keep(self, prompt: int, logprobs: Mapping[int, float]) -> None:
        """Store the log-probabilities of the first reply token, the requested ones among them."""

    @abstractmethod
    def answer(self) -> AnswerT:
        """The answer from the replies, or why there is none."""


class PromptLoop(Generic[AnswerT]):
    """One set of prompts, ready for any number of images."""

    def __init__(
        self,
        loop: RequestLoop,
        prompts: QuestionPrompts,
        asked: Sequence[tuple[int, ...]],
        tally: Callable[[], Tally[AnswerT]],
        *,
        requests_under_way: int = REQUESTS_UNDER_WAY,
    ) -> None:
        """Prepare the parameters of the requests; requests for the same tokens share one object.

        Args:
            loop: feeds the engine.
            prompts: makes the prompts about a picture.
            asked: for each prompt, the tokens whose log-probabilities are needed.
            tally: makes a Tally for an image.
            requests_under_way: see REQUESTS_UNDER_WAY.
        """
        self.loop, self.prompts = loop, prompts
        self._tally = tally
        self._requests_under_way = requests_under_way
        made = {tokens: first_token_params(tokens) for tokens in dict.fromkeys(asked)}
        self._params = [made[tokens] for tokens in asked]

    def run(self, pictures: Iterable[Picture]) -> list[AnswerT]:
        """One answer per picture, in order; raises EngineDead."""
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
        """The first prompt about a picture, or why it cannot be made."""
        try:
            return picture, self.prompts.first(picture)
        except Exception as error:  # processors and vLLM raise all kinds of errors on odd images
            return picture, _rejected(0, error)

    def _ask(self, picture: Picture, first: Any, tally: Tally[AnswerT]) -> None:
        """Submit the prompts about one picture; if one of them fails, the picture fails."""
        inputs = self.prompts.inputs(picture, first)
        for prompt in range(len(self._params)):
            try:
                self._submit(picture, prompt, next(inputs), tally)
            except Exception as error:
                # Processors and vLLM raise all kinds of errors on odd images. The engine has not taken the request, so
                # only this row fails; errors of the engine itself surface in `wait`.
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
    """Parameters of vLLM for a single reply token: the exact log-probabilities of `tokens`, whatever their rank.

    `logprob_token_ids` gives exactly these; `logprobs` stays unset.
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


class AspectTally(Tally[AspectAnswer]):
    """Collects the replies about one image, one per question."""

    def __init__(self, questions: int, tokens: AnswerTokens) -> None:
        """`questions`: Q; `tokens`: the tokens for yes and no."""
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
    """One set of questions, ready for any number of images.

    Attributes:
        tokens: the tokens for yes and no.
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


class NameTally(Tally[NameAnswer]):
    """Collects the replies about one image, one per branch."""

    def __init__(self, tree: NameTree) -> None:
        """`tree`: the trie whose branches are requested."""
        super().__init__()
        self._tree = tree
        self._replies: list[dict[int, float]] = [{} for _ in tree.branches]

    def keep(self, prompt: int, logprobs: Mapping[int, float]) -> None:
        """See Tally."""
        self._replies[prompt] = {token: logprobs[token] for token in self._tree.branches[prompt].following}

    def answer(self) -> NameAnswer:
        """The image's scores, or why there are none."""
        if self.failure is not None:
            return NameAnswer(failure=self.failure)
        scores = self._tree.scores(self._replies)
        if not np.isfinite(scores).all():
            detail = f"{int((~np.isfinite(scores)).sum())} of {len(scores)} class names had no measurable probability"
            return NameAnswer(failure=Failure(Reason.NO_LABEL_MASS, detail))
        return NameAnswer(scores, self.prompt_tokens, self.cached_tokens)


class NameLoop(PromptLoop[NameAnswer]):
    """One set of names, ready to be scored for any number of images."""

    def __init__(self, loop: RequestLoop, prompts: QuestionPrompts, tree: NameTree, *, requests_under_way: int) -> None:
        """`prompts`: one per branch of the trie; `requests_under_way`: most unfinished requests."""
        asked = [branch.following for branch in tree.branches]
        super().__init__(loop, prompts, asked, lambda: NameTally(tree), requests_under_way=requests_under_way)
