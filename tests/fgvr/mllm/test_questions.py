"""Reading question files, and parsing what a language model writes."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fgvr.metrics.semantic import SentenceBert
from fgvr.mllm.backend import Answer, Sampling
from fgvr.mllm.prompts import Conversation
from fgvr.mllm.questions import (
    MAX_CLASS_NAMES,
    MAX_WORDS,
    AspectQuestion,
    QuestionsError,
    Wanted,
    generate_questions,
    generation_prompt,
    listed,
    parse_questions,
    question_rows,
    read_questions,
    write_questions,
)

CHATTY = """Sure! Here are some questions for your dataset:

1. Is the body blue?
2) **Does the bird have a long beak?**
(3) Are the legs *black*?
- Is there a crest on its head?
* "Is the tail forked?"
Q6: Has it a ring around the eye?
7. Colour: is the crown yellow?
8. What colour is the belly?
9. Is the beak long? Is it curved?
10. The bird has long legs.
11. Which wing is longer?
12. is the body blue?
13. **Crest** – does it have a crest?
| 14 | Is the throat spotted? | plumage |
"Is the bill hooked?",
15. Is the bird a St. Helena plover?
16. Is the wingspan above 1.5 m? (A good hint for raptors.)
17. Is the beak long and is it curved?
18. Does the bird have wings
Would you like me to add more?
I hope these help! Let me know if you need others.
"""


def test_only_single_yes_no_questions_survive() -> None:
    assert parse_questions(CHATTY) == [
        "Is the body blue?",
        "Does the bird have a long beak?",
        "Are the legs black?",
        "Is there a crest on its head?",
        "Is the tail forked?",
        "Has it a ring around the eye?",
        "Is the crown yellow?",
        "Does it have a crest?",
        "Is the throat spotted?",
        "Is the bill hooked?",
        "Is the bird a St. Helena plover?",
        "Is the wingspan above 1.5 m?",
    ]


@pytest.mark.parametrize(
    "reply",
    [
        '["Is it red?", "Is the bird\'s bill hooked?"]',
        '{"questions": ["Is it red?", "Is the bird\'s bill hooked?"]}',
        "<li>Is it red?</li>\n<li>Is the bird's bill hooked?</li>",
    ],
)
def test_lists_on_one_line_and_of_html(reply: str) -> None:
    assert parse_questions(reply) == ["Is it red?", "Is the bird's bill hooked?"]
    assert parse_questions('Is it "red", "blue" or grey?') == ['Is it "red", "blue" or grey?']


def test_a_tsv_is_a_table_and_no_column_counts_twice(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("rank\ttext\n2\tIs it a, or b?\n1\tIs it c?\n")
    assert [question.text for question in read_questions(str(tmp_path / "q.tsv"))] == ["Is it c?", "Is it a, or b?"]
    (tmp_path / "q.csv").write_text("rank,text,rank\n1,Is it a?,2\n2,Is it b?,1\n")
    with pytest.raises(QuestionsError, match=r"q\.csv has the column rank twice"):
        read_questions(str(tmp_path / "q.csv"))


def test_thoughts_are_no_questions() -> None:
    assert parse_questions("<think>Is the list long?\nAre birds animals?</think>\nIs it blue?") == ["Is it blue?"]


LONG = "Is the bird " + "very " * 400 + "blue?"
OTHER_LANGUAGES = "1. Ist der Körper blau?\n2. ¿Es azul el cuerpo?\n3. 身体是蓝色的吗？"


def test_a_question_of_400_words_is_left_out() -> None:
    longest = "Is it " + "very " * (MAX_WORDS - 3) + "blue?"
    assert parse_questions(f"{LONG}\n{longest}") == [longest]


@pytest.mark.parametrize(
    "reply", ["", "I cannot do that.", OTHER_LANGUAGES, "What colour? Which size?", "?", "Is the body blue", LONG]
)
def test_a_reply_without_questions_gives_none(reply: str) -> None:
    assert parse_questions(reply) == []


class Script:
    """A language model that says what it was given, and keeps what it was asked."""

    def __init__(self, *replies: str, cut: bool = False) -> None:
        self.replies = list(replies)
        self.cut = cut
        self.prompts: list[str] = []
        self.systems: list[str] = []

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Answer]:
        (conversation,) = conversations
        self.systems.append(conversation[0]["content"][0]["text"])
        self.prompts.append(conversation[-1]["content"][0]["text"])
        return [Answer(self.replies.pop(0), cut=self.cut)]


def generate(llm: Script, count: int, keep: int) -> list[str]:
    wanted = Wanted("birds", count, keep)
    found = generate_questions(llm, ["Finch", "Pipit"], wanted, source="m", load_encoder=SentenceBert)
    assert [question.rank for question in found] == list(range(1, len(found) + 1))
    return [question.text for question in found]


def test_questions_are_written_then_ranked() -> None:
    llm = Script("1. Is it a?\n2. Is it b?\n3. Is it c?", "Sure:\n1. Is it C?\n2. Is it z?\n3. **Is it a?**")
    assert generate(llm, 3, 2) == ["Is it c?", "Is it a?"]
    assert llm.systems == ["You are a good question maker."] * 2
    assert "2 classes and images of birds. The class list is as follows: Finch, Pipit." in llm.prompts[0]
    assert "Generate 3 feature-specific Yes or No questions" in llm.prompts[0]
    assert llm.prompts[1].startswith("Select 2 of the most relevant")
    assert llm.prompts[1].endswith("Is it a?\nIs it b?\nIs it c?")


def test_a_model_that_writes_too_few_is_asked_for_others() -> None:
    llm = Script("Is it a?\nIs it b?", "Is it b?\nIs it c?")
    assert generate(llm, 3, 3) == ["Is it a?", "Is it b?", "Is it c?"]
    assert "Generate 1 feature-specific" in llm.prompts[1]
    assert "Do not repeat any of these:\nIs it a?\nIs it b?" in llm.prompts[1]


def test_a_model_that_has_no_more_is_left_alone() -> None:
    assert generate(Script("Is it a?", "Is it a?"), 3, 3) == ["Is it a?"]


def test_a_ranking_without_questions_keeps_the_order_of_writing() -> None:
    assert generate(Script("Is it a?\nIs it b?\nIs it c?", "No."), 3, 2) == ["Is it a?", "Is it b?"]


@pytest.mark.parametrize("reply", ["No can do", OTHER_LANGUAGES, "Is the body blue"])
def test_no_question_at_all_shows_the_reply_and_a_way_out(reply: str) -> None:
    with pytest.raises(QuestionsError, match=r"no yes/no question in English .* as questions\.file") as raised:
        generate(Script(reply), 3, 2)
    assert repr(reply) in str(raised.value)
    assert "cut off" not in str(raised.value)


def test_a_model_that_thinks_until_the_limit_is_told_from_one_that_has_no_questions() -> None:
    with pytest.raises(QuestionsError, match=r"which was cut off at 4096 tokens .* and was '<think>"):
        generate(Script("<think>Is it red? Is it", cut=True), 3, 2)


def test_of_near_duplicates_the_better_ranked_one_stays(caplog: pytest.LogCaptureFixture) -> None:
    written = "Are the legs yellow?\nIs the tail long?\nIs the tail short?\nDoes the bird have yellow legs?"
    llm = Script(written, "Does the bird have yellow legs?\nIs the tail short?\nAre the legs yellow?")
    wanted = Wanted("birds", 4, 3, similarity=1)
    with caplog.at_level("INFO"):
        found = generate_questions(llm, ["Finch"], wanted, source="m", load_encoder=SentenceBert)
    assert [question.text for question in found] == [
        "Does the bird have yellow legs?",
        "Is the tail short?",
        "Is the tail long?",  # not selected, but room was left by the duplicate
    ]
    assert "'Are the legs yellow?' repeats 'Does the bird have yellow legs?'" in caplog.text
    assert "4 written, 1 near-duplicates dropped, 3 kept" in caplog.text


def test_fewer_than_wanted_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert generate(Script("Is it a?", "No more."), 3, 3) == ["Is it a?"]
    assert "1 of questions.keep = 3 are left" in caplog.text


def test_a_long_class_list_is_thinned_evenly() -> None:
    names = [f"n{number:05d}" for number in range(10_000)]
    assert len(listed(names)) <= MAX_CLASS_NAMES
    assert listed(names)[:2] == ["n00000", "n00034"]  # ceil(10000 / 300) = 34
    assert listed(names[:5]) == names[:5]
    assert "10000 classes" in generation_prompt(names, "things", 10)


def test_a_text_file_with_comments_blanks_and_repetitions(tmp_path: Path) -> None:
    file = tmp_path / "q.txt"
    file.write_text("\ufeff# aspects\nIs it a?\n\n  Is it b?  \nis it A\nIst es blau?\n", encoding="utf-8")
    assert [(q.text, q.rank, q.source) for q in read_questions(str(file))] == [
        ("Is it a?", 1, "q.txt"),
        ("Is it b?", 2, "q.txt"),
        ("Ist es blau?", 3, "q.txt"),
    ]


def test_odd_questions_of_a_file_are_asked_as_they_stand_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a person wrote is what a person wants; 身体是蓝色的吗？ ends in a question mark, too."""
    file = tmp_path / "q.txt"
    file.write_text(f"Is it blue\n{LONG}\n身体是蓝色的吗？\n", encoding="utf-8")
    assert [q.text for q in read_questions(str(file))] == ["Is it blue", LONG, "身体是蓝色的吗？"]
    assert "'Is it blue' has no question mark" in caplog.text
    assert "is long; every image is asked all of it" in caplog.text
    assert len(caplog.records) == 2


def test_a_csv_is_read_by_rank_and_written_back(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text('text,rank,source\n"Is it b, or so?",2,gpt\nIs it a?,1,\n')
    found = read_questions(str(file))
    assert found == [AspectQuestion("Is it a?", 1, "q.csv"), AspectQuestion("Is it b, or so?", 2, "gpt")]
    file.write_bytes(write_questions(found))
    assert read_questions(str(file)) == found
    assert question_rows(found).to_pylist()[1] == {
        "question_id": 1,
        "text": "Is it b, or so?",
        "rank": 2,
        "source": "gpt",
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", b"# only a comment\n\n", "there is no question in"),
        ("q.txt", b"\xff\xfe", "is not UTF-8 text"),
        ("q.csv", b"question\nIs it a?\n", "needs column text"),
        ("q.csv", b"text,rank\nIs it a?,first\n", "a rank is not a whole number"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(QuestionsError, match=message):
        read_questions(str(file))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(QuestionsError, match=r"questions\.file: there is no file"):
        read_questions(str(tmp_path / "none.txt"))
