"""FiNDR's two questions: what do these images show and who knows it, and which kind is this, expert?"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from fgvr.baselines import BaselineError

READER = 1
"""Raised when the same reply comes to mean another subject, or the row of images looks otherwise."""
META_PROMPT = (
    "These photos show things of one category. Say which category that is, what its kinds are called (species, breed,"
    " model, variety …), and what a person is called who knows them by profession. Answer with a JSON object and"
    ' nothing else: {"category": "…", "unit": "…", "expert": "…"}'
)
SIDE = 448
"""Pixels of each image in the row of images."""
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_FIELDS = ("category", "unit", "expert")


@dataclass(frozen=True)
class Subject:
    """What the images show ("bird"), what its kinds are called ("species"), and who knows them ("ornithologist")."""

    category: str
    unit: str
    expert: str

    def fill(self, prompt: str) -> str:
        """The prompt with {category}, {unit} and {expert} filled in; other braces stay."""
        for field in _FIELDS:
            prompt = prompt.replace(f"{{{field}}}", getattr(self, field))
        return prompt


def read_subject(reply: str, cut_off: str | None = None) -> Subject:
    """The answer to META_PROMPT, also inside chatter or a code block.

    Args:
        reply: the answer.
        cut_off: the limit that ended it, in words; None: the model ended it.

    Raises:
        BaselineError: there is no such object in it; says how to do without the question.
    """
    found = _OBJECT.search(reply)
    try:
        facts = json.loads(found[0]) if found is not None else None
    except ValueError:
        facts = None
    words = {name: facts.get(name) for name in _FIELDS} if isinstance(facts, dict) else {}
    if not words or not all(isinstance(word, str) and word.strip() for word in words.values()):
        limit = "" if cut_off is None else f", cut off at {cut_off},"
        raise BaselineError(
            f"findr: the MLLM did not say what the images show; its reply{limit} was "
            f"{reply[:300]!r}. Set baselines.findr.category, .unit and .expert"
        )
    return Subject(**{name: str(word).strip() for name, word in words.items()})


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Images in one row, each scaled into a square of SIDE pixels: one picture for a question about all of them."""
    row = Image.new("RGB", (SIDE * len(images), SIDE), "white")
    for place, image in enumerate(images):
        scale = SIDE / max(image.size)
        small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        row.paste(small, (place * SIDE + (SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return row
