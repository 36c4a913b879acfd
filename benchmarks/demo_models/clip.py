"""Trains the demo's tiny CLIP from scratch: about 20 minutes on one core.

    python -m benchmarks.demo_models.clip --output fgvr/demo/models/clip

Two stages. Looks: both towers learn from attribute captions, without any species name. Names, few and often wrong: the
image tower is frozen, so it keeps its knowledge of looks; the text tower continues with attribute captions and some
captions that name the species. Their writers make mistakes: with a fixed probability they name a sibling of the same
genus. The result resembles CLIP on fine-grained data: features that separate the classes, and a text tower that
confuses their names.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from benchmarks.demo_models.drawings import DIFFICULTY, AttributeHeads, Drawings, draw_many, flip_some
from benchmarks.demo_models.schedule import Learner, batches, half_precision, refuse_foreign, scaled, training_parser
from benchmarks.demo_models.tokenizers import clip_tokenizer
from fgvr.demo.captions import describe, name_caption
from fgvr.demo.species import SPECIES, siblings

CONTEXT_LENGTH: Final = 48
"""Tokens per caption: enough for 16 learned context tokens, a name, BOS and EOS."""
VOCABULARY: Final = 512
EMBEDDING: Final = 128

MODEL_CONFIG: Final[dict[str, Any]] = {
    "embed_dim": EMBEDDING,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 16, "head_width": 64},
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": VOCABULARY,
        "hf_tokenizer_name": "tokenizer beside the weights",
        "width": 128,
        "heads": 4,
        "layers": 4,
        "pool_type": "eos",
        "pad_id": 0,
        "eos_id": 2,
    },
}
PREPROCESS: Final[dict[str, Any]] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def new_clip() -> open_clip.CLIP:
    """A CLIP with random weights (``torch.manual_seed`` decides them)."""
    text = dict(MODEL_CONFIG["text_cfg"])  # open_clip removes entries
    return open_clip.CLIP(MODEL_CONFIG["embed_dim"], MODEL_CONFIG["vision_cfg"], text)


def preprocess(images: Tensor) -> Tensor:
    """The evaluation transform of open_clip for 64 px images: uint8 [N, 64, 64, 3] to float [N, 3, 64, 64]."""
    mean, std = (torch.tensor(PREPROCESS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """``model.encode_text`` on sequences cut after the last EOS: exact, since attention is causal. Float [N, D]."""
    ends = (tokens == MODEL_CONFIG["text_cfg"]["eos_id"]).int().argmax(dim=1)
    length = int(ends.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    pooled: Tensor = x[torch.arange(len(x)), ends] @ model.text_projection
    return pooled


def save_clip(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an open_clip ``local-dir:`` folder; weights are stored as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(half_precision(model), folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


LOOKS_BATCH, LOOKS_CAPTIONS = 256, 128


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
    learner = Learner("clip looks", (model, heads), 1.5e-3, steps=steps, warm_up=200)
    images, looks = torch.from_numpy(drawings.images), torch.from_numpy(drawings.looks)
    model.train()
    for rows in batches(len(drawings), LOOKS_BATCH, steps, rng):
        captions = [describe(drawings.looks[row], rng) for row in rows[:LOOKS_CAPTIONS]]
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
        learner.step(loss)
    model.eval()


NAMES_BATCH, NAMES_CAPTIONS = 512, 128
NAME_SHARE = 0.12
"""Share of captions that name the species."""
WRONG_SHARE = 0.4
"""Share of drawings whose caption names a sibling."""


def caption_names(species: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The class id that the caption of each drawing would name: int [N], −1 for birds without a species."""
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
    learner = Learner("clip names", (model,), 5e-4, steps=steps, warm_up=steps // 10)
    for rows in batches(len(drawings), NAMES_BATCH, steps, rng):
        texts, positive = captions(rows, drawings.looks, named, rng)
        tokens = tokenizer(texts, return_tensors="pt", padding=True).input_ids
        with torch.autocast("cpu", torch.bfloat16):
            text = encode_text(model, tokens).float()
        text = torch.nn.functional.normalize(text, dim=1)
        loss = multi_positive_loss(model.logit_scale.exp() * features[rows] @ text.T, torch.from_numpy(positive))
        learner.step(loss)
    model.requires_grad_(True)


def captions(
    rows: np.ndarray, looks: np.ndarray, named: np.ndarray, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """Captions, and for which rows each is true: bool [len(rows), len(captions)]."""
    texts, columns = [], []
    for row in rows[:NAMES_CAPTIONS]:
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


LOOKS_STEPS, LOOKS_DRAWINGS = 2000, 60_000
NAMES_STEPS, NAMES_DRAWINGS = 75, 20_000


def training_tokenizer(drawings: Drawings, seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer that has seen captions of the drawings and every name."""
    rng = np.random.default_rng([seed, 0])
    texts = [describe(drawings.looks[row], rng).text for row in range(min(4000, len(drawings)))]
    for species in SPECIES:
        texts += [name_caption(species.name, drawings.looks[species.class_id], rng) for _ in range(20)]
    return clip_tokenizer(texts, vocabulary=VOCABULARY, context_length=CONTEXT_LENGTH)


def train_clip(output: Path, *, seed: int, scale: float) -> None:
    """Train both stages and write the open_clip folder; ``scale`` shortens or lengthens everything."""
    torch.manual_seed(seed)
    looks = draw_many(seed, "clip", round(LOOKS_DRAWINGS * min(1.0, scale)), difficulty=DIFFICULTY, random_share=0.5)
    tokenizer = training_tokenizer(looks, seed)
    model = new_clip()
    train_looks(model, tokenizer, looks, steps=scaled(LOOKS_STEPS, scale), seed=seed)
    names = draw_many(
        seed, "clip-names", round(NAMES_DRAWINGS * min(1.0, scale)), difficulty=DIFFICULTY, random_share=0.5
    )
    train_names(model, tokenizer, names, steps=scaled(NAMES_STEPS, scale), seed=seed)
    save_clip(model, tokenizer, output)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = training_parser(__doc__, seed=1000)
    parser.add_argument("--output", type=Path, required=True, help="folder for the open_clip files")
    args = parser.parse_args(arguments)
    refuse_foreign(parser, args.output)
    torch.set_num_threads(args.threads)
    train_clip(args.output, seed=args.seed, scale=args.scale)


if __name__ == "__main__":
    main()
