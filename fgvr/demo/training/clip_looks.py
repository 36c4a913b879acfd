"""First stage of the tiny CLIP: looks. Contrastive on attribute captions, no species name is ever seen."""

import numpy as np
import open_clip
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fgvr.demo.training.augment import flip_some
from fgvr.demo.training.captions import describe
from fgvr.demo.training.clip_model import EMBEDDING, encode_text, preprocess
from fgvr.demo.training.drawings import Drawings
from fgvr.demo.training.heads import AttributeHeads
from fgvr.demo.training.schedule import Progress, adamw, take_step, warm_cosine

BATCH, CAPTIONS = 256, 128


def multi_positive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Symmetric contrastive cross-entropy where a row or column may have several positives (spread evenly).

    Args:
        logits: float [N, M].
        positive: bool [N, M]; rows and columns without a positive are left out.
    """
    losses = []
    for scores, hits in ((logits, positive), (logits.T, positive.T)):
        used = hits.any(dim=1)
        target = hits[used].float()
        target = target / target.sum(dim=1, keepdim=True)
        losses.append(-(target * scores[used].log_softmax(dim=1)).sum(dim=1).mean())
    return torch.stack(losses).mean()


def same_looks_loss(features: Tensor, looks: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss between images; positives are other birds with exactly the same looks.

    Khosla et al. 2020, equation 2 (mean outside the logarithm). Features [N, D] have unit length.
    """
    same = (looks[:, None] == looks[None]).all(dim=2)
    itself = torch.eye(len(same), dtype=torch.bool)
    logits = (features @ features.T / temperature).masked_fill(itself, -1e9)
    positive = same & ~itself
    used = positive.any(dim=1)
    target = positive[used].float()
    target = target / target.sum(dim=1, keepdim=True)
    return -(target * logits[used].log_softmax(dim=1)).sum(dim=1).mean()


def train_looks(
    model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, drawings: Drawings, *, steps: int, seed: int
) -> None:
    """Train both towers in place on (drawing, attribute caption) pairs."""
    rng = np.random.default_rng([seed, 1])
    heads = AttributeHeads(EMBEDDING)
    optimiser = adamw((model, heads), 1.5e-3)
    schedule = warm_cosine(optimiser, steps, 200)
    progress = Progress("clip looks", steps)
    images, looks = torch.from_numpy(drawings.images), torch.from_numpy(drawings.looks)
    model.train()
    order = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(drawings))
        rows, order = order[:BATCH], order[BATCH:]
        captions = [describe(drawings.looks[row], rng) for row in rows[:CAPTIONS]]
        positive = np.stack([caption.holds(drawings.looks[rows]) for caption in captions], axis=1)
        tokens = tokenizer([caption.text for caption in captions], return_tensors="pt", padding=True).input_ids
        pixels = preprocess(flip_some(images[rows], rng)).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            image, text = model.visual(pixels).float(), encode_text(model, tokens).float()
        image, text = torch.nn.functional.normalize(image, dim=1), torch.nn.functional.normalize(text, dim=1)
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        loss = (
            multi_positive_loss(logits, torch.from_numpy(positive))
            + 2 * heads.loss(image * EMBEDDING**0.5, looks[rows])
            + 0.5 * same_looks_loss(image, looks[rows])
        )
        take_step(loss, optimiser, schedule)
        progress.update(step, loss.item())
    model.eval()
