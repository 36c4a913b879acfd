"""How many tokens a request will have: of its text, and of a photo as the model's processor cuts it.

Estimates: what a run has counted itself (its tables have the tokens) is better, and taken where it is there.
"""

from __future__ import annotations

import math

from fgvr.config.models import Mllm
from fgvr.mllm.backend import Size
from fgvr.mllm.backends import provider

PHOTO: Size = (1000, 1000)
"""Assumed of photos that nobody has opened yet."""
UNKNOWN_IMAGE = 1000
"""Tokens assumed of an image where the processor's way is not known."""
FRAME = 20
"""Tokens of a chat template around a prompt."""
BYTES_A_TOKEN = 4


def text_tokens(text: str) -> int:
    """Of a text: four bytes a token, as English has about."""
    return math.ceil(len(text.encode()) / BYTES_A_TOKEN)


def image_tokens(model: Mllm, size: Size = PHOTO) -> int | None:
    """Of a photo of this size in a prompt; None where it is not known how the model cuts it. Fetches no weights."""
    return provider(model).image_tokens(size)
