"""First stage of the tiny MLLM: its vision tower learns to see looks, species and habitat."""

import numpy as np
import torch
from torch import nn
from transformers import InternVLForConditionalGeneration

from fgvr.demo.scene import HABITATS
from fgvr.demo.species import SPECIES
from fgvr.demo.training.augment import flip_some
from fgvr.demo.training.drawings import Drawings
from fgvr.demo.training.heads import AttributeHeads
from fgvr.demo.training.mllm_model import VISION_WIDTH, image_features, pixel_values
from fgvr.demo.training.schedule import Progress, adamw, take_step, warm_cosine

BATCH = 256


class VisionHeads(nn.Module):
    """Linear classifiers on the mean image token; thrown away after this stage."""

    def __init__(self) -> None:
        super().__init__()
        width = 4 * VISION_WIDTH
        self.norm = nn.LayerNorm(width)
        self.attributes = AttributeHeads(width)
        self.species = nn.Linear(width, len(SPECIES))
        self.habitat = nn.Linear(width, len(HABITATS))

    def loss(
        self, tokens: torch.Tensor, looks: torch.Tensor, species: torch.Tensor, habitat: torch.Tensor
    ) -> torch.Tensor:
        """Sum of the three kinds of cross-entropy; birds of no species (−1) do not count in theirs."""
        mean = self.norm(tokens).mean(dim=1)
        named = nn.functional.cross_entropy(self.species(mean).float(), species, ignore_index=-1)
        where = nn.functional.cross_entropy(self.habitat(mean).float(), habitat)
        return 4 * self.attributes.loss(mean, looks) + 0.3 * named + 0.2 * where


def train_vision(model: InternVLForConditionalGeneration, drawings: Drawings, *, steps: int, seed: int) -> VisionHeads:
    """Train the vision tower in place; returns the heads, which tell how well it sees."""
    rng = np.random.default_rng([seed, 1])
    tower, heads = model.model.vision_tower, VisionHeads()
    optimiser = adamw((tower, heads), 1.2e-3)
    schedule = warm_cosine(optimiser, steps, 200)
    progress = Progress("mllm vision", steps)
    images = torch.from_numpy(drawings.images)
    targets = [torch.from_numpy(column) for column in (drawings.looks, drawings.species, drawings.habitat)]
    order = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(drawings))
        rows, order = order[:BATCH], order[BATCH:]
        with torch.autocast("cpu", torch.bfloat16):
            tokens = image_features(model, pixel_values(flip_some(images[rows], rng)))
            loss = heads.loss(tokens, *(column[rows] for column in targets))
        take_step(loss, optimiser, schedule)
        progress.update(step, loss.item())
    return heads
