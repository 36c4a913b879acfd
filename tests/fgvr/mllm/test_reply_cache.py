"""Replies that are kept: what is asked only once, and what is asked again."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, completion, error, serving
from PIL import Image

from fgvr import storage
from fgvr.config import build
from fgvr.config.models import OpenAIBackend
from fgvr.images.pictures import Picture
from fgvr.mllm.backend import AspectTask, BackendRefused, ImageRequest, Sampling
from fgvr.mllm.openai_server.backend import OpenAIClient
from fgvr.mllm.openai_server.cache import ReplyCache, reply_key, with_run_replies
from fgvr.mllm.prompts import image_conversation, text_conversation


def client(server: ChatServer, folder: Path | str, **settings: Any) -> OpenAIClient:
    given = {"model": "m", "reply_cache": str(folder), "max_retries": 1, **settings}
    return OpenAIClient(OpenAIBackend(base_url=server.url, **given), first_pause=0.01)


def request(shade: int = 0, prompt: str = "Name it", **sampling: Any) -> ImageRequest:
    picture = Picture.of(Image.new("RGB", (8, 6), (shade, 0, 0)))
    return ImageRequest(picture, image_conversation(prompt), Sampling(**sampling))


def test_the_same_question_is_asked_once_also_by_another_client(tmp_path: Path) -> None:
    with serving(ChatServer(lambda _, n: completion(f"Finch {n}"))) as server:
        first = client(server, tmp_path).label([request()])
        again = client(server, tmp_path).label([request()])
    assert first == again
    assert first[0].text == "Finch 0"
    assert (first[0].prompt_tokens, first[0].output_tokens) == (20, 3)
    assert len(server.asked) == 1


def test_a_process_that_is_killed_behind_a_flush_has_lost_no_reply() -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    with serving(ChatServer(lambda *_: completion("Finch"))) as server:
        asking = client(server, folder)
        asking.label([request(shade) for shade in range(3)])
        assert storage.list_files(folder) == []  # they wait for others
        asking.flush()
    assert len(storage.list_files(folder)) == 2  # a batch and its index


@pytest.mark.parametrize(
    ("other", "settings"),
    [
        (request(shade=1), {}),  # one grey level of the pixels
        (request(prompt="Name it!"), {}),
        (request(max_tokens=9), {}),
        (request(temperature=0.5, seed=1), {}),
        (request(), {"model": "n"}),
        (request(), {"answer_logprobs": True}),
        (request(), {"image_detail": "low"}),
    ],
)
def test_whatever_decides_the_reply_is_another_question(
    tmp_path: Path, other: ImageRequest, settings: dict[str, Any]
) -> None:
    with serving(ChatServer(lambda *_: completion("Finch"))) as server:
        client(server, tmp_path).label([request()])
        client(server, tmp_path, **settings).label([other])
    assert len(server.asked) == 2


def test_another_server_is_another_question() -> None:
    assert reply_key("http://a/v1", {"model": "m"}) != reply_key("http://b/v1", {"model": "m"})


@pytest.mark.parametrize(
    "bad",
    [
        error(500, "oops"),
        error(400, "too long"),
        (200, {}, b"no JSON"),
        completion("", finish="content_filter"),
        completion("half a na", finish="content_filter"),
        completion(None, refusal="I can't help with that."),
        completion(""),
    ],
)
def test_failures_are_never_kept(tmp_path: Path, bad: Reply) -> None:
    healthy = False
    with serving(ChatServer(lambda *_: completion("Finch") if healthy else bad)) as server:
        client(server, tmp_path).label([request()])
        assert not list(tmp_path.rglob("*.*"))
        healthy = True
        (answer,) = client(server, tmp_path).label([request()])
    assert answer.text == "Finch"


def test_samples_without_a_seed_are_drawn_anew(tmp_path: Path) -> None:
    with serving(ChatServer(lambda _, n: completion(str(n)))) as server:
        asked = [text_conversation("Write")] * 2
        drawn = client(server, tmp_path, concurrency=1).generate(asked, Sampling(temperature=0.9))
        seeded = client(server, tmp_path, concurrency=1).generate(asked, Sampling(temperature=0.9, seed=4))
    assert [answer.text for answer in drawn] == ["0", "1"]
    assert [answer.text for answer in seeded] == ["2", "2"]


def test_aspects_are_kept_too(tmp_path: Path) -> None:
    task = AspectTask(("A?", "B?"), "Yes or No.")
    picture = Picture.of(Image.new("RGB", (8, 6)))
    with serving(ChatServer(lambda *_: completion("Yes", tops={"Yes": -0.1, "No": -3.0}))) as server:
        (first,) = client(server, tmp_path).aspects([picture], task)
        (again,) = client(server, tmp_path).aspects([picture], task)
    assert len(server.asked) == 2
    assert first.p_yes.tolist() == again.p_yes.tolist()


def test_a_damaged_file_is_a_question_not_asked(tmp_path: Path) -> None:
    with serving(ChatServer(lambda *_: completion("Finch"))) as server:
        client(server, tmp_path).label([request()])
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes().replace(b"Finch", b"Finck"))
        (answer,) = client(server, tmp_path).label([request()])
    assert (answer.text, len(server.asked)) == ("Finch", 2)


def test_many_at_once_leave_one_file_of_whole_replies(tmp_path: Path) -> None:
    cache = ReplyCache(str(tmp_path))
    keys = [f"{number:064x}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: cache.keep(keys[number % 8], bytes([number % 8]) * 10_000), range(64)))
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 1
    assert [cache.find(key) for key in keys] == [bytes([number]) * 10_000 for number in range(8)]
    assert cache.find("cd" * 32) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        serving(ChatServer(lambda *_: completion("Finch"))) as server,
        pytest.raises(BackendRefused, match=r"mllm\.reply_cache = .*file/below: cannot write"),
    ):
        client(server, tmp_path / "file" / "below").label([request()])


def test_run_means_the_runs_own_folder(tmp_path: Path) -> None:
    openai = {"kind": "openai", "model": "m", "base_url": "http://x/v1"}
    tree = {"mllm": openai, "questions": {"llm": {**openai, "reply_cache": None}}, "signatures": {"llm": openai}}
    config = with_run_replies(build(tree), "s3://bucket/runs/a")
    assert config.mllm.reply_cache == "s3://bucket/runs/a/replies"  # type: ignore[union-attr]
    assert config.questions.llm.reply_cache is None  # type: ignore[union-attr]
    assert config.signatures.llm.reply_cache == "s3://bucket/runs/a/replies"  # type: ignore[union-attr]
    assert with_run_replies(build({}), "runs/a") == build({})


def test_a_kept_reply_that_cannot_be_interpreted_is_asked_again_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, bytes] = {}
    keep = ReplyCache.keep
    monkeypatch.setattr(ReplyCache, "keep", lambda cache, key, body: (kept.update({key: body}), keep(cache, key, body)))
    task = AspectTask(("A?",), "i")
    picture = request().picture
    with serving(ChatServer(lambda *_: completion("Yes", tops={"Yes": -0.1, "No": -3.0}))) as server:
        (first,) = client(server, tmp_path).aspects([picture], task)
        ((key, whole),) = kept.items()
        for bad in (b"", whole[:50], whole.replace(b"-3.0", b"NaN"), b'{"error": "busy"}', whole.replace(b"top_", b"")):
            keep(ReplyCache(str(tmp_path)), key, bad)
            (again,) = client(server, tmp_path).aspects([picture], task)
            assert again.p_yes == first.p_yes
            assert ReplyCache(str(tmp_path)).find(key) == whole
    assert len(server.asked) == 6


def test_a_reply_with_any_log_probability_is_no_trap(tmp_path: Path) -> None:
    """Kept replies of earlier versions hold such values, too: they were kept before they were read."""
    with serving(ChatServer(lambda *_: completion("Yes", tops={"Yes": 0.0, "No": -9999.0}))) as server:
        for _ in range(2):
            (found,) = client(server, tmp_path).aspects([request().picture], AspectTask(("A?",), "i"))
            assert (found.p_yes.tolist(), found.label_mass.tolist()) == ([1.0], [1.0])
    assert len(server.asked) == 1


def test_an_unreadable_reply_is_never_kept(tmp_path: Path) -> None:
    with serving(ChatServer(lambda *_: completion("Yes", tops={"Yes": 7.0, "No": -3.0}))) as server:
        (found,) = client(server, tmp_path).aspects([request().picture], AspectTask(("A?",), "i"))
    assert found.failure is not None
    assert not list(tmp_path.rglob("*.*"))


def test_replies_of_a_server_that_takes_less_are_found_again_and_say_so(tmp_path: Path) -> None:
    """The name of a reply is that of the question as it is meant: nobody has learned anything when a run is resumed."""

    def answer(body: dict[str, Any], _: int) -> Reply:
        refused = next((field for field in ("temperature", "seed", "max_tokens") if field in body), None)
        return completion("Finch") if refused is None else error(400, f"Unsupported parameter: '{refused}'")

    sampled = [request(shade, temperature=0.7, seed=shade) for shade in range(3)]
    with serving(ChatServer(answer)) as server:
        first = client(server, tmp_path, concurrency=2)
        assert [answer.text for answer in first.label(sampled)] == ["Finch"] * 3
        assert len(server.asked) == 6
        again = client(server, tmp_path)
        assert [answer.text for answer in again.label(sampled)] == ["Finch"] * 3
    assert len(server.asked) == 6
    assert len(first.remarks) == 2
    assert again.remarks == first.remarks
