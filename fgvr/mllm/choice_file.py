"""Reads multiple-choice questions from a file that people edit: `question | option | option …` on each line."""

from __future__ import annotations

from fgvr import storage
from fgvr.errors import UserError
from fgvr.mllm.choices import LETTERS, ChoiceQuestion
from fgvr.text_files import decoded, lines

SEPARATOR = "|"
FIELD = "signatures.file"


class ChoicesError(UserError, ValueError):
    """No usable questions; the message names the file and the line."""


def read_choices(uri: str) -> tuple[ChoiceQuestion, ...]:
    """The questions of a file, in its order; empty lines, and lines that start with `#`, are left out.

    Raises:
        ChoicesError: no such file, no questions in it, or a question that is empty, stands there twice, or has fewer
            than 2 or more than 26 options, an empty one, or one twice.
    """
    try:
        text = decoded(storage.read_bytes(uri))
    except FileNotFoundError:
        raise ChoicesError(f"{FIELD}: there is no file {uri}") from None
    except UnicodeDecodeError as error:
        raise ChoicesError(f"{FIELD}: {uri} is not UTF-8 text: {error.reason}") from None
    found: dict[str, tuple[int, ChoiceQuestion]] = {}
    for number, line in enumerate(lines(text), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        question = _question(line, f"{FIELD}: {uri}, line {number}")
        key = question.text.casefold()
        if key in found:
            raise ChoicesError(f"{FIELD}: {uri}, line {number}: the same question as on line {found[key][0]}")
        found[key] = number, question
    if not found:
        raise ChoicesError(
            f"{FIELD}: there is no question in {uri}; write one per line, e.g. What shape is its beak? | hooked | long"
        )
    return tuple(question for _, question in found.values())


def _question(line: str, place: str) -> ChoiceQuestion:
    """The question of a line; raises ChoicesError, which begins with the place."""
    text, *options = (" ".join(part.split()) for part in line.split(SEPARATOR))
    if not text:
        raise ChoicesError(f"{place}: there is no question before the first {SEPARATOR}")
    if not 2 <= len(options) <= len(LETTERS):
        raise ChoicesError(
            f"{place}: {text!r} has {len(options)} options, and needs 2 to {len(LETTERS)}, each behind a {SEPARATOR}"
        )
    if "" in options:
        raise ChoicesError(f"{place}: option {options.index('') + 1} of {text!r} is empty")
    keys = [option.casefold() for option in options]
    twice = next((option for option, key in zip(options, keys, strict=True) if keys.count(key) > 1), None)
    if twice is not None:
        raise ChoicesError(f"{place}: {text!r} has the option {twice!r} twice")
    return ChoiceQuestion(text, tuple(options))
