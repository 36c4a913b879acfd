"""Files of multiple-choice questions as people write them, and what is wrong with some."""

from pathlib import Path

import pytest

from fgvr.mllm.choice_file import ChoicesError, read_choices
from fgvr.mllm.choices import ChoiceQuestion


def test_questions_with_their_options(tmp_path: Path) -> None:
    file = tmp_path / "choices.txt"
    file.write_bytes(
        "﻿# of birds\r\n\r\nWhat  shape is its beak? | hooked |conical|\tlong\r\nC? | C | C++ | C#\n".encode()
    )
    assert read_choices(str(file)) == (
        ChoiceQuestion("What shape is its beak?", ("hooked", "conical", "long")),
        ChoiceQuestion("C?", ("C", "C++", "C#")),
    )


def test_as_many_options_as_letters(tmp_path: Path) -> None:
    file = tmp_path / "choices.txt"
    file.write_text("Which? | " + " | ".join(map(str, range(26))))
    assert len(read_choices(str(file))[0].options) == 26


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no question in"),
        ("# nothing else\n", "there is no question in"),
        ("\n| a | b\n", r"line 2: there is no question before the first \|"),
        ("Is it red?\n", r"line 1: 'Is it red\?' has 0 options, and needs 2 to 26"),
        ("Which? | a\n", r"line 1: 'Which\?' has 1 options, and needs 2 to 26"),
        ("Which? | " + " | ".join(map(str, range(27))), "has 27 options, and needs 2 to 26"),
        ("Which? | a | | b\n", r"line 1: option 2 of 'Which\?' is empty"),
        ("Which? | red | blue | Red \n", r"line 1: 'Which\?' has the option 'red' twice"),
        ("A? | x | y\nB? | x | y\na? | y | z\n", "line 3: the same question as on line 1"),
    ],
)
def test_what_cannot_be_asked_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "choices.txt"
    file.write_text(text)
    with pytest.raises(ChoicesError, match=f"^signatures.file: .*{message}"):
        read_choices(str(file))


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ChoicesError, match="there is no file"):
        read_choices(str(tmp_path / "no.txt"))
    (tmp_path / "choices.txt").write_bytes(b"Which? | r\xff | b")
    with pytest.raises(ChoicesError, match="is not UTF-8 text"):
        read_choices(str(tmp_path / "choices.txt"))
