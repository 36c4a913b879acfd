"""The Grocery Store benchmark's tiny CLIP: it sees more than it can name, like real ones on fine-grained data.

Two stages. Looks: both towers learn from captions with the coarse class and the department ("a photo of a Pepper, a
vegetable"), and the image tower learns to separate the fine classes with a head that is discarded. Names: the image
tower is frozen, and the text tower learns from captions of which some name the fine class, and some of these a wrong
one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from benchmarks.demo_models.clip import (
    CONTEXT_LENGTH,
    EMBEDDING,
    VOCABULARY,
    encode_text,
    multi_positive_loss,
    new_clip,
    save_clip,
)
from benchmarks.demo_models.schedule import Learner, batches
from benchmarks.demo_models.tokenizers import clip_tokenizer
from benchmarks.grocery.captions import NAME_SHARE, coarse_caption, name_caption, written_names
from benchmarks.grocery.mllm import mixed
from benchmarks.grocery.photos import Photos, augment, normalised, plain
from fgvr.demo.paths import CLIP_PATH

LOOKS_BATCH, LOOKS_CAPTIONS = 128, 32
NAMES_BATCH, NAMES_CAPTIONS = 512, 128
LOOKS_RATE, NAMES_RATE = 1.5e-3, 5e-4
CAPTION_WEIGHT = 0.3
"""Weight of the captions' loss beside that of the fine classes."""
VIEWS = 4
"""Augmented views per photo whose features the stage "names" uses."""


def train_clip(
    photos: Photos, held_out: Photos | None, folder: Path, *, looks_steps: int, names_steps: int, seed: int
) -> None:
    """Train both stages and write the open_clip folder; prints what it sees and names on held-out photos."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 0])
    fine = [one for one in range(len(photos.names)) for _ in range(20)]
    texts = [caption(photos, one, rng).text for caption in (name_caption, coarse_caption) for one in fine]
    tokenizer = clip_tokenizer(texts, vocabulary=VOCABULARY, context_length=CONTEXT_LENGTH)
    model = new_clip()
    # The tower of the drawn field guide already knows colours and shapes: a better start than random weights.
    drawn, _, _ = open_clip.create_model_and_transforms(f"local-dir:{CLIP_PATH}")
    model.visual.load_state_dict(drawn.visual.state_dict())
    train_looks(model, tokenizer, photos, steps=looks_steps, seed=seed)
    train_names(model, tokenizer, photos, steps=names_steps, seed=seed)
    save_clip(model.eval(), tokenizer, folder)
    if held_out is not None:
        report(model, tokenizer, photos, held_out)


def train_looks(
    model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, photos: Photos, *, steps: int, seed: int
) -> None:
    """Train both towers in place on coarse captions, and the image tower on fine classes, half of the photos mixed."""
    rng = np.random.default_rng([seed, 1])
    count, half = len(photos.names), LOOKS_BATCH // 2
    head = nn.Linear(EMBEDDING, count)
    learner = Learner("grocery clip looks", (model, head), LOOKS_RATE, steps=steps, warm_up=steps // 10)
    images, classes = torch.from_numpy(photos.images), torch.from_numpy(photos.classes)
    model.train()
    for rows in batches(len(photos), LOOKS_BATCH, steps, rng):
        pixels, targets = augment(images[rows], rng), nn.functional.one_hot(classes[rows], count).float()
        pixels[half:], targets[half:] = mixed(pixels[half:], targets[half:], rng)
        fine = photos.classes[rows[:half]]  # photos that are as they are
        captions = [coarse_caption(photos, int(one), rng) for one in fine[:LOOKS_CAPTIONS]]
        positive = torch.from_numpy(np.stack([caption.holds[fine] for caption in captions], axis=1))
        with torch.autocast("cpu", torch.bfloat16):
            image = model.visual(normalised(pixels).to(memory_format=torch.channels_last)).float()
        image, text = nn.functional.normalize(image, dim=1), texts_of(model, tokenizer, [c.text for c in captions])
        logits = model.logit_scale.exp().clamp(max=100) * image[:half] @ text.T
        seen = nn.functional.cross_entropy(head(image * EMBEDDING**0.5), 0.9 * targets + 0.1 / count)
        loss = seen + CAPTION_WEIGHT * multi_positive_loss(logits, positive)
        learner.step(loss)
    model.eval()


def train_names(
    model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, photos: Photos, *, steps: int, seed: int
) -> None:
    """Train the text tower in place; the image tower and the temperature stay as they are."""
    rng = np.random.default_rng([seed, 2])
    images = torch.from_numpy(photos.images)
    views = [
        torch.cat([image_features(model, augment(part, rng)) for part in torch.split(images, 256)])
        for _ in range(VIEWS)
    ]
    written = written_names(photos, rng)
    model.visual.requires_grad_(False)
    model.logit_scale.requires_grad_(False)
    learner = Learner("grocery clip names", (model,), NAMES_RATE, steps=steps, warm_up=steps // 10)
    for step in range(steps):
        rows = rng.choice(len(photos), min(NAMES_BATCH, len(photos)), replace=False)
        texts, columns = [], []
        for row in rows[:NAMES_CAPTIONS]:
            about = written if rng.random() < NAME_SHARE else photos.classes
            caption = (name_caption if about is written else coarse_caption)(photos, int(about[row]), rng)
            texts.append(caption.text)
            columns.append(caption.holds[about[rows]])
        logits = model.logit_scale.exp() * views[step % VIEWS][rows] @ texts_of(model, tokenizer, texts).T
        loss = multi_positive_loss(logits, torch.from_numpy(np.stack(columns, axis=1)))
        learner.step(loss)
    model.requires_grad_(True)


def texts_of(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Unit-length features of texts: float [N, D]."""
    tokens = tokenizer(texts, return_tensors="pt", padding=True).input_ids
    with torch.autocast("cpu", torch.bfloat16):
        features = encode_text(model, tokens)
    return nn.functional.normalize(features.float(), dim=1)


@torch.no_grad()
def image_features(model: open_clip.CLIP, pixels: Tensor) -> Tensor:
    """Unit-length features of 0–1 pixels [N, 3, 64, 64]: float [N, D]."""
    features: Tensor = model.encode_image(normalised(pixels), normalize=True)
    return features


@torch.no_grad()
def report(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, photos: Photos, held_out: Photos) -> None:
    """Print zero-shot accuracy with the true names, a linear probe's, and how pure neighbourhoods are."""
    seen, new = (
        torch.cat([image_features(model, plain(part)) for part in torch.split(torch.from_numpy(some.images), 256)])
        for some in (photos, held_out)
    )
    names = texts_of(model, tokenizer, [f"a photo of a {name}." for name in photos.names])
    zero_shot = ((new @ names.T).argmax(dim=1).numpy() == held_out.classes).mean()
    probe = (
        LogisticRegression(C=10, max_iter=300).fit(seen.numpy(), photos.classes).score(new.numpy(), held_out.classes)
    )
    nearest = (new @ new.T).fill_diagonal_(-1).topk(2).indices.numpy()
    pure = (held_out.classes[nearest] == held_out.classes[:, None]).mean()
    print(f"clip, {len(held_out)} held-out photos: zero-shot {zero_shot:.3f}, probe {probe:.3f}, neighbours {pure:.3f}")
