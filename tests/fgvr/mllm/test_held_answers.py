"""Structured answers of servers: what is sent, what is learned, and what ends the job before five images were sent."""

import json
from typing import Any

import pytest
from chat_server import ChatServer, Reply, completion, error, serving
from PIL import Image

from fgvr.config.models import OpenAIBackend
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import Answer, BackendRefused, ImageRequest, Sampling
from fgvr.mllm.openai_server.backend import OpenAIClient
from fgvr.mllm.prompts import image_conversation
from fgvr.names.structured import answer_schema
from fgvr.schemas import Reason

WREN = '{"name": "Wren"}'


def ask(server: ChatServer, images: int = 1, names: int = 1, **settings: Any) -> list[Answer]:
    config = OpenAIBackend(base_url=server.url, model="m", **settings)
    sampling = Sampling(max_tokens=40, structured=names)
    pictures = [Picture.of(Image.new("RGB", (4, 4), (shade, 0, 0))) for shade in range(images)]
    requests = (ImageRequest(picture, image_conversation("Name it"), sampling) for picture in pictures)
    return OpenAIClient(config, first_pause=0.001).label(requests)


@pytest.mark.parametrize("names", [1, 3])
def test_the_schema_is_sent(names: int) -> None:
    said = WREN if names == 1 else '{"names": [{"name": "Wren", "confidence": 90}]}'
    with serving(ChatServer(lambda *_: completion(said))) as server:
        answers = ask(server, 3, names)
    assert [answer.text for answer in answers] == [said] * 3
    for body in server.asked:
        held = body["response_format"]
        assert held["type"] == "json_schema"
        assert held["json_schema"]["strict"] is True
        assert held["json_schema"]["schema"] == answer_schema(names)


def test_json_of_another_form_is_found_by_the_first_replies() -> None:
    with (
        serving(ChatServer(lambda *_: completion('{"label": "Wren"}'))) as server,
        pytest.raises(BackendRefused, match=r"ignores it: its answer is of another form: .*set label.answer to free"),
    ):
        ask(server, 30)
    assert len(server.asked) == 3


def test_a_server_that_knows_json_and_no_schemas() -> None:
    def answer(body: dict[str, Any], _: int) -> Reply:
        if body["response_format"]["type"] == "json_schema":
            return error(400, "response_format.type: json_schema is not supported, only json_object and text")
        return completion(WREN)

    with serving(ChatServer(answer)) as server:
        answers = ask(server, 8)
    assert [answer.text for answer in answers] == [WREN] * 8
    kinds = [body["response_format"]["type"] for body in server.asked]
    assert kinds == ["json_schema"] + ["json_object"] * 8


def test_a_server_that_knows_neither_ends_the_job_with_its_words() -> None:
    refusal = error(400, "Unrecognized request argument supplied: response_format")
    with serving(ChatServer(lambda *_: refusal)) as server, pytest.raises(BackendRefused) as caught:
        ask(server, 20)
    assert "label.answer = structured" in str(caught.value)
    assert "set label.answer to free" in str(caught.value)
    assert "Unrecognized request argument supplied: response_format" in str(caught.value)
    assert len(server.asked) == 2


@pytest.mark.parametrize("settings", [{}, {"max_retries": 0}])
def test_a_server_that_does_not_heed_the_field(settings: dict[str, int]) -> None:
    with (
        serving(ChatServer(lambda *_: completion("The bird is a Wren."))) as server,
        pytest.raises(BackendRefused, match=r"it takes response_format and ignores it.*The bird is a Wren"),
    ):
        ask(server, 20, **settings)
    assert len(server.asked) == 3


def test_nothing_of_a_server_that_did_not_heed_it_is_kept(tmp_path: Any) -> None:
    said = ["The bird is a Wren."]
    with serving(ChatServer(lambda *_: completion(said[0]))) as server:
        with pytest.raises(BackendRefused):
            ask(server, 4, reply_cache=str(tmp_path))
        said[0] = WREN
        assert [answer.text for answer in ask(server, 4, reply_cache=str(tmp_path))] == [WREN] * 4


def test_one_slip_of_a_server_that_heeds_it_is_one_row() -> None:
    def answer(_: dict[str, Any], number: int) -> Reply:
        return completion("A wren, I think" if number == 2 else WREN)

    with serving(ChatServer(answer)) as server:
        answers = ask(server, 5, concurrency=1)
    assert [answer.text for answer in answers].count("A wren, I think") == 1
    assert len(server.asked) == 5


def test_a_refusal_and_a_cut_are_no_proof_against_the_server() -> None:
    replies = [
        completion(None, refusal="I cannot name people."),
        completion('{"name": "Red-winged Black', finish="length"),
        completion(None, finish="length", reasoning_content="Hm"),
        completion(WREN),
    ]
    with serving(ChatServer(lambda _, number: replies[number])) as server:
        refused, cut, thought, whole = ask(server, 4, concurrency=1)
    assert refused.text is None
    assert refused.failure is not None
    assert (refused.failure.reason, refused.failure.detail) == (Reason.REFUSED, "I cannot name people.")
    assert (cut.text, cut.cut) == ('{"name": "Red-winged Black', True)
    assert (thought.text, thought.cut) == ("", True)
    assert json.loads(whole.text or "") == {"name": "Wren"}


@pytest.mark.parametrize(
    ("finish", "cut"),
    [("length", True), ("max_tokens", True), ("MAX_TOKENS", True), ("stop", False), ("eos", False), (None, False)],
)
def test_how_servers_say_that_an_answer_was_cut_off(finish: str | None, *, cut: bool) -> None:
    with serving(ChatServer(lambda *_: completion(WREN, finish=finish))) as server:  # type: ignore[arg-type]
        (answer,) = ask(server)
    assert answer.cut is cut
