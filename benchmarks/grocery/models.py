"""Trains the Grocery Store benchmark's tiny MLLMs and CLIP on the `train` and `val` photos: 10–15 CPU minutes per
model.

    python -m benchmarks.grocery.models --model mllm --out ~/.cache/fgvr/grocery &
    python -m benchmarks.grocery.models --model clip --out ~/.cache/fgvr/grocery
    python -m benchmarks.grocery.models --model vqa --out ~/.cache/fgvr/grocery  # after mllm: it takes its tower
    python -m benchmarks.grocery.models --model mllm --measure --out /tmp/tried  # learn on train, measure on val

Writes `mllm/` and `vqa/` (InternVL checkpoints that vLLM loads; the second one also answers questions) and `clip/` (an
open_clip folder) below `--out`. With `--measure` the models learn only from `train` and are measured on `val`; no photo
of `test` is opened here. The data set must be at $FGVR_DATA/grocery-store, or cloned from
github.com/marcusklasson/GroceryStoreDataset and passed with `--data`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.demo_models.schedule import refuse_foreign, scaled, training_parser
from benchmarks.grocery.photos import Photos, data_folder, load_photos
from fgvr.config.near import LABEL_PROMPT

DEFAULT_OUT = Path("~/.cache/fgvr/grocery")
VISION_STEPS, LANGUAGE_STEPS = 2200, 600
VQA_STEPS = 900
LOOKS_STEPS, NAMES_STEPS = 1600, 150


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = training_parser(__doc__, seed=3000)
    parser.add_argument("--model", choices=("mllm", "clip", "vqa"), required=True, help="which to train")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of all (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data set (default: %(default)s)")
    parser.add_argument("--measure", action="store_true", help="learn from train alone, measure on val")
    args = parser.parse_args(arguments)
    folder = args.out.expanduser() / args.model
    refuse_foreign(parser, folder)
    torch.set_num_threads(args.threads)
    photos = load_photos(args.data, ("train",) if args.measure else ("train", "val"))
    held_out = load_photos(args.data, ("val",)) if args.measure else None
    train(args.model, photos, held_out, folder, scale=args.scale, seed=args.seed)


def train(model: str, photos: Photos, held_out: Photos | None, folder: Path, *, scale: float, seed: int) -> None:
    """Train one of the models; `scale` shortens or lengthens all stages."""
    if model == "mllm":
        from benchmarks.grocery.mllm import train_mllm

        train_mllm(
            photos,
            held_out,
            folder,
            vision_steps=scaled(VISION_STEPS, scale),
            language_steps=scaled(LANGUAGE_STEPS, scale),
            seed=seed,
        )
        if held_out is not None:
            print(f"mllm: right names of {len(held_out)} held-out photos: {named_right(folder, held_out):.3f}")
        return
    if model == "vqa":
        _train_vqa(photos, held_out, folder, steps=scaled(VQA_STEPS, scale), seed=seed)
        return
    from benchmarks.grocery.clip import train_clip

    train_clip(
        photos,
        held_out,
        folder,
        looks_steps=scaled(LOOKS_STEPS, scale),
        names_steps=scaled(NAMES_STEPS, scale),
        seed=seed,
    )


def _train_vqa(photos: Photos, held_out: Photos | None, folder: Path, *, steps: int, seed: int) -> None:
    from benchmarks.grocery.questions import read_table
    from benchmarks.grocery.vqa import answered_right, train_vqa

    naming, questions = folder.with_name("mllm"), read_table()
    if not naming.exists():
        raise SystemExit(f"vqa takes its vision tower from {naming}, which is not there: train --model mllm first")
    train_vqa(photos, questions, naming, folder, steps=steps, seed=seed)
    if held_out is not None:
        print(f"vqa: right names of {len(held_out)} held-out photos: {named_right(folder, held_out):.3f}")
        print(f"vqa: right answers: {answered_right(folder, held_out, questions):.3f}")


def named_right(folder: Path, photos: Photos, prompt: str = LABEL_PROMPT) -> float:
    """Share of photos that the checkpoint names correctly with greedy decoding."""
    from benchmarks.demo_models.reference import ReferenceMllm

    answers = ReferenceMllm(folder).label(photos.images, prompt)
    return float(np.mean([answer == photos.names[i] for answer, i in zip(answers, photos.classes, strict=True)]))


if __name__ == "__main__":
    main()
