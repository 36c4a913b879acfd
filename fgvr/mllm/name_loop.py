"""Class names scored as answers about many images: the prompts are the nodes of a tree of names.

An image is rendered once, and a node's prompt is the image's with the beginning of a name behind it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fgvr.mllm.backend import NameAnswer
from fgvr.mllm.name_tree import NameTree
from fgvr.mllm.prompt_loop import PromptLoop, Tally
from fgvr.mllm.question_prompts import QuestionPrompts
from fgvr.mllm.request_loop import RequestLoop
from fgvr.schemas import Failure, Reason


class NameTally(Tally[NameAnswer]):
    """Collects the replies about one image, one a branch."""

    def __init__(self, tree: NameTree) -> None:
        """`tree`: whose branches are asked."""
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
    """One set of names, ready to be scored about any number of images."""

    def __init__(self, loop: RequestLoop, prompts: QuestionPrompts, tree: NameTree, *, requests_under_way: int) -> None:
        """`prompts`: one a branch of the tree; `requests_under_way`: unfinished ones at most."""
        asked = [branch.following for branch in tree.branches]
        super().__init__(loop, prompts, asked, lambda: NameTally(tree), requests_under_way=requests_under_way)
