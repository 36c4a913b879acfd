"""Names as a tree of requests, on hand-made ids, and what the loop makes of replies."""

import math
import re
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from fgvr.demo.paths import MLLM_PATH
from fgvr.images.pictures import Picture
from fgvr.mllm.vllm_engine.scoring import AspectTally, Branch, NameLoop, NameTally, NameTree, UnanswerableName, name_ids
from fgvr.mllm.yes_no import AnswerTokens
from fgvr.schemas import Failure, Reason

# 5 alone, 5 6 and 5 7 8 share a beginning; 9 stands apart.
NAMES = [[5, 6], [9], [5, 7, 8], [5]]


def test_a_request_for_each_beginning() -> None:
    assert NameTree(NAMES).branches == [Branch((), (5, 9)), Branch((5,), (6, 7)), Branch((5, 7), (8,))]


def test_scores_are_means_over_the_tokens_of_a_name() -> None:
    replies = [{5: -1.0, 9: -3.0}, {6: -2.0, 7: -0.5}, {8: -4.5}]
    scores = NameTree(NAMES).scores(replies)
    assert scores.dtype == np.float32
    assert scores.tolist() == [(-1 - 2) / 2, -3, (-1 - 0.5 - 4.5) / 3, -1]


def test_many_followers_are_asked_for_in_several_requests() -> None:
    tree = NameTree([[token, 1] for token in range(10, 17)], width=3)
    assert [len(branch.following) for branch in tree.branches[:3]] == [3, 3, 1]
    assert all(branch.beginning == () for branch in tree.branches[:3])
    replies = [{token: -float(token) for token in branch.following} for branch in tree.branches]
    assert tree.scores(replies).tolist() == [-(token + 1) / 2 for token in range(10, 17)]


def test_against_a_model_that_is_a_table() -> None:
    """Random names under a random first-order Markov chain, scored a name at a time."""
    rng = np.random.default_rng(0)
    chain = np.log(rng.dirichlet(np.ones(6), size=7))  # row 6: before the first token
    names = [rng.integers(0, 6, rng.integers(1, 5)).tolist() for _ in range(40)]
    tree = NameTree(names, width=2)
    replies = [
        {token: float(chain[branch.beginning[-1] if branch.beginning else 6, token]) for token in branch.following}
        for branch in tree.branches
    ]
    expected = []
    for name in names:
        steps = [chain[before, token] for before, token in zip([6, *name], name, strict=False)]
        expected.append(sum(steps) / len(steps))
    np.testing.assert_allclose(tree.scores(replies), expected, rtol=1e-6)
    assert len(tree.branches) < sum(map(len, names))


class Letters:
    """A tokenizer of letters that makes one token of "a:", as if the prompt's end and a name grew together."""

    bos_token = None
    all_special_ids = (ord(">"),)

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        ids = [ord(letter) for letter in text.replace(":a", "~")]
        return {"input_ids": ids}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [chr(token) for token in ids]


@pytest.mark.parametrize(
    ("prompt", "name", "tokens"),
    [("say>", "finch", "finch"), ("say\n", "finch", "finch"), ("say:", "finch", " finch"), ("say:", "a", " a")],
)
def test_names_start_as_replies_do(prompt: str, name: str, tokens: str) -> None:
    assert name_ids(Letters(), prompt, name) == [ord(letter) for letter in tokens]


def test_a_name_without_tokens_is_named() -> None:
    class Blank(Letters):
        def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text.strip()]}

    with pytest.raises(UnanswerableName, match="class name '   '"):
        name_ids(Blank(), "say>", "   ")


@pytest.mark.parametrize("name", ["a<IMG_CONTEXT> finch", "<IMG_CONTEXT>", "wren<|im_end|>", "<|im_start|>user"])
def test_a_name_with_a_token_that_is_no_text_is_refused(name: str) -> None:
    # In the demo's tokenizer, as in those of real models, <|im_start|> is special but not among all_special_ids.
    tokenizer = AutoTokenizer.from_pretrained(MLLM_PATH)
    token = name[name.index("<") : name.index(">") + 1]
    with pytest.raises(UnanswerableName, match=rf"class name '{re.escape(name)}' has {re.escape(token)}, .*rename"):
        name_ids(tokenizer, "<|im_start|>assistant\n", name)
    assert name_ids(tokenizer, "<|im_start|>assistant\n", "a <finch> & <IMG") != []


def output(logprobs: dict[int, float] | None, reason: str = "length") -> Any:
    first = None if logprobs is None else [{t: SimpleNamespace(logprob=value) for t, value in logprobs.items()}]
    reply = SimpleNamespace(finish_reason=reason, stop_reason="why", logprobs=first)
    return SimpleNamespace(outputs=[reply], prompt_token_ids=[1, 2, 3], num_cached_tokens=2)


def test_a_tally_of_replies() -> None:
    tally = NameTally(NameTree([[5], [9]]))
    tally.add(0, output({5: -1.0, 9: -2.0, 77: 0.0}))  # the sampled token comes with those asked for
    answer = tally.answer()
    assert answer.scores.tolist() == [-1, -2]
    assert (answer.prompt_tokens, answer.cached_tokens, answer.failure) == (3, 2, None)


def test_what_fails_an_image() -> None:
    ended = NameTally(NameTree([[5], [9]]))
    ended.add(0, output(None, "abort"))
    assert ended.answer().failure is not None
    assert ended.answer().failure.reason is Reason.ENGINE_ERROR  # type: ignore[union-attr]
    impossible = NameTally(NameTree([[5], [9]]))
    impossible.add(0, output({5: -1.0, 9: -math.inf}))
    failure = impossible.answer().failure
    assert failure is not None
    assert (failure.reason, failure.detail) == (
        Reason.NO_LABEL_MASS,
        "1 of 2 class names had no measurable probability",
    )


def test_a_tally_of_yes_and_no() -> None:
    tally = AspectTally(2, AnswerTokens(yes=5, no=9))
    tally.add(1, output({5: math.log(0.3), 9: math.log(0.1), 77: 0.0}))
    answer = tally.answer()
    assert answer.p_yes.tolist() == [pytest.approx(math.nan, nan_ok=True), pytest.approx(0.75)]
    assert answer.label_mass.tolist() == [0, pytest.approx(0.4)]
    assert (answer.prompt_tokens, answer.cached_tokens) == (3, 2)
    tally.add(0, output(None, "error"))
    assert tally.answer().failure == Failure(Reason.ENGINE_ERROR, "prompt 0: vLLM ended the request: why")


class FakeLoop:
    """Answers at once: −1 for every token; refuses the pictures that cannot be rendered before it is asked."""

    def submit(self, prompt: Any, params: Any, done: Any, *, whole: Any) -> None:
        done(output(dict.fromkeys(params.logprob_token_ids, -1.0)))

    def wait(self, at_most: int = 0) -> None:
        pass

    def prepared(self, work: Any, items: Any, *, at_most: int) -> Any:
        return map(work, items)


class FakePrompts:
    def __init__(self, branches: Sequence[Branch]) -> None:
        self.branches = branches

    def first(self, picture: Picture) -> Any:
        return self.branches[0]

    def inputs(self, picture: Picture, first: Any = None) -> Iterator[Any]:
        assert first is self.branches[0]
        for branch in self.branches:
            if picture.content_id == "odd" and branch.beginning:
                raise ValueError("no image")
            yield branch

    def whole(self, picture: Picture, question: int) -> Any:
        raise AssertionError("nothing was lost")


def test_a_picture_that_cannot_be_asked_about_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # vLLM's own class takes seconds to import.
    monkeypatch.setattr(
        "fgvr.mllm.vllm_engine.scoring.first_token_params", lambda tokens: SimpleNamespace(logprob_token_ids=tokens)
    )
    tree = NameTree(NAMES)
    loop: Any = NameLoop(FakeLoop(), FakePrompts(tree.branches), tree, requests_under_way=4)  # type: ignore[arg-type]
    pictures = [Picture(None, name) for name in ("one", "odd", "two")]  # type: ignore[arg-type]
    first, odd, last = loop.run(pictures)
    assert first.scores.tolist() == last.scores.tolist() == [-1] * 4
    assert odd.failure.reason is Reason.REQUEST_REJECTED
    assert "no image" in odd.failure.detail
