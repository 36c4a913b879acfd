"""FineR and FiNDR: their prompts for language models, and their classifiers from prototypes of text and images."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgvr.arrays import Floats
from fgvr.baselines import BaselineError
from fgvr.models.near import ClassFeatures

# FineR's question to a language model: which names match the answers about a photo?

RULES = 1
"""Increase it when the same p(yes) would be described in other words."""
UNSURE = 0.1
"""Answers whose p(yes) is closer to ½ than this are left out: they would be wrong as often as right."""

PROMPT = """Somebody looked at a photo of {subject} and answered questions about it:
{answers}
Which {count} kinds could it be? Name them as exactly as you can (the species, breed or model, not the family), the \
most likely one first, one name a line and nothing else."""


def described(questions: Sequence[str], p_yes: npt.NDArray[np.float32]) -> list[str]:
    """The answered questions as lines, `Is the tail forked? Yes`.

    Args:
        questions: Q texts.
        p_yes: float32 [Q]; NaN if the model said neither.
    """
    return [
        f"{question} {'Yes' if yes > 0.5 else 'No'}"
        for question, yes in zip(questions, p_yes.tolist(), strict=True)
        if abs(yes - 0.5) >= UNSURE  # False for NaN
    ]


def naming_prompt(answers: Sequence[str], subject: str, count: int) -> str:
    """The prompt for a language model about one image (the idea is FineR's, whose questions are open ones)."""
    return PROMPT.format(subject=subject, answers="\n".join(answers), count=count)


# FiNDR's two questions: what do these images show and who is an expert on it; and, to that expert, which kind is this?

READER = 1
"""Increase it when the same reply would mean another subject, or the row of images would look different."""
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
    """What the images show ("bird"), what its kinds are called ("species"), and the expert ("ornithologist")."""

    category: str
    unit: str
    expert: str

    def fill(self, prompt: str) -> str:
        """The prompt with {category}, {unit} and {expert} filled in; other braces stay."""
        for field in _FIELDS:
            prompt = prompt.replace(f"{{{field}}}", getattr(self, field))
        return prompt


def read_subject(reply: str, cut_off: str | None = None) -> Subject:
    """Parse the answer to META_PROMPT, also inside chatter or a code block.

    Args:
        reply: the answer.
        cut_off: the limit that cut it off, in words; None: it is complete.

    Raises:
        BaselineError: it contains no such object; the message says how to avoid the question.
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


# Class prototypes of text and images: the classifier of FineR and FiNDR (OatmealLiu/FineR, `grouping.py`).
#
# Each discovery image votes for the name with the nearest text vector; names without votes are dropped. A class vector
# is then 0.7 · its name's text vector + 0.3 · the mean vector of its voters' views (the plain image and ten augmented
# ones), and an image gets the class with the largest product. As in the public code neither the mean nor the sum is
# normalised again, so that a class whose views agree counts slightly more.


def vote(images: Floats, names: Floats) -> npt.NDArray[np.int64]:
    """The nearest name of each image, int64 [n]; the first among equals.

    Args:
        images: L2-normalised, [n, d].
        names: L2-normalised, [C, d].
    """
    return np.asarray((images @ names.T).argmax(axis=1), dtype=np.int64)


def prototypes(names: ClassFeatures, views: Floats, text_weight: float = 0.7) -> ClassFeatures:
    """The names with votes, with their mixed vectors.

    Args:
        names: all proposed names with their L2-normalised text vectors.
        views: L2-normalised vectors of the discovery images, [n, V, d]; the first view of each is the plain image.
        text_weight: weight of the text; the images get the rest.

    Returns:
        Names with at least one vote, in order; vectors float32 [C', d], not normalised.

    Raises:
        BaselineError: there are no names, or no image to vote.
    """
    if not len(names.labels) or not len(views):
        raise BaselineError(
            f"prototypes need names and discovery images that vote for them: {len(names.labels)} names, "
            f"{len(views)} images with a CLIP vector"
        )
    votes = vote(views[:, 0], names.features)
    winners = np.unique(votes)
    mixed = [
        text_weight * names.features[winner]
        + (1 - text_weight) * views[votes == winner].reshape(-1, views.shape[-1]).mean(axis=0)
        for winner in winners
    ]
    labels = tuple(names.labels[winner] for winner in winners)
    return ClassFeatures(labels, np.stack(mixed).astype(np.float32), names.logit_scale)
