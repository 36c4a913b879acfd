"""The Grocery Store benchmark's tiny MLLM: InternVL's architecture, trained on the data set's own photos.

Two stages, as for the drawn field guide: the vision tower learns to separate the classes; then it is frozen, and
projector and language model learn to answer the label prompt with the name. `vqa.py` makes a second model with the same
vision tower, which also answers yes/no questions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from benchmarks.demo_models.mllm_language import (
    Segments,
    branch_loss,
    label_branches,
    read_trunk,
    segments,
    training_tokenizer,
)
from benchmarks.demo_models.mllm_model import VISION_WIDTH, image_features, new_mllm, new_processor, save_mllm
from benchmarks.demo_models.schedule import Learner, batches
from benchmarks.grocery.photos import Photos, augment, normalised, plain
from fgvr.demo.paths import MLLM_PATH

VISION_BATCH, LANGUAGE_BATCH = 128, 64
VISION_RATE, LANGUAGE_RATE = 1e-3, 2e-3
MIXUP = 0.3
"""Parameter of the Beta distribution that mixes pairs of photos; 2,936 photos are few."""
VIEWS = 4
"""Augmented views per photo whose features the language model uses."""


class ClassHead(nn.Module):
    """A linear classifier on the mean image token; thrown away after the vision stage."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * VISION_WIDTH)
        self.linear = nn.Linear(4 * VISION_WIDTH, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [N, classes] from image tokens [N, 16, 512]."""
        logits: Tensor = self.linear(self.norm(tokens.mean(dim=1))).float()
        return logits


def train_mllm(
    photos: Photos, held_out: Photos | None, folder: Path, *, vision_steps: int, language_steps: int, seed: int
) -> None:
    """Train both stages and write a checkpoint that vLLM and transformers load; prints accuracy on held-out photos."""
    torch.manual_seed(seed)
    tokenizer = training_tokenizer(photos.names, ())
    model = new_mllm(tokenizer)
    # The tower of the drawn field guide already knows colours and shapes: a better start than random weights.
    drawn = InternVLForConditionalGeneration.from_pretrained(MLLM_PATH, dtype=torch.float32)
    model.model.vision_tower.load_state_dict(drawn.model.vision_tower.state_dict())
    head = train_vision(model, photos, steps=vision_steps, seed=seed)
    if held_out is not None:
        print(f"mllm: class head on {len(held_out)} held-out photos: {head_accuracy(model, head, held_out):.3f}")
    train_language(model, segments(tokenizer, photos.names, ()), photos, steps=language_steps, seed=seed)
    save_mllm(model.eval(), new_processor(tokenizer), folder)


def train_vision(model: InternVLForConditionalGeneration, photos: Photos, *, steps: int, seed: int) -> ClassHead:
    """Train the vision tower in place, by classification with mixed photos; returns the head."""
    rng = np.random.default_rng([seed, 1])
    count = len(photos.names)
    tower, head = model.model.vision_tower, ClassHead(count)
    learner = Learner("grocery mllm vision", (tower, head), VISION_RATE, steps=steps, warm_up=steps // 10)
    images, classes = torch.from_numpy(photos.images), torch.from_numpy(photos.classes)
    for rows in batches(len(photos), VISION_BATCH, steps, rng):
        pixels, targets = mixed(augment(images[rows], rng), nn.functional.one_hot(classes[rows], count).float(), rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(image_features(model, normalised(pixels)))
        loss = nn.functional.cross_entropy(logits, 0.9 * targets + 0.1 / count)
        learner.step(loss)
    return head


def mixed(pixels: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): each photo and its target blended with another's."""
    share = float(rng.beta(MIXUP, MIXUP))
    other = torch.from_numpy(rng.permutation(len(pixels)))
    return share * pixels + (1 - share) * pixels[other], share * targets + (1 - share) * targets[other]


@torch.no_grad()
def head_accuracy(model: InternVLForConditionalGeneration, head: ClassHead, photos: Photos) -> float:
    """Share of photos that the vision tower's head classifies correctly."""
    logits = [head(features(model, plain(part)).float()) for part in torch.split(torch.from_numpy(photos.images), 128)]
    return float((torch.cat(logits).argmax(dim=1).numpy() == photos.classes).mean())


def features(model: InternVLForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Image tokens before the projector: bfloat16 [N, 16, 512] from 0–1 pixels."""
    with torch.autocast("cpu", torch.bfloat16):
        return image_features(model, normalised(pixels)).bfloat16()


@torch.no_grad()
def views_of(model: InternVLForConditionalGeneration, photos: Photos, rng: np.random.Generator) -> list[Tensor]:
    """Augmented views of all photos as the frozen tower sees them: bfloat16 [N, 16, 512] each."""
    parts = torch.split(torch.from_numpy(photos.images), 128)
    return [torch.cat([features(model, augment(part, rng)) for part in parts]) for _ in range(VIEWS)]


def train_language(
    model: InternVLForConditionalGeneration, parts: Segments, photos: Photos, *, steps: int, seed: int
) -> None:
    """Train projector and language model in place: the label prompt, then the class's name."""
    rng = np.random.default_rng([seed, 2])
    views = views_of(model, photos, rng)
    projector, language = model.model.multi_modal_projector, model.model.language_model
    learner = Learner(
        "grocery mllm language", (projector, language), LANGUAGE_RATE, steps=steps, warm_up=steps // 8, decay=0.02
    )
    for step in range(steps):
        rows = rng.choice(len(photos), min(LANGUAGE_BATCH, len(photos)), replace=False)
        view = views[step % VIEWS][rows]
        names = label_branches(parts, photos.classes[rows])
        assert names is not None  # every photo has a class  # noqa: S101
        with torch.autocast("cpu", torch.bfloat16):
            loss = branch_loss(model, read_trunk(model, parts.head, view), names)
        learner.step(loss)
