"""Trains the demo's tiny CLIP from scratch: about 20 minutes on one core.

python -m fgvr.demo.training.clip --output fgvr/demo/models/clip
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from fgvr.demo.drawn_files import may_take_model
from fgvr.demo.species import SPECIES
from fgvr.demo.training.captions import describe, name_caption
from fgvr.demo.training.clip_looks import train_looks
from fgvr.demo.training.clip_model import CONTEXT_LENGTH, VOCABULARY, new_clip, save_clip
from fgvr.demo.training.clip_names import train_names
from fgvr.demo.training.drawings import Drawings, draw_many
from fgvr.demo.training.tokenizers import clip_tokenizer

DIFFICULTY = (0.5, 1.5)
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
    train_looks(model, tokenizer, looks, steps=max(1, round(LOOKS_STEPS * scale)), seed=seed)
    names = draw_many(
        seed, "clip-names", round(NAMES_DRAWINGS * min(1.0, scale)), difficulty=DIFFICULTY, random_share=0.5
    )
    train_names(model, tokenizer, names, steps=max(1, round(NAMES_STEPS * scale)), seed=seed)
    save_clip(model, tokenizer, output)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the open_clip files")
    parser.add_argument("--seed", type=int, default=1000, help="seed of drawings and weights (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    args = parser.parse_args(arguments)
    if not may_take_model(str(args.output)):
        parser.error(f"{args.output}: neither empty nor a model's folder; name another one")
    torch.set_num_threads(args.threads)
    train_clip(args.output, seed=args.seed, scale=args.scale)


if __name__ == "__main__":
    main()
