"""Trains the Grocery Store benchmark's tiny MLLMs and CLIP on the `train` and `val` photos: 10 to 15 CPU-minutes each.

    python benchmarks/grocery_models.py --model mllm --out ~/.cache/fgvr/grocery &
    python benchmarks/grocery_models.py --model clip --out ~/.cache/fgvr/grocery
    python benchmarks/grocery_models.py --model vqa --out ~/.cache/fgvr/grocery  # after mllm, whose eyes it takes
    python benchmarks/grocery_models.py --model mllm --measure --out /tmp/tried  # learn on train, measure on val

Writes `mllm/` and `vqa/` (InternVL checkpoints that vLLM loads; the second one answers questions, too) and `clip/` (an
open_clip folder) below `--out`. With `--measure` the models learn from `train` alone and are measured on `val`; no
photo of `test` is opened here. The data set is found at $FGVR_DATA/grocery-store, or cloned from
github.com/marcusklasson/GroceryStoreDataset and named with `--data`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from grocery_photos import Photos, data_folder, load_photos

from fgvr.config.near import LABEL_PROMPT
from fgvr.demo.drawn_files import may_take_model

DEFAULT_OUT = Path("~/.cache/fgvr/grocery")
VISION_STEPS, LANGUAGE_STEPS = 2200, 600
VQA_STEPS = 900
LOOKS_STEPS, NAMES_STEPS = 1600, 150


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", choices=("mllm", "clip", "vqa"), required=True, help="which to train")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of all (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data set (default: %(default)s)")
    parser.add_argument("--measure", action="store_true", help="learn from train alone, measure on val")
    parser.add_argument("--seed", type=int, default=3000, help="of weights and augmentation (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    args = parser.parse_args(arguments)
    folder = args.out.expanduser() / args.model
    if not may_take_model(str(folder)):
        parser.error(f"--out: {folder} is neither empty nor a model's folder; name another one")
    torch.set_num_threads(args.threads)
    photos = load_photos(args.data, ("train",) if args.measure else ("train", "val"))
    held_out = load_photos(args.data, ("val",)) if args.measure else None
    train(args.model, photos, held_out, folder, scale=args.scale, seed=args.seed)


def train(model: str, photos: Photos, held_out: Photos | None, folder: Path, *, scale: float, seed: int) -> None:
    """Train one of the models; `scale` shortens or lengthens all stages."""

    def steps(count: int) -> int:
        return max(1, round(count * scale))

    if model == "mllm":
        from grocery_mllm import train_mllm

        train_mllm(
            photos, held_out, folder, vision_steps=steps(VISION_STEPS), language_steps=steps(LANGUAGE_STEPS), seed=seed
        )
        if held_out is not None:
            print(f"mllm: right names of {len(held_out)} held-out photos: {named_right(folder, held_out):.3f}")
        return
    if model == "vqa":
        _train_vqa(photos, held_out, folder, steps=steps(VQA_STEPS), seed=seed)
        return
    from grocery_clip import train_clip

    train_clip(photos, held_out, folder, looks_steps=steps(LOOKS_STEPS), names_steps=steps(NAMES_STEPS), seed=seed)


def _train_vqa(photos: Photos, held_out: Photos | None, folder: Path, *, steps: int, seed: int) -> None:
    from grocery_questions import read_table
    from grocery_vqa import answered_right, train_vqa

    naming, questions = folder.with_name("mllm"), read_table()
    if not naming.exists():
        raise SystemExit(f"vqa takes its vision tower from {naming}, which is not there: train --model mllm first")
    train_vqa(photos, questions, naming, folder, steps=steps, seed=seed)
    if held_out is not None:
        print(f"vqa: right names of {len(held_out)} held-out photos: {named_right(folder, held_out):.3f}")
        print(f"vqa: right answers: {answered_right(folder, held_out, questions):.3f}")


def named_right(folder: Path, photos: Photos, prompt: str = LABEL_PROMPT) -> float:
    """Share of photos that the checkpoint names rightly when asked, greedily."""
    from fgvr.demo.training.reference import ReferenceMllm

    answers = ReferenceMllm(folder).label(photos.images, prompt)
    return float(np.mean([answer == photos.names[i] for answer, i in zip(answers, photos.classes, strict=True)]))


if __name__ == "__main__":
    main()
