"""kind_answers: what is asked about each name, how answers are read, and who pays for what names share."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pytest

from fgvr.config.hierarchy import KIND_PROMPT
from fgvr.mllm.backend import Answer, Sampling
from fgvr.mllm.kind_worker import KindSettings, KindWorker, kinds_of_rows
from fgvr.mllm.prompts import Conversation
from fgvr.schemas import KIND_ANSWERS, Failure, Reason


class Says:
    """Answers by what is asked about: a text, a whole answer, or "none" of what it does not know."""

    def __init__(self, known: Mapping[str, str | Answer]) -> None:
        self.known, self.asked, self.sampling = known, list[list[str]](), Sampling()

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Answer]:
        texts = [each[0]["content"][0]["text"].removeprefix("? ") for each in conversations]
        self.asked.append(texts)
        self.sampling = sampling
        found = [self.known.get(text, "none") for text in texts]
        return [Answer(each, None, 10, 3) if isinstance(each, str) else each for each in found]


def rows(*names: str) -> pa.Table:
    return pa.table({"class_id": range(len(names)), "name": names})


def asked(known: Mapping[str, str | Answer], *names: str, rounds: int = 2) -> tuple[list[dict], Says]:
    backend = Says(known)
    found = KindWorker(KindSettings("? {name}", rounds, 32), backend).process(rows(*names))
    assert found.schema.equals(KIND_ANSWERS)
    return found.to_pylist(), backend


def test_kinds_are_asked_about_in_rounds_and_once() -> None:
    known = {
        "Mew Gull": "Gull",
        "Herring Gull": "The answer is: **Gulls**.",
        "Gull": "Bird",
        "Robin": '{"name": "bird"}',
    }
    (mew, herring, robin), backend = asked(known, "Mew Gull", "Herring Gull", "Robin", rounds=3)
    assert backend.asked == [["Mew Gull", "Herring Gull", "Robin"], ["Gull", "bird"]]  # gull → Bird was asked by then
    assert backend.sampling == Sampling(32)
    assert mew["kinds"] == ["Gull", "Bird"]
    assert mew["answers"] == ["Gull", "Bird", "none"]
    assert mew["ended"] == "refused"
    assert herring["kinds"] == ["Gulls", "Bird"]
    assert robin["kinds"] == ["bird"]
    assert [row["error"] for row in (mew, herring, robin)] == [None] * 3
    # The first name pays for what it shares: mew for itself and Gull, robin for itself and bird.
    assert [row["prompt_tokens"] for row in (mew, herring, robin)] == [20, 10, 20]
    assert [row["output_tokens"] for row in (mew, herring, robin)] == [6, 3, 6]


def test_no_more_than_the_rounds_are_asked() -> None:
    (row,), backend = asked({"a1": "b1", "b1": "c1", "c1": "d1"}, "a1", rounds=2)
    assert row["kinds"] == ["b1", "c1"]
    assert row["ended"] is None
    assert backend.asked == [["a1"], ["b1"]]


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        ("Gulls", "itself"),
        ("", "empty_answer"),
        ("None", "refused"),
        ("I'm sorry, I cannot answer that.", "refused"),
        ("gull " * 2_000, "empty_answer"),
        ("<think>" + "well " * 2_000, "empty_answer"),
        ("!" * 10_000, "empty_answer"),
    ],
)
def test_an_answer_that_is_no_kind_ends_the_chain_and_fails_nothing(answer: str, ended: str) -> None:
    (gull, robin), _ = asked({"Gull": answer, "Robin": "bird"}, "Gull", "Robin", rounds=1)
    assert (gull["kinds"], gull["ended"], gull["error"]) == ([], ended, None)
    assert gull["answers"] == [answer]
    assert robin["kinds"] == ["bird"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Finch", "Finch"),
        ("It is a kind of finch.", "finch"),
        ("The kind is: Finch.", "Finch"),
        ("The kind directly above it is Finch.", "Finch"),
        ("**Kind:** Finch", "Finch"),
        ("Kind: Finch", "Finch"),
        ("Its family is the true finches.", "true finches"),
        ("Family: Laridae", "Laridae"),
        ("the genus Larus", "Larus"),
        ("Gull (Laridae)", "Gull"),
        ("<think>A gull. Family: x</think>\nThe more general kind would be a seabird.", "seabird"),
        ("Order", "Order"),
        ("Class A amplifier", "Class A amplifier"),
        ("Fruit\n\nExplanation: an apple is a fruit.", "Fruit"),
    ],
)
def test_answers_are_read_as_people_would(answer: str, kind: str) -> None:
    (row,), _ = asked({"a1": answer}, "a1", rounds=1)
    assert row["kinds"] == [kind]


def test_circles_end() -> None:
    (row,), backend = asked({"plum": "fruit", "fruit": "food", "food": "Plums"}, "plum", rounds=9)
    assert (row["kinds"], row["ended"]) == (["fruit", "food"], "circle")
    assert len(backend.asked) == 3


def test_a_request_that_fails_is_one_row_to_try_again() -> None:
    down = Answer(None, failure=Failure(Reason.ENGINE_ERROR, "503"))
    found, backend = asked({"a1": "b1", "c1": "b1", "b1": down, "d1": down}, "a1", "c1", "d1")
    assert [row["kinds"] for row in found] == [["b1"], ["b1"], []]  # what was answered before counts
    assert [row["error"] and row["error"]["detail"] for row in found] == ["a1: 503", None, "d1: 503"]
    assert backend.asked == [["a1", "c1", "d1"], ["b1"]]


def test_what_a_server_filters_out_is_no_failure() -> None:
    (row,), _ = asked({"a1": Answer(None, failure=Failure(Reason.REFUSED, "content filter"))}, "a1")
    assert (row["ended"], row["error"], row["answers"]) == ("refused", None, [None])


def test_unknown_token_counts_stay_unknown() -> None:
    (row,), _ = asked({"a1": Answer("b1", tokens_known=False)}, "a1", rounds=1)
    assert row["prompt_tokens"] is None


def test_names_are_filled_in_as_they_are() -> None:
    _, backend = asked({}, "{name} \\1 {}", rounds=1)
    assert backend.asked == [["{name} \\1 {}"]]
    assert KIND_PROMPT.count("{name}") == 1
    assert asked({})[0] == []


def test_rows_make_a_source_in_the_order_of_their_numbers() -> None:
    found, _ = asked({"auk": "seabird", "gull": "seabird"}, "gull", "auk", rounds=1)
    dead = {**dict.fromkeys(KIND_ANSWERS.names), "class_id": 2, "error": {"reason": "engine_error", "detail": "died"}}
    source = kinds_of_rows(pa.Table.from_pylist([dead, *reversed(found)], schema=KIND_ANSWERS))
    assert [(chain.name, chain.kinds) for chain in source.chains] == [("gull", ("seabird",)), ("auk", ("seabird",))]
