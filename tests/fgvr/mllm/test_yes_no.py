"""The tokens of yes and no, and the probability they give."""

import math

import pytest
from tiny_checkpoints import tokenizer

from fgvr.mllm.yes_no import AnswerTokens, AnswerWordError, probability_of_yes, token_ids

SPECIAL = ["<|im_end|>", "<|im_start|>"]


def test_after_a_line_break_the_word_itself_counts() -> None:
    words = tokenizer(SPECIAL)
    found = AnswerTokens.resolve(words, "Is it blue?<|im_end|>\n<|im_start|>assistant\n")
    assert words.convert_ids_to_tokens([found.yes, found.no]) == ["Yes", "No"]


def test_after_a_special_token_the_word_itself_counts() -> None:
    words = tokenizer(SPECIAL)
    found = AnswerTokens.resolve(words, "Is it blue?<|im_start|>")
    assert words.convert_ids_to_tokens([found.yes, found.no]) == ["Yes", "No"]


def test_after_a_colon_the_word_with_a_blank_counts() -> None:
    words = tokenizer(["<s>"], bos="<s>")
    found = AnswerTokens.resolve(words, "USER: Is it blue? ASSISTANT:")
    assert words.convert_ids_to_tokens([found.yes, found.no]) == ["ĠYes", "ĠNo"]


def test_other_words() -> None:
    words = tokenizer(SPECIAL)
    swapped = AnswerTokens.resolve(words, "?\n", ("No", "Yes"))
    plain = AnswerTokens.resolve(words, "?\n")
    assert (swapped.yes, swapped.no) == (plain.no, plain.yes)


def test_a_word_of_two_tokens_is_an_error_that_names_both() -> None:
    words = tokenizer(SPECIAL, split_yes=True)
    assert len(words("Yes")["input_ids"]) > 1
    with pytest.raises(AnswerWordError, match=r"aspects\.words: .*'Yes' and 'No' as one token each") as caught:
        AnswerTokens.resolve(words, "Is it blue?\n")
    assert "'Y'" in str(caught.value)  # the pieces are shown


def test_one_word_for_both_is_an_error() -> None:
    with pytest.raises(AnswerWordError):
        AnswerTokens.resolve(tokenizer(SPECIAL), "?\n", ("Yes", "Yes"))


def test_bos_is_there_once() -> None:
    words = tokenizer(["<s>"], bos="<s>")
    assert token_ids(words, "<s>Hi") == token_ids(words, "Hi")
    assert token_ids(words, "Hi").count(words.bos_token_id) == 1


@pytest.mark.parametrize(
    ("yes", "no", "p_yes", "mass"),
    [
        (math.log(0.6), math.log(0.2), 0.75, 0.8),
        (math.log(0.5), math.log(0.5), 0.5, 1.0),
        (-2000.0, -3000.0, 1.0, 0.0),
        (-3000.0, -2000.0, 0.0, 0.0),
        (-math.inf, -1.0, 0.0, math.exp(-1)),
        (-1.0, -math.inf, 1.0, math.exp(-1)),
    ],
)
def test_the_probability_of_yes(yes: float, no: float, p_yes: float, mass: float) -> None:
    assert probability_of_yes(yes, no) == pytest.approx((p_yes, mass))


def test_nothing_to_compare_is_not_a_number() -> None:
    p_yes, mass = probability_of_yes(-math.inf, -math.inf)
    assert math.isnan(p_yes)
    assert mass == 0
