"""Cutting prompts into a shared head and a tail a question, on hand-made ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

from fgvr.images.pictures import Picture
from fgvr.mllm.vllm_engine.prompts import (
    CannotSplice,
    PlainPrompts,
    SplicedPrompts,
    after_image,
    tails,
)
from fgvr.mllm.vllm_engine.splice_check import question_prompts
from fgvr.mllm.yes_no import AnswerTokens

IMAGE = 7
PROBE = Picture.of(Image.new("RGB", (2, 2)))


@dataclass
class Place:
    offset: int
    length: int


class FakePrompts:
    """Expands IMAGE (7) into 70 71 71 72; `after` is what the expansion puts behind it."""

    def __init__(self, after: Sequence[int] = ()) -> None:
        self.after = list(after)
        self.rendered = 0

    def with_picture(self, ids: list[int], picture: Picture, *, whole: bool = False) -> Any:
        self.rendered += 1
        place = ids.index(IMAGE)
        expanded = [*ids[:place], 70, 71, 71, 72, *self.after, *ids[place + 1 :]]
        return {
            "type": "multimodal",
            "prompt_token_ids": expanded,
            "mm_kwargs": {"image": ["pixels"]},
            "mm_hashes": {"image": [picture.content_id]},
            "mm_placeholders": {"image": [Place(place, 4)]},
        }


NOT_ASKED: Any = None
"""An engine is asked only where the ids are right."""
QUESTIONS = [[1, 7, 2, 3, 9], [1, 7, 2, 4, 9], [1, 7, 5, 6, 6, 9]]


def test_tails_start_after_the_placeholder() -> None:
    assert tails(QUESTIONS, [2, 3, 9]) == [[2, 3, 9], [2, 4, 9], [5, 6, 6, 9]]


@pytest.mark.parametrize(
    ("questions", "first_tail"),
    [
        (QUESTIONS, [2, 3, 8]),  # the text after the image was changed
        (QUESTIONS, []),
        ([[1, 7, 2], [8, 7, 3]], [2]),  # another head
        ([[1, 7, 2], [1, 7]], [2]),  # nothing after the image
    ],
)
def test_what_cannot_be_cut(questions: list[list[int]], first_tail: list[int]) -> None:
    with pytest.raises(CannotSplice):
        tails(questions, first_tail)


def test_after_the_last_image() -> None:
    rendered = {"prompt_token_ids": list(range(20)), "mm_placeholders": {"image": [Place(2, 3), Place(9, 4)]}}
    assert after_image(rendered) == list(range(13, 20))


def test_spliced_inputs_equal_full_renders_with_one_rendering_an_image() -> None:
    prompts: Any = FakePrompts()
    spliced = SplicedPrompts(prompts, QUESTIONS, PROBE)
    prompts.rendered = 0
    inputs = list(spliced.inputs(PROBE))
    assert prompts.rendered == 1
    full = list(PlainPrompts(prompts, QUESTIONS).inputs(PROBE))
    assert [one["prompt_token_ids"] for one in inputs] == [one["prompt_token_ids"] for one in full]
    assert [one["mm_kwargs"] for one in inputs] == [{"image": ["pixels"]}, {"image": [None]}, {"image": [None]}]


def test_a_model_that_does_not_allow_it_gets_plain_prompts(caplog: pytest.LogCaptureFixture) -> None:
    prompts: Any = FakePrompts(after=[80])  # something between the image and the text, outside its place
    plain = question_prompts(prompts, QUESTIONS, share_rendering=True, loop=NOT_ASKED, tokens=AnswerTokens(1, 2))
    assert type(plain) is PlainPrompts
    assert "rendered once per question" in caplog.text


def test_it_can_be_turned_off() -> None:
    prompts: Any = FakePrompts()
    plain = question_prompts(prompts, QUESTIONS, share_rendering=False, loop=NOT_ASKED, tokens=AnswerTokens(1, 2))
    assert type(plain) is PlainPrompts
    assert prompts.rendered == 0
