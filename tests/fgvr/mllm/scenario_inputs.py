"""What the process with the engine and the process that judges it must agree on; imports no engine."""

from pathlib import Path

import numpy as np
from PIL import Image

from fgvr.config.models import VllmBackend
from fgvr.mllm.choices import ChoiceQuestion, ChoiceTask

QUESTIONS = (
    "Is the body of the bird blue?",
    "Does the bird have a long beak?",
    "Are the legs black?",
    "Is there a crest on its head?",
    "Is the tail forked?",
)

CHOICES = ChoiceTask(
    (
        ChoiceQuestion("What shape is its beak?", ("hooked", "conical", "long")),
        ChoiceQuestion("How large is it?", ("small", "large")),
    ),
    "{question}\n{options}\n{name}: which letter?",
    2,
)

NAMES = ("Azure Finch", "Azure Wren", "Crimson Wren", "Wren", "Crested Azure Finch")


ODD_QUESTIONS = (
    "Is the body of the bird blue, " + "and is it not red, " * 34 + "and is the tail forked?",  # 425 tokens
    "the bird has a long beak",  # no question mark
    "Ist der Körper des Vogels blau?",
    "鳥の体は青いですか？",
)


def drawn(seed: int) -> Image.Image:
    """Coloured patches that no two seeds share; sizes and shapes differ."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((60 + 7 * (seed % 9), 50 + 5 * (seed % 7)), Image.Resampling.BICUBIC)


def small(folder: Path) -> VllmBackend:
    """Engine settings of the tests: fp32, so that rounding stays far below mistakes."""
    return VllmBackend(model=str(folder), dtype="float32", max_model_len=512, cpu_kv_cache_gb=0.125)


def shaped() -> list[Image.Image]:
    """Images of five shapes: a model of tiles cuts each into another grid."""
    sizes = [(60, 50), (200, 60), (70, 190), (128, 128), (97, 64)]
    return [drawn(30 + seed).resize(size, Image.Resampling.BICUBIC) for seed, size in enumerate(sizes)]
