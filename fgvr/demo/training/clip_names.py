"""Second stage of the tiny CLIP: names, few and often wrong.

The image tower is frozen, so it keeps knowing looks; the text tower goes on reading attribute captions and, in between,
some captions that name the species. Their writers err: with a fixed probability they name a sibling of the same genus.
What comes out is what CLIP is on fine-grained data: features that separate the classes and a text tower that confuses
their names.
"""

import numpy as np
import open_clip
import torch
from transformers import PreTrainedTokenizerFast

from fgvr.demo.species import SPECIES, siblings
from fgvr.demo.training.augment import flip_some
from fgvr.demo.training.captions import describe, name_caption
from fgvr.demo.training.clip_looks import multi_positive_loss
from fgvr.demo.training.clip_model import encode_text, preprocess
from fgvr.demo.training.drawings import Drawings
from fgvr.demo.training.schedule import Progress, adamw, take_step, warm_cosine

BATCH, CAPTIONS = 512, 128
NAME_SHARE = 0.12
"""Share of captions that name the species."""
WRONG_SHARE = 0.4
"""Share of drawings whose caption names a sibling."""


def caption_names(species: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The class id that each drawing's caption would name: int [N], −1 for birds of no species."""
    named = species.copy()
    for row in np.flatnonzero(species >= 0):
        if rng.random() < WRONG_SHARE:
            others = siblings(SPECIES[species[row]])
            named[row] = others[int(rng.integers(len(others)))].class_id
    return named


def train_names(
    model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, drawings: Drawings, *, steps: int, seed: int
) -> None:
    """Train the text tower in place; the image tower and the temperature stay as they are."""
    rng = np.random.default_rng([seed, 2])
    features = cache_features(model, drawings.images, rng)
    named = caption_names(drawings.species, rng)
    model.visual.requires_grad_(False)
    model.logit_scale.requires_grad_(False)
    optimiser = adamw((model,), 5e-4)
    schedule = warm_cosine(optimiser, steps, steps // 10)
    progress = Progress("clip names", steps)
    order = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(drawings))
        rows, order = order[:BATCH], order[BATCH:]
        texts, positive = captions(rows, drawings.looks, named, rng)
        tokens = tokenizer(texts, return_tensors="pt", padding=True).input_ids
        with torch.autocast("cpu", torch.bfloat16):
            text = encode_text(model, tokens).float()
        text = torch.nn.functional.normalize(text, dim=1)
        loss = multi_positive_loss(model.logit_scale.exp() * features[rows] @ text.T, torch.from_numpy(positive))
        take_step(loss, optimiser, schedule)
        progress.update(step, loss.item())
    model.requires_grad_(True)


def captions(
    rows: np.ndarray, looks: np.ndarray, named: np.ndarray, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """Captions of the first rows, and for which rows each is true: bool [len(rows), len(captions)]."""
    texts, columns = [], []
    for row in rows[:CAPTIONS]:
        if named[row] >= 0 and rng.random() < NAME_SHARE / (named[rows] >= 0).mean():
            texts.append(name_caption(SPECIES[named[row]].name, looks[row], rng))
            columns.append(named[rows] == named[row])
        else:
            caption = describe(looks[row], rng)
            texts.append(caption.text)
            columns.append(caption.holds(looks[rows]))
    return texts, np.stack(columns, axis=1)


@torch.no_grad()
def cache_features(model: open_clip.CLIP, images: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Unit-length features of augmented drawings: float [N, D]."""
    chunks = []
    for start in range(0, len(images), 256):
        pixels = preprocess(flip_some(torch.from_numpy(images[start : start + 256]), rng))
        chunks.append(model.encode_image(pixels, normalize=True))
    return torch.cat(chunks)
