"""Servers that do not take a field: what is asked instead, what it costs, and when the job ends.

The sentences are those of OpenAI, Azure, Mistral, Google, vLLM, llama.cpp, LiteLLM and others, as users quoted them.
"""

import logging
import math
import time
from typing import Any

import pytest
from chat_server import ChatServer, Reply, completion, error, prompt_of, serving
from PIL import Image

from fgvr.config.models import OpenAIBackend
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import AspectTask, BackendRefused, ImageRequest, Sampling
from fgvr.mllm.openai_server.backend import OpenAIClient
from fgvr.mllm.openai_server.calls import Calls
from fgvr.mllm.openai_server.transport import ServerError
from fgvr.mllm.prompts import image_conversation
from fgvr.schemas import Reason

FIELDS = {"temperature", "seed", "max_tokens", "logprobs", "top_logprobs", "detail"}


def client(server: ChatServer, **settings: Any) -> OpenAIClient:
    given = {"model": "m", "reply_cache": None, **settings}
    return OpenAIClient(OpenAIBackend(base_url=server.url, **given), first_pause=0.01)


def request(shade: int, **sampling: Any) -> ImageRequest:
    picture = Picture.of(Image.new("RGB", (8, 6), (shade, 0, 0)))
    return ImageRequest(picture, image_conversation("Name it"), Sampling(**{"max_tokens": 7, **sampling}))


def mistral(place: list[Any], message: str) -> Reply:
    detail = [{"type": "extra_forbidden", "loc": place, "msg": message, "input": 3}]
    return 422, {}, {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "param": None}


def google(message: str, field: str | None = None) -> Reply:
    violations = [{"field": field, "description": message}] if field else []
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}]
    found = {"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": details}
    return 400, {}, [{"error": found}]


def named(message: str, param: str, code: str = "unsupported_parameter", status: int = 400) -> Reply:
    found = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return status, {}, {"error": found}


def of(reply: Reply) -> ServerError:
    status, _, body = reply
    return ServerError.of_json(status, body)


@pytest.mark.parametrize(
    ("reply", "field"),
    [
        (named("Unsupported value: 'temperature' does not support 0.0 with this model.", "temperature"), "temperature"),
        (error(400, "Unsupported parameter: 'temperature' is not supported with this model."), "temperature"),
        (error(400, "`temperature` may only be set to 1 when thinking is enabled."), "temperature"),
        (error(400, "temperature: range: 0.1..1"), "temperature"),
        (error(400, "litellm.UnsupportedParamsError: o9 does not support parameters: ['temperature']"), "temperature"),
        (error(500, "litellm.UnsupportedParamsError: unsupported param temperature"), "temperature"),
        (error(400, "Unrecognized request argument supplied: seed"), "seed"),
        (error(400, "The seed parameter is not supported"), "seed"),
        (error(400, "The image detail 'high' is not supported"), "detail"),
        (error(400, "The image detail could not be read"), None),
        (mistral(["body", "seed"], "Extra inputs are not permitted"), "seed"),
        (google("Invalid value at 'generation_config.seed' (TYPE_INT32), 7689419447139100721"), "seed"),
        (google("Invalid value", "generation_config.seed"), "seed"),
        (google('Invalid JSON payload received. Unknown name "seed": Cannot find field.'), "seed"),
        ((400, {}, {"error": "unknown parameter: seed"}), "seed"),
        ((422, {}, {"detail": [{"loc": ["body", "top_logprobs"], "msg": "Input should be <= 5"}]}), "top_logprobs"),
        (error(400, "Requested sample logprobs of 20, which is greater than max allowed: 5"), "logprobs"),
        (error(403, "You are not allowed to request logprobs from this model"), "logprobs"),
        (google("Unable to submit: responseLogprobs is not enabled for this model"), "logprobs"),
        (named("Unknown parameter: 'messages[0].content[0].image_url.detail'.",
               "messages[0].content[0].image_url.detail"), "detail"),
        (mistral(["body", "messages", 0, "user", "content", 0, "image_url", "detail"], "Extra inputs"), "detail"),
        (error(400, "Use 'max_completion_tokens' instead of 'max_tokens'."), "max_tokens"),
        # Fields as keys, and sentences in Chinese, which has no blanks around a name.
        ((400, {}, {"title": "Invalid", "status": 400, "errors": {"seed": ["is not supported"]}}), "seed"),
        ((400, {}, {"code": 3, "reason": "temperature is unsupported"}), "temperature"),
        (error(400, "参数temperature非法"), "temperature"),
        # What is about one request: its length, its content, its picture.
        (error(400, "This model's maximum context length is 8192 tokens. However, you requested 9032 tokens."), None),
        (error(400, "'max_tokens' is too large: 32. This model's maximum context length is 8192 tokens and your request"
                    " has 8180 input tokens"), None),
        (named("Invalid image: seed of a plant, no detail", "messages[0].content[0].image_url", "invalid_image"), None),
        (error(400, "Your prompt with temperature and seed was flagged by our moderation"), None),
        (error(400, "no"), None),
        ((400, {}, {"detail": "Bad request"}), None),
        (error(400, "The photo of a sunflower seed must show more detail"), None),
    ],
)  # fmt: skip
def test_which_field_a_refusal_is_about(reply: Reply, field: str | None) -> None:
    assert of(reply).field_among(FIELDS) == field


def test_words_of_every_form() -> None:
    assert of(mistral(["body", "seed"], "Extra inputs are not permitted")).words == (
        "body.seed: Extra inputs are not permitted"
    )
    assert of((400, {}, {"error": "model is required"})).words == "model is required"
    assert of(error(400, "too long", "context")).words == "too long (context)"
    assert ServerError.of(502, b"<html>Bad gateway</html>").words == "<html>Bad gateway</html>"
    assert ServerError.of(500, b"").words == "status 500"
    assert of((400, {}, {"error": {"code": "odd"}})).words == "status 400 (odd)"
    assert of((400, {}, {"code": 7, "reason": "no seats", "id": "af31"})).words == "reason: no seats (7)"
    routed = {"message": "Provider returned error", "code": 400, "metadata": {"raw": '{"detail":"no seed here"}'}}
    assert of((400, {}, {"error": routed})).words == 'Provider returned error: {"detail":"no seed here"} (400)'


def refuses(field: str, reply: Reply) -> Any:
    """A server that answers `reply` to whatever holds the field; one open request a time makes it slow."""

    def answer(body: dict[str, Any], _: int) -> Reply:
        time.sleep(0.02)
        return reply if field in body else completion("Finch", tops={"Yes": -0.1, "No": -3.0})

    return answer


@pytest.mark.parametrize(
    ("field", "reply", "sampling"),
    [
        ("temperature", named("Only the default (1) value is supported.", "temperature", "unsupported_value"), {}),
        ("seed", mistral(["body", "seed"], "Extra inputs are not permitted"), {"temperature": 0.7, "seed": 5}),
        ("max_tokens", error(400, "'max_tokens' is not supported with this model."), {}),
    ],
)
def test_a_field_is_left_out_for_all_after_one_refusal(field: str, reply: Reply, sampling: dict[str, Any]) -> None:
    with serving(ChatServer(refuses(field, reply))) as server:
        answers = client(server, concurrency=16, max_retries=0).label([request(n, **sampling) for n in range(40)])
    assert [(answer.text, answer.failure) for answer in answers] == [("Finch", None)] * 40
    assert len(server.asked) == 41  # one refusal, and no row that it costs
    assert server.most_open > 4  # then all threads ask
    others = {"temperature", "max_tokens", *({"seed"} if sampling else ())} - {field}
    assert all(others <= set(body) for body in server.asked[1:])


def test_sixteen_refusals_at_once_cost_nothing() -> None:
    """A server that comes to refuse a field while sixteen requests are under way."""

    def answer(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.05)
        return error(400, "temperature is not supported") if number and "temperature" in body else completion("Finch")

    with serving(ChatServer(answer)) as server:
        answers = client(server, concurrency=16, max_retries=0).label([request(n) for n in range(40)])
    assert [answer.failure for answer in answers] == [None] * 40
    assert len(server.asked) <= 1 + 16 + 39


def test_several_fields_one_after_the_other() -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        for field in ("max_tokens", "temperature", "logprobs"):
            if field in body:
                return named(f"Unsupported parameter: '{field}' is not supported with this model.", field)
        assert "detail" not in body["messages"][0]["content"][0]["image_url"], "refused before"
        return completion("Finch")

    def picky(body: dict[str, Any], number: int) -> Reply:
        image = body["messages"][0]["content"][0]["image_url"]
        if "detail" in image:
            return mistral(["body", "messages", 0, "content", 0, "image_url", "detail"], "Extra inputs")
        return answer(body, number)

    with serving(ChatServer(picky)) as server:
        asked = client(server, max_retries=0, answer_logprobs=True)
        (found,) = asked.label([request(3)])
    assert (found.text, found.logprob) == ("Finch", None)
    assert len(server.asked) == 5
    assert set(server.asked[-1]) == {"model", "messages", "max_completion_tokens"}
    assert server.asked[-1]["messages"][0]["content"][1] == {"type": "text", "text": "Name it"}
    assert len(asked.remarks) == 3  # another name of the same length is nothing to know
    assert any("not deterministic" in remark for remark in asked.remarks)


def test_what_was_left_out_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    words = "Unsupported value: 'temperature' does not support 0 with this model."
    with serving(ChatServer(refuses("temperature", named(words, "temperature")))) as server, caplog.at_level("WARNING"):
        client(server, concurrency=8).label([request(n) for n in range(20)])
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(found) == 1
    assert words in found[0]
    assert "not deterministic" in found[0]


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("Invalid value for 'top_logprobs': must be less than or equal to 5.", 5),
        ("Invalid 'top_logprobs': integer above maximum value. Expected a value <= 5, but got 20 instead.", 5),
        ("top_logprobs must be between 0 and 8", 8),
        ("Requested sample logprobs of 20, which is greater than max allowed: 10", 10),
        ("top_logprobs should be in [0, 6]", 6),
        ("top_logprobs must be < 4", 3),
        ("model gpt-4o-2024-07-18: the value of top_logprobs is too large", 5),
    ],
)
def test_as_many_first_tokens_as_the_server_allows(message: str, limit: int) -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        if body["top_logprobs"] > limit:
            return error(400, message)
        return completion("Yes", tops={"Yes": math.log(0.6), "No": math.log(0.2)})

    with serving(ChatServer(answer)) as server:
        found = client(server, max_retries=0).aspects([picture(0), picture(9)], AspectTask(("A?", "B?"), "i"))
    assert [answers.p_yes.tolist() for answers in found] == [[pytest.approx(0.75)] * 2] * 2
    assert server.asked[-1]["top_logprobs"] == limit
    assert len(server.asked) == 5


def picture(shade: int) -> Picture:
    return Picture.of(Image.new("RGB", (8, 6), (shade, 0, 0)))


@pytest.mark.parametrize(
    ("field", "reply"),
    [
        ("logprobs", error(403, "You are not allowed to request logprobs from this model.")),
        ("top_logprobs", mistral(["body", "top_logprobs"], "Extra inputs are not permitted")),
        ("logprobs", error(400, "This model does not support logprobs. (LogprobsUnsupported)")),
    ],
)
def test_aspects_end_where_they_cannot_be_had_with_the_servers_words(field: str, reply: Reply) -> None:
    with serving(ChatServer(refuses(field, reply))) as server, pytest.raises(BackendRefused) as ended:
        client(server, concurrency=16).aspects([picture(n) for n in range(50)], AspectTask(("A?", "B?"), "i"))
    assert of(reply).words in str(ended.value)
    assert "aspects" in str(ended.value)
    images = {body["messages"][0]["content"][0]["image_url"]["url"] for body in server.asked}
    assert len(images) < 5


def test_a_needed_field_ends_the_job_with_its_own_sentence() -> None:
    """As a schema that answers must keep to: the way for whoever sends such a field."""
    message = {"role": "user", "content": "Name it"}
    with serving(ChatServer(refuses("response_format", error(400, "response_format is not supported")))) as server:
        calls = Calls(OpenAIBackend(base_url=server.url, model="m", reply_cache=None))
        extra = {"response_format": {"type": "json_object"}}
        reply = calls.complete([message], 5, 0, extra)
        assert reply.choices[0].message.content == "Finch"
        calls = Calls(OpenAIBackend(base_url=server.url, model="m", reply_cache=None))
        with pytest.raises(BackendRefused, match=r"use label\.answer free: response_format is not supported"):
            calls.complete([message], 5, 0, extra, needed={"response_format": "use label.answer free"})


def test_lengths_that_a_server_allows() -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        if body["max_tokens"] > 2048:
            return error(400, "max_tokens is too large: 4096. This model supports at most 2048 completion tokens")
        if body["max_tokens"] < 16:
            return error(400, "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16, but got 1")
        return completion("Finch")

    with serving(ChatServer(answer)) as server:
        asked = client(server, max_retries=0)
        answers = asked.label([request(0, max_tokens=1), request(1, max_tokens=4096), request(2, max_tokens=99)])
    assert [answer.text for answer in answers] == ["Finch"] * 3
    assert {body["max_tokens"] for body in server.asked} == {1, 16, 4096, 2048, 99}
    assert any("at most 2048 tokens" in remark for remark in asked.remarks)


def test_a_temperature_above_the_servers_range_is_the_users_to_mend() -> None:
    with (
        serving(
            ChatServer(refuses("temperature", error(400, "temperature must be less than or equal to 1")))
        ) as server,
        pytest.raises(BackendRefused, match="temperature must be less than or equal to 1"),
    ):
        client(server).label([request(n, temperature=1.5, seed=1) for n in range(20)])
    assert len(server.asked) < 5


def test_a_temperature_that_must_be_above_zero_is_nearly_zero() -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        strict = error(422, "Input validation error: `temperature` must be strictly positive")
        return completion("Finch") if body["temperature"] > 0 else strict

    with serving(ChatServer(answer)) as server:
        (found,) = client(server, max_retries=0).label([request(0)])
    assert found.text == "Finch"
    assert server.asked[-1]["temperature"] == 0.01


def test_a_server_that_insists_ends_the_job() -> None:
    with (
        serving(ChatServer(lambda *_: error(400, "max_tokens and max_completion_tokens are not supported"))) as server,
        pytest.raises(BackendRefused, match="are not supported"),
    ):
        client(server, concurrency=16).label([request(n) for n in range(50)])
    assert len(server.asked) < 5


def test_a_server_that_is_not_content_without_a_field_ends_the_job() -> None:
    """It wants a value that is not the one that was meant, and refuses every photo until it gets it."""

    def answer(body: dict[str, Any], _: int) -> Reply:
        return completion("Finch") if body.get("temperature") == 1 else error(400, "temperature must be 1")

    with serving(ChatServer(answer)) as server, pytest.raises(BackendRefused, match="temperature must be 1"):
        client(server).label([request(shade) for shade in range(20)])
    assert len(server.asked) == 2


def test_a_refusal_inside_a_200_is_learned_too() -> None:
    inside = (200, {}, {"error": {"message": "'temperature' is not supported", "code": 400}})
    with serving(ChatServer(refuses("temperature", inside))) as server:
        answers = client(server, max_retries=0).label([request(n) for n in range(9)])
    assert [answer.text for answer in answers] == ["Finch"] * 9
    assert len(server.asked) == 10


def test_one_rejected_photo_changes_nothing_for_the_others() -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        return error(400, "Invalid image: no temperature map") if number == 0 else completion(prompt_of(body))

    with serving(ChatServer(answer)) as server:
        asked = client(server, concurrency=1)
        bad, good = asked.label([request(0), request(1)])
    assert bad.failure is not None
    assert bad.failure.reason is Reason.REQUEST_REJECTED
    assert good.text == "Name it"
    assert server.asked[1]["temperature"] == 0
    assert asked.remarks == ()
