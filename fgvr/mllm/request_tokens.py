"""Estimates how many tokens a request will have, from its text and from how the processor splits a photo.

What a run has counted itself (the token columns of its tables) is more accurate, and used if available.
"""

from __future__ import annotations

import math

from fgvr.config.models import Mllm
from fgvr.mllm.backend import Size
from fgvr.mllm.backends import provider

PHOTO: Size = (1000, 1000)
"""Size assumed for photos that were not opened yet."""
UNKNOWN_IMAGE = 1000
"""Tokens assumed for an image if it is unknown how the processor splits it."""
FRAME = 20
"""Tokens of a chat template around a prompt."""
BYTES_A_TOKEN = 4


def text_tokens(text: str) -> int:
    """Estimated tokens of a text: four bytes per token, as in English."""
    return math.ceil(len(text.encode()) / BYTES_A_TOKEN)


def image_tokens(model: Mllm, size: Size = PHOTO) -> int | None:
    """Tokens of a photo of this size in a prompt; None if it is unknown how the model splits it. Fetches no weights."""
    return provider(model).image_tokens(size)
