"""The HTTP backend against a local server that fails in the usual ways."""

import base64
import io
import math
import time
from typing import Any

import numpy as np
import pytest
from chat_server import ChatServer, Reply, completion, error, prompt_of, serving
from PIL import Image

from fgvr.config.models import OpenAIBackend
from fgvr.mllm.backend import AspectTask, BackendRefused, ImageRequest, Picture, Sampling
from fgvr.mllm.label_worker import answer_rows
from fgvr.mllm.openai_backend import OpenAIClient
from fgvr.mllm.prompts import image_conversation, text_conversation
from fgvr.schemas import Reason


def picture(shade: int = 0, size: tuple[int, int] = (8, 6)) -> Picture:
    return Picture.of(Image.new("RGB", size, (shade, 0, 0)))


def client(server: ChatServer, **settings: Any) -> OpenAIClient:
    return OpenAIClient(OpenAIBackend(base_url=server.url, model="m", **settings), first_pause=0.01)


def request(shade: int = 0) -> ImageRequest:
    return ImageRequest(picture(shade), image_conversation("Name it"), Sampling(max_tokens=7))


def test_a_label_request_carries_prompt_and_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with serving(ChatServer(lambda *_: completion("Crested Finch"))) as server:
        (answer,) = client(server, api_key_env="MY_KEY", image_detail="low").label([request(200)])
    assert (answer.text, answer.prompt_tokens, answer.output_tokens, answer.failure) == ("Crested Finch", 20, 3, None)
    assert server.keys == ["Bearer secret"]
    asked = server.asked[0]
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("m", 7, 0)
    image, text = asked["messages"][0]["content"]
    assert text == {"type": "text", "text": "Name it"}
    assert image["image_url"]["detail"] == "low"
    head, data = image["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), np.asarray(picture(200).image))


def test_large_images_are_scaled_down() -> None:
    with serving(ChatServer(lambda *_: completion("x"))) as server:
        client(server, max_image_side=1024).label([ImageRequest(picture(0, (2048, 1024)), image_conversation())])
    url = server.asked[0]["messages"][0]["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
    assert (sent.size, sent.format) == ((1024, 512), "JPEG")


def test_answers_keep_the_order_and_the_concurrency_is_bounded() -> None:
    def slow(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.02 * (3 - number % 4))
        return completion(prompt_of(body))

    with serving(ChatServer(slow)) as server:
        answers = client(server, concurrency=3).generate([text_conversation(str(n)) for n in range(20)], Sampling())
    assert [answer.text for answer in answers] == [str(n) for n in range(20)]
    assert server.most_open == 3


@pytest.mark.parametrize(
    "failure",
    [
        error(429, "slow down"),
        error(429, "slow down", retry_after="0.05"),
        error(500, "oops"),
        error(502, "bad gateway"),
        error(503, "starting", retry_after="0"),
        None,  # the connection breaks
        (200, {}, b"<html>a proxy's page</html>"),
        (200, {"content-type": "text/html"}, b"<html>a proxy's page</html>"),
        (200, {}, {"error": "inside a 200"}),
        (200, {}, b'{"choices": ['),
        (200, {}, ["no", "object"]),
        (200, {}, {"id": "1", "choices": []}),
        (200, {}, {"id": "1", "choices": [{"index": 0}]}),
        (200, {}, {"id": "1", "choices": ["Finch"]}),
        (200, {}, b"[" * 100_000),
        completion([{"type": "text", "text": "Finch"}]),  # type: ignore[arg-type]
        completion(None, refusal=["no"]),
        completion("Finch", tops={"Finch": None}),  # type: ignore[dict-item]
        completion("Finch", tops={"Finch": math.nan}),
    ],
)
def test_what_may_pass_is_tried_again(failure: Reply | None) -> None:
    with serving(ChatServer(lambda _, n: failure if n < 2 else completion("Finch"))) as server:
        (answer,) = client(server).label([request()])
    assert answer.text == "Finch"
    assert len(server.asked) == 3


def test_a_slow_reply_is_given_up_and_tried_again() -> None:
    def answer(_: dict[str, Any], number: int) -> Reply:
        time.sleep(0.6 if number == 0 else 0)
        return completion("Finch")

    with serving(ChatServer(answer)) as server:
        (found,) = client(server, timeout_seconds=0.2).label([request()])
    assert found.text == "Finch"


@pytest.mark.parametrize("reply", [completion("Finch"), error(500, "oops")])
def test_a_reply_that_breaks_off_is_asked_for_again(reply: Reply) -> None:
    answers = [reply, reply, completion("Finch")]
    with serving(ChatServer(lambda _, n: answers[n], cut_bodies=2)) as server:
        (answer,) = client(server).label([request()])
    assert answer.text == "Finch"
    assert len(server.asked) == 3


def test_the_time_limit_holds_for_a_server_that_sends_a_byte_now_and_then() -> None:
    # 0.02 s a byte is within any limit between two bytes, and 400 bytes of it are 8 s.
    with serving(ChatServer(lambda *_: completion("Finch"), seconds_a_byte=0.02)) as server:
        start = time.monotonic()
        (answer,) = client(server, timeout_seconds=0.3, max_retries=1).label([request()])
    assert answer.failure is not None
    assert "no answer within 0.3 s (after 2 tries)" in answer.failure.detail
    assert time.monotonic() - start < 3


def test_after_the_last_try_the_row_fails_and_the_others_do_not() -> None:
    with serving(
        ChatServer(lambda b, _: error(500, "oops") if "bad" in prompt_of(b) else completion("Finch"))
    ) as server:
        good, bad = client(server, max_retries=2).generate(
            [text_conversation("a"), text_conversation("bad")], Sampling()
        )
    assert good.text == "Finch"
    assert bad.failure is not None
    assert bad.failure.reason is Reason.ENGINE_ERROR
    assert "HTTP 500: oops (after 3 tries)" in bad.failure.detail


def test_a_request_that_the_server_rejects_is_not_repeated() -> None:
    with serving(ChatServer(lambda *_: error(400, "prompt is too long", "context_length_exceeded"))) as server:
        (answer,) = client(server).label([request()])
    assert answer.failure is not None
    assert answer.failure.reason is Reason.REQUEST_REJECTED
    assert "too long" in answer.failure.detail
    assert len(server.asked) == 1


def test_retry_after_holds_back_all_threads() -> None:
    def answer(_: dict[str, Any], number: int) -> Reply:
        if number == 0:
            return error(429, "slow down", retry_after="0.5")
        time.sleep(0.1)  # by then the pause has begun
        return completion("Finch")

    with serving(ChatServer(answer)) as server:
        client(server, concurrency=1).generate([text_conversation(str(n)) for n in range(3)], Sampling())
        assert server.times[1] - server.times[0] >= 0.49

        server.asked.clear()
        server.times.clear()
        client(server, concurrency=4).generate([text_conversation(str(n)) for n in range(12)], Sampling())
    late = [moment for moment in server.times if moment > server.times[0] + 0.25]
    assert min(late) - server.times[0] >= 0.49
    assert len(late) >= 9  # of 13: up to three others were under way when the pause began


@pytest.mark.parametrize(
    ("status", "code", "named"),
    [
        (401, None, "OPENAI_API_KEY"),
        (403, None, "OPENAI_API_KEY"),
        (402, None, "credit"),
        (404, None, "model"),
        (400, "model_not_found", "there is no model m"),
        (429, "insufficient_quota", "quota"),
    ],
)
def test_what_no_try_can_mend_ends_the_job(status: int, code: str | None, named: str) -> None:
    with (
        serving(ChatServer(lambda *_: error(status, "no", code))) as server,
        pytest.raises(BackendRefused, match=named),
    ):
        client(server).label([request()] * 3)


def test_a_wrong_key_shows_before_the_first_image() -> None:
    with (
        serving(ChatServer(lambda *_: completion("x"), models=error(401, "bad key"))) as server,
        pytest.raises(BackendRefused, match=r"OPENAI_API_KEY is not accepted"),
    ):
        client(server)


def test_nobody_at_the_address_is_said_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(BackendRefused, match=r"mllm\.base_url: no server answers at http://127\.0\.0\.1:9/v1"):
        OpenAIClient(OpenAIBackend(base_url="http://127.0.0.1:9/v1", model="m"))
    assert time.monotonic() - start < 5


def test_a_missing_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(BackendRefused, match=r"mllm\.api_key_env: the environment variable NO_SUCH_KEY is not set"):
        OpenAIClient(OpenAIBackend(model="m", api_key_env="NO_SUCH_KEY"))


def test_models_that_know_only_the_new_length_field_get_it() -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        if "max_tokens" in body:
            return error(400, "Use 'max_completion_tokens' instead of 'max_tokens'.", "unsupported_parameter")
        return completion("Finch")

    with serving(ChatServer(answer)) as server:
        answers = client(server, concurrency=1).label([request(), request()])
    assert [a.text for a in answers] == ["Finch", "Finch"]
    assert len(server.asked) == 3
    assert server.asked[-1]["max_completion_tokens"] == 7


@pytest.mark.parametrize("tokens", ["many", -1, 10**12, math.nan, None, [3]])
def test_a_count_of_tokens_that_is_none_does_not_cost_the_answer(tokens: Any) -> None:
    status, headers, body = completion("Finch")
    reply = status, headers, {**body, "usage": {"prompt_tokens": tokens, "completion_tokens": 3}}
    with serving(ChatServer(lambda *_: reply)) as server:
        (answer,) = client(server).label([request()])
    assert (answer.text, answer.prompt_tokens, answer.output_tokens) == ("Finch", 0, 3)


def test_half_a_character_does_not_stop_the_table() -> None:
    with serving(ChatServer(lambda *_: completion("Finch \ud83d"))) as server:
        (answer,) = client(server).label([request()])
    rows = answer_rows([4], [[answer]])
    assert rows["texts"].to_pylist() == [["Finch ?"]]


def test_refusals_and_filters() -> None:
    replies = [completion(None, refusal="I can't help with that."), completion("", finish="content_filter")]
    with serving(ChatServer(lambda _, n: replies[n])) as server:
        refusal, filtered = client(server, concurrency=1).label([request(), request()])
    assert refusal.text == "I can't help with that."
    assert filtered.failure is not None
    assert filtered.failure.reason is Reason.REFUSED


def test_aspects_from_listed_log_probabilities() -> None:
    tops = {
        "Is it red?": {"Yes": math.log(0.6), "No": math.log(0.2), "Maybe": math.log(0.1)},
        "Is it blue?": {" Yes": math.log(0.3), "Yes": math.log(0.1), "No": math.log(0.4)},
        "Is it green?": {"No": math.log(0.9), "Nope": math.log(0.01)},
        "Is it odd?": {"Well": math.log(0.9), "I": math.log(0.05)},
    }

    def answer(body: dict[str, Any], _: int) -> Reply:
        assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
        return completion("x", tops=next(v for q, v in tops.items() if q in prompt_of(body)))

    with serving(ChatServer(answer)) as server:
        found = client(server, concurrency=4).aspects([picture(0), picture(9)], AspectTask(tuple(tops), "Yes or No."))
    assert len(found) == 2
    for answers in found:
        # By hand: 0.6/(0.6+0.2); (0.3+0.1)/(0.4+0.4); the floor 0.01 in place of yes: 0.01/0.91; nothing to compare.
        assert answers.p_yes[:3] == pytest.approx([0.75, 0.5, 0.01 / 0.91], rel=1e-5)
        assert math.isnan(answers.p_yes[3])
        assert answers.label_mass == pytest.approx([0.8, 0.8, 0.9, 0.0], rel=1e-5)
        assert (answers.prompt_tokens, answers.cached_tokens) == (80, 64)


def test_one_failing_question_fails_its_image_only() -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        return error(400, "no") if number == 1 else completion("Yes", tops={"Yes": -0.1, "No": -3.0})

    with serving(ChatServer(answer)) as server:
        bad, good = client(server, concurrency=1).aspects([picture(0), picture(1)], AspectTask(("A?", "B?"), "i"))
    assert bad.failure is not None
    assert bad.failure.reason is Reason.REQUEST_REJECTED
    assert good.failure is None


def test_a_server_without_log_probabilities_cannot_answer_aspects() -> None:
    with (
        serving(ChatServer(lambda *_: completion("Yes"))) as server,
        pytest.raises(BackendRefused, match="top_logprobs"),
    ):
        client(server).aspects([picture()], AspectTask(("A?",), "i"))
