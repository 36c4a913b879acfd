"""Multiple-choice questions about classes, answered by a language model without images (LaViD)."""

from __future__ import annotations

from pydantic import Field

from fgvr.config.base import Part, Workers
from fgvr.config.models import Mllm
from fgvr.config.texts import ChoicePrompt
from fgvr.config.tree import Tuned

CHOICE_PROMPT = (
    "{question}\n{options}\nThe question is about this kind: {name}. Reply with the letter of the option that is right"
    " for it, and nothing else."
)
"""The name comes last, so that all classes share the prefix of a question."""


class Signatures(Part):
    """signatures: how a language model that sees no image answers multiple-choice questions about each class of the
    student (LaViD), for `makd.signature_weight`.
    """

    file: Tuned[str | None] = None
    """Text file with one question per line, its options behind it: `What shape is its beak? | hooked | conical`, 2 to
    26 options; lines that start with # are comments."""
    llm: Mllm | None = None
    """Language model that answers them; null: `mllm`, which then gets text alone."""
    prompt: ChoicePrompt = CHOICE_PROMPT
    """What is asked; {question}, {options} (a lettered line each) and {name} are filled in."""
    rotations: int = Field(default=4, ge=1, le=26)
    """Orders in which the options of a question are shown, evenly rotated, over which answers are averaged, since
    models prefer some places: each is one request per class and question. 1: only the file's order."""
    min_label_mass: float = Field(default=1e-4, ge=0, le=1)
    """Smallest mean probability of all letters over a class's questions; below it the class is a failed row, because
    the model wanted to say something else."""
    workers: Workers = Workers(rows_per_part=64)
