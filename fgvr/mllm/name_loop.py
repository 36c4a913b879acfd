"""Class names scored as answers about many images through one engine: image after image, requests bounded.

As `fgvr.mllm.aspect_loop`, of whose questions the nodes of a tree of names take the place: an image is rendered once,
and a node's prompt is the image's with the beginning of a name behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fgvr.mllm.backend import NameAnswer, Picture
from fgvr.mllm.name_tree import Branch, NameTree
from fgvr.mllm.question_prompts import QuestionPrompts
from fgvr.mllm.request_loop import RequestLoop
from fgvr.schemas import Failure, Reason


class NameTally:
    """Collects the replies about one image."""

    def __init__(self, tree: NameTree) -> None:
        """`tree`: whose branches are asked."""
        self._tree = tree
        self._replies: list[dict[int, float]] = [{} for _ in tree.branches]
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self.failure: Failure | None = None

    def add(self, branch: int, output: Any) -> None:
        """Count one finished `vllm.RequestOutput`."""
        reply = output.outputs[0]
        if reply.finish_reason in {"error", "abort"} or not reply.logprobs:
            self.fail(Reason.ENGINE_ERROR, f"vLLM ended the request: {reply.stop_reason}")
            return
        first = reply.logprobs[0]
        asked = self._tree.branches[branch].following
        self._replies[branch] = {token: float(first[token].logprob) for token in asked}
        self._prompt_tokens += len(output.prompt_token_ids)
        self._cached_tokens += output.num_cached_tokens or 0

    def fail(self, reason: Reason, detail: str) -> None:
        """The image has no scores; the first reason stays."""
        self.failure = self.failure or Failure(reason, detail)

    def answer(self) -> NameAnswer:
        """The image's scores, or why there are none."""
        if self.failure is not None:
            return NameAnswer(failure=self.failure)
        scores = self._tree.scores(self._replies)
        if not np.isfinite(scores).all():
            detail = f"{int((~np.isfinite(scores)).sum())} of {len(scores)} class names had no measurable probability"
            return NameAnswer(failure=Failure(Reason.NO_LABEL_MASS, detail))
        return NameAnswer(scores, self._prompt_tokens, self._cached_tokens)


class NameLoop:
    """One set of names, ready to be scored about any number of images."""

    def __init__(self, loop: RequestLoop, prompts: QuestionPrompts, tree: NameTree, *, requests_under_way: int) -> None:
        """`prompts`: one a branch of the tree; `requests_under_way`: unfinished ones at most."""
        self.loop, self.prompts, self.tree = loop, prompts, tree
        self._requests_under_way = requests_under_way
        self._params = [branch_params(branch) for branch in tree.branches]

    def run(self, pictures: Iterable[Picture]) -> list[NameAnswer]:
        """One answer a picture, in their order; raises EngineDead."""
        tallies: list[NameTally] = []
        for picture in pictures:
            tallies.append(NameTally(self.tree))
            self._ask(picture, tallies[-1])
        self.loop.wait()
        return [tally.answer() for tally in tallies]

    def _ask(self, picture: Picture, tally: NameTally) -> None:
        """Submit the branches of one picture; one that cannot be asked fails the picture."""
        inputs = self.prompts.inputs(picture)
        for branch in range(len(self.tree.branches)):
            try:
                self._submit(picture, branch, next(inputs), tally)
            except Exception as error:
                # Processors and vLLM raise anything on an odd image. The engine has not taken it, so only this row
                # fails; errors of the engine itself come out of `wait`.
                tally.fail(Reason.REQUEST_REJECTED, f"{type(error).__name__}: {error}")
            if tally.failure is not None:
                return
            self.loop.wait(self._requests_under_way)

    def _submit(self, picture: Picture, branch: int, prompt: Any, tally: NameTally) -> None:
        def done(output: Any) -> None:
            tally.add(branch, output)

        self.loop.submit(prompt, self._params[branch], done, whole=lambda: self.prompts.whole(picture, branch))


def branch_params(branch: Branch) -> Any:
    """VLLM's parameters of a node: the exact log-probabilities of the tokens that may follow, whatever their rank."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0,
        detokenize=False,
        logprob_token_ids=list(branch.following),
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )
