"""FiNDR's expert: what is read from the model's reply, and the picture of several images."""

import numpy as np
import pytest
from PIL import Image

from fgvr.baselines import BaselineError
from fgvr.baselines.finer_findr import SIDE, Subject, read_subject, side_by_side
from fgvr.config.baselines import FINDR_PROMPT

BIRDS = Subject("bird", "species", "ornithologist")


@pytest.mark.parametrize(
    "reply",
    [
        '{"category": "bird", "unit": "species", "expert": "ornithologist"}',
        'Sure!\n```json\n{"category": " bird ", "unit": "species",\n "expert": "ornithologist", "sure": 1}\n```\nBye.',
    ],
)
def test_an_object_inside_chatter(reply: str) -> None:
    assert read_subject(reply) == BIRDS


@pytest.mark.parametrize(
    "reply",
    ["", "A bird.", '{"category": "bird"}', '{"category": "bird", "unit": "", "expert": "x"}', "{birds}", '["bird"]'],
)
def test_a_reply_without_it_says_what_to_set(reply: str) -> None:
    with pytest.raises(BaselineError, match=r"Set baselines\.findr\.category, \.unit and \.expert"):
        read_subject(reply)


def test_the_prompt_names_the_expert() -> None:
    filled = BIRDS.fill(FINDR_PROMPT + " {other}")
    assert filled.startswith("You are a professional ornithologist and can tell any species of bird")
    assert filled.endswith("{other}")


def test_images_stand_in_a_row_each_in_its_square() -> None:
    row = side_by_side([Image.new("RGB", (100, 50), "red"), Image.new("RGB", (10, 40), "blue")])
    pixels = np.asarray(row)
    assert pixels.shape == (SIDE, 2 * SIDE, 3)
    assert pixels[SIDE // 2, SIDE // 2].tolist() == [255, 0, 0]
    assert pixels[10, SIDE // 2].tolist() == [255, 255, 255]  # above the wide image
    assert pixels[10, SIDE + SIDE // 2].tolist() == [0, 0, 255]
    assert pixels[10, SIDE + 10].tolist() == [255, 255, 255]  # left of the high one
