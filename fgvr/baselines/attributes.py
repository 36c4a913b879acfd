"""FineR's question to a language model: which names fit what somebody answered about a photo?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

RULES = 1
"""Raised when the same p(yes) come to be described in other words."""
UNSURE = 0.1
"""Answers whose p(yes) is nearer to ½ than this are left out: they would say as often the wrong thing."""

PROMPT = """Somebody looked at a photo of {subject} and answered questions about it:
{answers}
Which {count} kinds could it be? Name them as exactly as you can (the species, breed or model, not the family), the \
most likely one first, one name a line and nothing else."""


def described(questions: Sequence[str], p_yes: npt.NDArray[np.float32]) -> list[str]:
    """The answered questions as lines, `Is the tail forked? Yes`.

    Args:
        questions: Q texts.
        p_yes: float32 [Q]; NaN where the model said neither.
    """
    return [
        f"{question} {'Yes' if yes > 0.5 else 'No'}"
        for question, yes in zip(questions, p_yes.tolist(), strict=True)
        if abs(yes - 0.5) >= UNSURE  # not so for NaN
    ]


def naming_prompt(answers: Sequence[str], subject: str, count: int) -> str:
    """What the language model is asked about one image (the idea is FineR's, its questions are open ones)."""
    return PROMPT.format(subject=subject, answers="\n".join(answers), count=count)
