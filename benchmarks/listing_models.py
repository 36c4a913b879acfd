"""Teaches the tiny MLLMs to answer with three names: for the field guide and for Grocery, two CPU-minutes each.

    python benchmarks/listing_models.py --config demo
    python benchmarks/listing_models.py --config grocery  # after grocery_models.py --model mllm, which it goes on from
    python benchmarks/listing_models.py --config grocery --measure --out /tmp/tried  # learn on train, measure on val

Writes an InternVL checkpoint that vLLM loads, which the row "MLLM-CS, 3 listed" of near_tables.py asks. The field
guide's learns from drawings of the naming model's training, and with `--measure` is measured on others of that seed;
Grocery's learns from `train` + `val`. No drawing of a run and no photo of `test` is looked at here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from grocery_models import DEFAULT_OUT
from grocery_photos import data_folder, load_photos, plain
from listing_mllm import DRAWINGS_SEED, LISTED, BirdLessons, GroceryLessons, list_names, quality, train_listing
from own_models import DEMO_FOLDER, LISTING

from fgvr.demo.drawn_files import may_take_model
from fgvr.demo.paths import MLLM_PATH
from fgvr.demo.training.annotator import annotated_name
from fgvr.demo.training.dialogue import LABEL_PROMPT, SPECIES_NAMES
from fgvr.demo.training.drawings import draw_many
from fgvr.demo.training.mllm import DIFFICULTY
from fgvr.demo.training.reference import ReferenceMllm

STEPS, HELD_OUT = 600, 360


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--config", choices=("demo", "grocery"), required=True, help="for which data set")
    parser.add_argument("--out", type=Path, help=f"folder of all (default: {DEMO_FOLDER} or {DEFAULT_OUT})")
    parser.add_argument("--models", type=Path, default=DEFAULT_OUT, help="with Grocery's mllm/ (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=data_folder(), help="Grocery Store (default: %(default)s)")
    parser.add_argument("--measure", action="store_true", help="measure on images that were held out of training")
    parser.add_argument("--seed", type=int, default=4000, help="of batches, views and lists (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    steps = max(1, round(STEPS * args.scale))
    folder = (args.out or (DEMO_FOLDER if args.config == "demo" else DEFAULT_OUT)).expanduser() / LISTING
    if not may_take_model(str(folder)):
        parser.error(f"--out: {folder} is neither empty nor a model's folder; name another one")
    if args.config == "demo":
        list_birds(folder, steps=steps, seed=args.seed, measured=args.measure)
        return
    naming = args.models.expanduser() / "mllm"
    if not naming.exists():
        raise SystemExit(f"there is no naming model at {naming}: python benchmarks/grocery_models.py --model mllm")
    list_groceries(args.data, naming, folder, steps=steps, seed=args.seed, measured=args.measure)


def list_birds(folder: Path, *, steps: int, seed: int, measured: bool) -> None:
    """The field guide's model."""
    train_listing(BirdLessons(), MLLM_PATH, folder, steps=steps, seed=seed)
    if measured:
        others = draw_many(DRAWINGS_SEED, "listing-held-out", HELD_OUT, difficulty=DIFFICULTY, random_share=0.0)
        given = [annotated_name(*of) for of in zip(others.species.tolist(), others.habitat.tolist(), strict=True)]
        wanted = {"annotator's": np.array(given), "true": others.species}
        _print_quality(folder, MLLM_PATH, others.images, SPECIES_NAMES, wanted)


def list_groceries(data: Path, naming: Path, folder: Path, *, steps: int, seed: int, measured: bool) -> None:
    """Grocery's model."""
    photos = load_photos(data, ("train",) if measured else ("train", "val"))
    train_listing(GroceryLessons(photos), naming, folder, steps=steps, seed=seed)
    if measured:
        others = load_photos(data, ("val",))
        seen = (plain(torch.from_numpy(others.images)).permute(0, 2, 3, 1) * 255).round().byte().numpy()
        _print_quality(folder, naming, seen, others.names, {"true": others.classes})


def _print_quality(
    folder: Path, naming: Path, images: np.ndarray, names: tuple[str, ...], wanted: dict[str, np.ndarray]
) -> None:
    found = list_names(folder, images)
    named = [[name] for name in ReferenceMllm(naming).label(images, LABEL_PROMPT)]
    for what, classes in wanted.items():
        got, alone = quality(found, names, classes), quality(named, names, classes)
        print(
            f"{len(images)} held-out images: {got.lists:.3f} lists of {LISTED} names; the {what} name is first in"
            f" {got.first:.3f}, in the list in {got.holds:.3f}; the naming model's in {alone.first:.3f}"
        )


if __name__ == "__main__":
    main()
