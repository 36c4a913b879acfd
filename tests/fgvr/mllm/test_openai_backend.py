"""The HTTP backend against a local server that fails in the usual ways."""

import base64
import io
import json
import math
import re
import threading
import time
from typing import Any

import numpy as np
import pytest
from chat_server import ChatServer, Reply, completion, error, prompt_of, serving
from PIL import Image

from fgvr.config import ConfigError, build
from fgvr.config.data import ImageLimits
from fgvr.config.models import OpenAIBackend
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import AspectTask, BackendRefused, ImageRequest, Sampling
from fgvr.mllm.label_worker import LabelSettings, LabelWorker, answer_rows
from fgvr.mllm.openai_server.backend import OpenAIClient
from fgvr.mllm.prompts import image_conversation, text_conversation
from fgvr.mllm.scoring_workers import aspect_rows
from fgvr.part_worker import remarks_of, token_totals
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
        completion([3]),  # type: ignore[arg-type]
        completion("Finch", finish="error"),
        completion("Fin", finish="abort"),
        (200, {}, {"error": {"message": "Provider returned error", "code": 502}}),
        (200, {}, {"id": "1", "choices": [{"index": 0, "error": {"code": 502}, "message": {"content": ""}}]}),
        (200, {"content-type": "text/event-stream"}, b'data: {"choices": [{"delta": {"content": "Fin"}}]}\n\n'),
        completion(None, refusal=["no"]),
        completion("Finch", tops={"Finch": None}),  # type: ignore[dict-item]
        completion("Finch", tops={"Finch": math.nan}),
        completion("Finch", tops={"Finch": 0.9}),  # a probability, or a logit
        completion("Finch", tops={"Finch": math.inf}),
        completion("Finch", tops={"Finch": 10**400}),
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
    assert not answer.tokens_known


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


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "House "}, {"type": "text", "text": "Finch"}], "House Finch"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}, {"type": "text", "text": "b"}], "b"),
        ([{"type": "reasoning", "text": "a bill"}, {"type": "output_text", "text": "Finch"}], "Finch"),
        (["House ", "Finch"], "House Finch"),
        ({"type": "text", "text": "Finch"}, "Finch"),
        ([{"type": "refusal", "refusal": "I cannot say."}], "I cannot say."),
        ([{"type": "thinking", "thinking": "a bill"}], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_content_in_parts_is_the_text_of_its_parts(content: Any, text: str) -> None:
    with serving(ChatServer(lambda *_: completion(content, reasoning_content="a bill"))) as server:
        (answer,) = client(server).label([request()])
    assert (answer.text, answer.failure) == (text, None)
    assert len(server.asked) == 1


def test_a_stream_that_nobody_asked_for_is_put_together() -> None:
    deltas = [{"role": "assistant"}, {"reasoning_content": "a bill"}, {"content": "House "}, {"content": "Finch"}]
    events: list[dict[str, Any]] = [{"id": "1", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events.append({"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events.append({"id": "1", "choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 3}})
    body = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events) + "data: [DONE]\n\n"
    with serving(ChatServer(lambda *_: (200, {"content-type": "text/event-stream"}, body.encode()))) as server:
        (answer,) = client(server).label([request()])
    assert (answer.text, answer.prompt_tokens, answer.output_tokens) == ("House Finch", 20, 3)


@pytest.mark.parametrize(
    ("tops", "p_yes", "mass"),
    [
        # By hand: e^0 / (e^0 + e^-9999); the same the other way round; 1 / (1 + e^-1) of e^-745 + e^-746, which is 0.
        ({"Yes": 0.0, "No": -9999.0}, 1.0, 1.0),
        ({"No": 0.0, "Yes": -math.inf}, 0.0, 1.0),
        ({"Maybe": 0.0, "Yes": -745.0, "No": -746.0}, 1 / (1 + math.exp(-1)), 0.0),
        ({"Yes": math.log(0.5), " Yes": -9999.0, "No": math.log(0.25)}, 2 / 3, 0.75),
        ({"Yes": math.log(0.9), "Well": -9999.0}, 1.0, 0.9),
        ({"Yes": math.log(0.9), "Well": -math.inf}, 1.0, 0.9),
        ({"Maybe": 0.0, "Yes": -math.inf, "No": -math.inf}, math.nan, 0.0),
        ({"Yes": 1e-7, "No": -20.0}, 1 / (1 + math.exp(-20)), 1.0),  # a rounding above 0
    ],
)
def test_log_probabilities_of_any_value(tops: dict[str, float], p_yes: float, mass: float) -> None:
    """JSON as Python and many servers write it has -Infinity; one question beside it keeps the image."""
    other = {"Yes": math.log(0.6), "No": math.log(0.2)}
    with serving(ChatServer(lambda b, _: completion("Yes", tops=tops if "A?" in prompt_of(b) else other))) as server:
        (found,) = client(server).aspects([picture()], AspectTask(("A?", "B?"), "i"))
    assert found.failure is None
    assert found.p_yes.tolist() == pytest.approx([p_yes, 0.75], rel=1e-6, nan_ok=True)
    assert found.label_mass.tolist() == pytest.approx([mass, 0.8], rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, 3.0, 1e300, 10**400, "high", None, True])
def test_what_is_no_log_probability_fails_its_row_after_three_paid_replies(value: Any) -> None:
    tops = {"Yes": math.log(0.6), "No": math.log(0.2)}

    def answer(body: dict[str, Any], _: int) -> Reply:
        return completion("Yes", tops={"Yes": value, "No": -3.0} if "A?" in prompt_of(body) else tops)

    with serving(ChatServer(answer)) as server:
        asked = client(server, concurrency=1)
        (bad,) = asked.aspects([picture()], AspectTask(("A?",), "i"))
        (good,) = asked.aspects([picture()], AspectTask(("B?",), "i"))
    assert bad.failure is not None
    assert bad.failure.reason is Reason.ENGINE_ERROR
    assert "log-probabilities" in bad.failure.detail
    assert good.failure is None
    assert len(server.asked) == 4


def test_a_reply_without_log_probabilities_in_between_fails_its_image_only() -> None:
    tops = {"Yes": math.log(0.6), "No": math.log(0.2)}
    replies = [completion("Yes", tops=tops), *[completion("Yes")] * 3, completion("", finish="content_filter")]
    with serving(ChatServer(lambda _, n: replies[n])) as server:
        found = client(server, concurrency=1).aspects([picture(n) for n in range(3)], AspectTask(("A?",), "i"))
    assert [None if answer.failure is None else answer.failure.reason for answer in found] == [
        None,
        Reason.ENGINE_ERROR,
        Reason.REFUSED,
    ]


@pytest.mark.parametrize("finish", [[], {"reason": "stop"}, 7, True])
def test_a_finish_reason_of_another_kind_is_none(finish: Any) -> None:
    with serving(ChatServer(lambda *_: completion("Finch", finish=finish))) as server:
        (answer,) = client(server).label([request()])
    assert (answer.text, answer.cut, answer.failure) == ("Finch", False, None)


@pytest.mark.parametrize("finish", ["MAX_TOKENS", "FinishReason.MAX_TOKENS", "model_length", "token_limit"])
def test_a_limit_by_any_name_cuts_the_answer(finish: str) -> None:
    with serving(ChatServer(lambda *_: completion("Fin", finish=finish))) as server:
        (answer,) = client(server).label([request()])
    assert (answer.text, answer.cut, answer.failure) == ("Fin", True, None)


@pytest.mark.parametrize("finish", ["SAFETY", "sensitive", "content-filter", "PROHIBITED_CONTENT"])
def test_a_filter_by_any_name_holds_the_answer_back(finish: str) -> None:
    with serving(ChatServer(lambda *_: completion("half a na", finish=finish))) as server:
        (answer,) = client(server).label([request()])
    assert (answer.text, answer.failure and answer.failure.reason) == (None, Reason.REFUSED)


def test_an_engine_that_lacks_resources_is_asked_again() -> None:
    replies = [completion("Fi", finish="insufficient_system_resource"), completion("Finch")]
    with serving(ChatServer(lambda _, n: replies[n])) as server:
        (answer,) = client(server).label([request()])
    assert answer.text == "Finch"


@pytest.mark.parametrize(("usage", "counts"), [((20.0, 3.0), (20, 3, True)), ((20, None), (20, 0, False))])
def test_counts_of_a_proxy(usage: tuple[float, float | None], counts: tuple[int, int, bool]) -> None:
    """Whole numbers may come with a point; where one of the two is missing that is said."""
    status, headers, body = completion("Finch")
    body["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))
    with serving(ChatServer(lambda *_: (status, headers, body))) as server:
        asked = client(server)
        (answer,) = asked.label([request()])
    assert (answer.prompt_tokens, answer.output_tokens, answer.tokens_known) == counts
    assert any("usage" in remark for remark in asked.remarks) is not counts[2]


@pytest.mark.parametrize("listed", [7, True, 1.5, "Yes", {"token": "Yes"}])
def test_a_stream_whose_tokens_are_no_list_is_read_without_them(listed: Any) -> None:
    event = {"choices": [{"delta": {"content": "Finch"}, "logprobs": {"content": listed}, "finish_reason": "stop"}]}
    body = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()
    with serving(ChatServer(lambda *_: (200, {"content-type": "text/event-stream"}, body))) as server:
        (answer,) = client(server).label([request()])
    assert (answer.text, answer.logprob, answer.failure) == ("Finch", None, None)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, "much"])
def test_tokens_that_a_server_does_not_state_are_unknown_and_said_once(
    usage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tops = {"Yes": math.log(0.6), "No": math.log(0.2)}
    status, headers, body = completion("Finch", tops=tops)
    body = {name: value for name, value in body.items() if name != "usage"} | (
        {} if usage is None else {"usage": usage}
    )
    with serving(ChatServer(lambda *_: (status, headers, body))) as server, caplog.at_level("WARNING"):
        asked = client(server)
        worker = LabelWorker(LabelSettings(OpenAIBackend(model="m"), "Name it", Sampling(), ImageLimits()), asked)
        (answer, other) = asked.label([request(), request(1)])
        (scores,) = asked.aspects([picture()], AspectTask(("A?",), "i"))
    rows = answer_rows([4, 5], [[answer], [other, answer]])
    assert rows["texts"].to_pylist() == [["Finch"], ["Finch", "Finch"]]
    assert rows["prompt_tokens"].to_pylist() == rows["output_tokens"].to_pylist() == [None, None]
    assert aspect_rows([4], [scores], 1)["prompt_tokens"].to_pylist() == [None]
    assert token_totals(rows) == {"prompt_tokens": 0, "output_tokens": 0, "uncounted_rows": 2}
    assert sum("reports no token counts" in record.getMessage() for record in caplog.records) == 1
    assert remarks_of(worker) == (
        "the server reports no token counts (usage), so the cost of the answers is not known",
    )


def test_a_photo_that_moderation_refuses_with_403_ends_no_job() -> None:
    reply = error(403, "Your input was flagged by the model's moderation")
    with serving(ChatServer(lambda _, n: reply if n == 0 else completion("Finch"))) as server:
        bad, good = client(server, concurrency=1).label([request(0), request(1)])
    assert bad.failure is not None
    assert bad.failure.reason is Reason.REQUEST_REJECTED
    assert good.text == "Finch"


def test_a_request_too_large_for_the_rate_is_not_waited_for() -> None:
    reply = error(429, "Request too large for m on tokens per min (TPM): Limit 30000, Requested 50000", "rate_limit")
    with serving(ChatServer(lambda _, n: reply if n == 0 else completion("Finch"))) as server:
        bad, good = client(server, concurrency=1).label([request(0), request(1)])
    assert bad.failure is not None
    assert bad.failure.reason is Reason.REQUEST_REJECTED
    assert good.text == "Finch"


@pytest.mark.parametrize("header", [{"retry_after": "1"}, {"retry_after_ms": "20"}, {}])
def test_a_rate_limit_loses_no_rows_and_is_not_flooded(header: dict[str, str]) -> None:
    """Forty requests, and one more every 20 ms: as a server of forty a minute, 75 times as fast."""
    lock, state = threading.Lock(), {"left": 40.0, "at": time.monotonic()}

    def answer(_: dict[str, Any], number: int) -> Reply:
        with lock:
            now = time.monotonic()
            state["left"] = min(40.0, state["left"] + (now - state["at"]) / 0.02)
            state["at"] = now
            if state["left"] < 1:
                return error(429, "rate limit", "rate_limit", **header)
            state["left"] -= 1
        return completion("Finch")

    with serving(ChatServer(answer)) as server:
        answers = client(server, concurrency=16, max_retries=2).label([request(n) for n in range(100)])
    assert [answer.text for answer in answers] == ["Finch"] * 100
    assert len(server.asked) < 260  # sixteen threads that all came back at once would ask ten times as often


def test_a_server_that_only_asks_to_wait_ends_the_job_in_time() -> None:
    with (
        serving(ChatServer(lambda *_: error(429, "come back tomorrow", retry_after="0"))) as server,
        pytest.raises(BackendRefused, match=r"mllm\.max_wait_minutes.*come back tomorrow"),
    ):
        client(server, max_wait_minutes=0.005, concurrency=4).label([request(n) for n in range(50)])
    assert len(server.asked) < 30


def test_without_retries_a_rate_limit_fails_its_row() -> None:
    with serving(ChatServer(lambda *_: error(429, "slow down", retry_after="9"))) as server:
        (answer,) = client(server, max_retries=0).label([request()])
    assert answer.failure is not None
    assert "HTTP 429: slow down (after 1 tries)" in answer.failure.detail


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("localhost:8000/v1", "http://localhost:8000/v1"),
        ("//gpu:8000/v1", "http://gpu:8000/v1"),
        ("http:/gpu:8000/v1", "http://gpu:8000/v1"),
        ("ftp://gpu/v1", "http://gpu/v1"),
        ("http://", "names no server"),
        ("http://gpu:80000/v1", "no address"),
        ("http://gpu 1:8000/v1", "names no server"),
        ("http://[::1/v1", "no address"),
        ("http://gpu:8000/v1/chat/completions", "up to and with /v1"),
    ],
)
def test_an_address_that_cannot_be_one_is_told_with_the_remedy(address: str, said: str) -> None:
    with pytest.raises(BackendRefused, match=rf"mllm\.base_url: .*{re.escape(said)}"):
        OpenAIClient(OpenAIBackend(base_url=address, model="m"))
    with pytest.raises(ConfigError, match=rf"questions\.llm\.base_url: .*{re.escape(said)}"):
        build({"questions": {"llm": {"kind": "openai", "model": "m", "base_url": address}}})


def test_a_server_that_is_busy_from_the_start_is_not_asked_by_all_threads() -> None:
    def answer(_: dict[str, Any], number: int) -> Reply:
        return error(429, "slow down", retry_after="0.3") if number < 2 else completion("Finch")

    with serving(ChatServer(answer)) as server:
        answers = client(server, concurrency=16).label([request(n) for n in range(32)])
    assert all(found.text == "Finch" for found in answers)
    assert len(server.asked) == 34
    assert server.times[2] - server.times[0] >= 0.6


def test_a_large_seed_is_sent_as_one_that_servers_take() -> None:
    with serving(ChatServer(lambda *_: completion("Finch"))) as server:
        client(server).generate([text_conversation("a")], Sampling(temperature=0.7, seed=3 * 2**40 + 5))
    assert server.asked[0]["seed"] == 5
