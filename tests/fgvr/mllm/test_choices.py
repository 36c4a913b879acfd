"""Multiple-choice questions about classes: what is asked, and what the answers of each kind of backend become."""

import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chat_server import ChatServer, Reply, completion, error, prompt_of, serving

from fgvr.config.models import OpenAIBackend, SimulatedBackend
from fgvr.config.signatures import CHOICE_PROMPT
from fgvr.mllm.backend import BackendRefused
from fgvr.mllm.choices import ChoiceQuestion, ChoiceTask, averaged
from fgvr.mllm.openai_server.backend import OpenAIClient
from fgvr.mllm.simulated import SimulatedEngine
from fgvr.mllm.vllm_engine.choices import ChoiceTally
from fgvr.mllm.yes_no import word_shares
from fgvr.schemas import Reason

BEAK = ChoiceQuestion("What shape is its beak?", ("hooked", "conical", "long"))
SIZE = ChoiceQuestion("How large is it?", ("small", "large"))
TASK = ChoiceTask((BEAK, SIZE), CHOICE_PROMPT, 4)


def test_options_stand_at_each_letter_once() -> None:
    assert [(turn.question, turn.order) for turn in TASK.turns] == [
        *((0, (0, 1, 2)), (0, (1, 2, 0)), (0, (2, 0, 1))),
        *((1, (0, 1)), (1, (1, 0))),
    ]
    many = ChoiceTask((ChoiceQuestion("Which?", tuple("abcdefgh")),), CHOICE_PROMPT, 2)
    assert [turn.order[0] for turn in many.turns] == [0, 4]  # evenly spread
    assert [turn.order for turn in ChoiceTask((BEAK,), CHOICE_PROMPT, 1).turns] == [(0, 1, 2)]


def test_names_and_options_are_filled_in_as_they_are() -> None:
    odd = ChoiceTask((ChoiceQuestion("{name}?", ("{options}", "b")),), "{name}: {question}\n{options}\n{name}", 1)
    (message,) = odd.conversation(odd.turns[0], "{question} \\1")
    assert message["content"][0]["text"] == "{question} \\1: {name}?\nA. {options}\nB. b\n{question} \\1"


def test_a_question_is_the_mean_over_its_rotations() -> None:
    shares = [[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [0.3, 0.5, 0.2], [0.9, 0.1], [math.nan] * 2]
    answer = averaged(TASK, shares, [0.9, 0.6, 0.9, 0.8, 0], prompt_tokens=7, cached_tokens=3)
    # hooked: A of the first, C of the second, B of the third
    assert answer.probabilities[0].tolist() == pytest.approx([(0.7 + 0.2 + 0.5) / 3, (0.2 + 0.4 + 0.2) / 3, 0.8 / 3])
    assert answer.probabilities[1].tolist() == pytest.approx([0.9, 0.1])  # its other rotation was not measurable
    assert answer.label_mass.tolist() == pytest.approx([0.8, 0.4])
    assert (answer.prompt_tokens, answer.cached_tokens, answer.failure) == (7, 3, None)


def test_a_question_without_any_letter_fails_the_class() -> None:
    shares = [[1, 0, 0]] * 3 + [[math.nan] * 2] * 2
    failure = averaged(TASK, shares, [1, 1, 1, 0, 0], prompt_tokens=1, cached_tokens=None).failure
    assert failure is not None
    assert failure.reason == Reason.NO_LABEL_MASS
    assert "How large is it?" in failure.detail


def test_shares_of_words() -> None:
    shares, mass = word_shares([math.log(0.1), math.log(0.3), -math.inf])
    assert shares == pytest.approx([0.25, 0.75, 0])
    assert mass == pytest.approx(0.4)
    assert math.isnan(word_shares([-math.inf] * 3)[0][2])
    assert word_shares([0.0, math.nan, -1.0])[1] == 0


class Finished:
    """A finished request of vLLM, with the log-probabilities of its first token."""

    def __init__(self, logprobs: dict[int, float], finish: str = "length") -> None:
        found = {token: SimpleNamespace(logprob=value) for token, value in logprobs.items()}
        self.outputs = [SimpleNamespace(finish_reason=finish, logprobs=[found], stop_reason="x")]
        self.prompt_token_ids, self.num_cached_tokens = [1, 2, 3], 2


def test_the_exact_probabilities_of_an_engine() -> None:
    tally = ChoiceTally(ChoiceTask((SIZE,), CHOICE_PROMPT, 2), [(4, 5), (4, 5)])
    tally.add(1, Finished({4: math.log(0.1), 5: math.log(0.4), 9: -0.1}))
    tally.add(0, Finished({4: math.log(0.6), 5: math.log(0.2)}))
    answer = tally.answer()
    assert answer.probabilities[0].tolist() == pytest.approx([(0.75 + 0.8) / 2, (0.25 + 0.2) / 2])
    assert answer.label_mass.tolist() == pytest.approx([0.65])
    assert (answer.prompt_tokens, answer.cached_tokens) == (6, 4)
    tally.add(0, Finished({}, "error"))
    failure = tally.answer().failure
    assert failure is not None
    assert failure.reason == Reason.ENGINE_ERROR


def client(server: ChatServer, **more: Any) -> OpenAIClient:
    return OpenAIClient(OpenAIBackend(base_url=server.url, model="m", max_retries=0, **more), first_pause=0.01)


def knows_birds(body: dict[str, Any], _: int) -> Reply:
    """A model that likes the letter A, knows that finches are small, and does not answer about gulls."""
    prompt = prompt_of(body)
    if "Gull" in prompt:
        return error(400, "the prompt is not safe")
    letters = dict(re.findall(r"^([A-Z])\. (.*)$", prompt, re.MULTILINE))
    odds = {letter: (2 if letter == "A" else 1) * (3 if option == "small" else 1) for letter, option in letters.items()}
    return completion("A", tops={" A": -9.0, **{k: math.log(v / 10) for k, v in odds.items()}, "The": -4.0})


def test_a_server_is_asked_in_text_and_a_class_that_fails_is_alone() -> None:
    with serving(ChatServer(knows_birds)) as server:
        finch, gull = client(server, concurrency=2).choices(["Finch", "Gull"], TASK)
    assert len(server.asked) >= 6
    body = server.asked[0]
    assert isinstance(body["messages"][-1]["content"], str)
    assert (body["max_tokens"], body["logprobs"]) == (1, True)
    # Size: 6 : 1 with "small" first, 3 : 2 with "large" first; the beak's letters each have an A once.
    extra = math.exp(-9) * 10  # "A" with a blank before it counts, too
    small = ((6 + extra) / (7 + extra) + 3 / (5 + extra)) / 2
    np.testing.assert_allclose(finch.probabilities[1], [small, 1 - small], rtol=1e-5)
    np.testing.assert_allclose(finch.probabilities[0], [1 / 3] * 3, rtol=1e-5)
    assert finch.prompt_tokens == 20 * 5
    assert gull.failure is not None
    assert gull.failure.reason == Reason.REQUEST_REJECTED


def test_a_server_that_lists_fewer_tokens_than_options() -> None:
    with serving(ChatServer(lambda *_: completion("A", tops={"A": math.log(0.8), "So": math.log(0.1)}))) as server:
        (answer,) = client(server).choices(["Finch"], ChoiceTask((BEAK,), CHOICE_PROMPT, 1))
    np.testing.assert_allclose(answer.probabilities[0], [0.8, 0.1, 0.1], rtol=1e-5)  # at most as probable as the last
    assert answer.label_mass[0] == pytest.approx(0.8)


def test_a_server_without_log_probabilities_is_refused() -> None:
    with (
        serving(ChatServer(lambda *_: completion("A"))) as server,
        pytest.raises(BackendRefused, match="cannot be asked for aspects or signatures"),
    ):
        client(server).choices(["Finch"], TASK)


def test_a_simulated_model_answers_by_the_name() -> None:
    engine = SimulatedEngine(SimulatedBackend(failures={"refused": 0.3}))
    names = [f"Kind {number}" for number in range(40)]
    answers, again = engine.choices(names, TASK), engine.choices(names[::-1], TASK)[::-1]
    failed = [answer.failure is not None for answer in answers]
    assert 4 <= sum(failed) <= 20
    for answer, other in zip(answers, again, strict=True):
        assert answer.failure == other.failure
        for one, two in zip(answer.probabilities, other.probabilities, strict=True):
            np.testing.assert_array_equal(one, two)
            assert one.sum() == pytest.approx(1, abs=1e-6)
