"""Teaches the tiny MLLMs of the field guide and of Grocery to answer with three names: two CPU minutes per model.

    python -m benchmarks.papers.listing_models --config demo
    python -m benchmarks.papers.listing_models --config grocery  # starts from Grocery's mllm/
    python -m benchmarks.papers.listing_models --config grocery --measure --out /tmp/tried  # measure on val

Writes an InternVL checkpoint that vLLM loads, for the row "MLLM-CS, 3 listed" of near_tables.py. The field guide's
model learns from the training drawings of the naming model, and with `--measure` is measured on other drawings of that
seed; Grocery's model learns from `train` + `val`. No drawing of a run and no photo of `test` is used here.

Each model is the naming model, fine-tuned on the prompt: the vision tower is frozen, projector and language model start
from its weights. On the field guide, the annotator whose names the naming model learned is asked about the bird again
as if it was seen in other habitats; on groceries, two other products of its kind follow the product. Both lists contain
the truth by construction, which a first name alone does not; how the model uses this on new images is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from benchmarks.demo_models.drawings import DIFFICULTY, draw_many
from benchmarks.demo_models.mllm_language import (
    END,
    HEAD,
    LABEL_PROMPT,
    SPECIES_NAMES,
    TAIL,
    annotated_name,
    branch_loss,
    cache_features,
    collect,
    read_trunk,
)
from benchmarks.demo_models.mllm_model import new_processor, save_mllm
from benchmarks.demo_models.reference import ReferenceMllm
from benchmarks.demo_models.schedule import Learner, refuse_foreign, scaled, training_parser
from benchmarks.grocery.captions import siblings
from benchmarks.grocery.mllm import features
from benchmarks.grocery.models import DEFAULT_OUT
from benchmarks.grocery.photos import Photos, augment, data_folder, load_photos, plain
from benchmarks.papers.data_sets import DEMO_FOLDER, LISTING
from fgvr.config.near import LISTED_PROMPT
from fgvr.demo.paths import MLLM_PATH
from fgvr.demo.scene import HABITATS
from fgvr.names.listed import listed_names

LISTED: Final = 3
PROMPT: Final = LISTED_PROMPT.replace("{k}", str(LISTED))
BATCH, RATE = 32, 1e-3
DRAWINGS_SEED = 2000
"""Seed of the training drawings of the shipped naming model."""


class Lessons(Protocol):
    """The training data of the language model."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the classes, by id."""

    def batch(
        self, model: InternVLForConditionalGeneration, step: int, rng: np.random.Generator
    ) -> tuple[Tensor, list[list[int]]]:
        """Features of the frozen tower, bfloat16 [B, 16, 512], and the class ids in the list of each image."""


class BirdLessons:
    """Drawings of the naming model's training stream, which no run of the pipeline draws; each is used once."""

    names: Sequence[str] = SPECIES_NAMES

    def batch(
        self, model: InternVLForConditionalGeneration, step: int, rng: np.random.Generator
    ) -> tuple[Tensor, list[list[int]]]:
        """See `Lessons`."""
        birds = draw_many(
            DRAWINGS_SEED, "mllm-language", BATCH, difficulty=DIFFICULTY, random_share=0.0, start=step * BATCH
        )
        lists = [
            annotators_list(*seen, rng) for seen in zip(birds.species.tolist(), birds.habitat.tolist(), strict=True)
        ]
        return cache_features(model, birds.images), lists


@dataclass(frozen=True)
class GroceryLessons:
    """Photos, with a new augmented view each time."""

    photos: Photos

    @property
    def names(self) -> Sequence[str]:
        """Names of the products."""
        return self.photos.names

    def batch(
        self, model: InternVLForConditionalGeneration, step: int, rng: np.random.Generator
    ) -> tuple[Tensor, list[list[int]]]:
        """See `Lessons`."""
        rows = rng.choice(len(self.photos), min(BATCH, len(self.photos)), replace=False)
        with torch.no_grad():
            seen = features(model, augment(torch.from_numpy(self.photos.images[rows]), rng))
        return seen, [siblings_list(self.photos, int(self.photos.classes[row]), rng) for row in rows]


def annotators_list(species: int, habitat: int, rng: np.random.Generator) -> list[int]:
    """Distinct names from one annotator: for the bird in its habitat, then as if seen in other drawn habitats."""
    seen = [habitat, *rng.permutation(len(HABITATS)).tolist()]
    return list(dict.fromkeys(annotated_name(species, place) for place in seen))[:LISTED]


def siblings_list(photos: Photos, fine: int, rng: np.random.Generator) -> list[int]:
    """The true name, as the naming model learns it, then products of its coarse class, or of its department if few."""
    of_department = np.array([department == photos.departments[fine] for department in photos.departments])
    others = [*rng.permutation(siblings(photos, fine)), *rng.permutation(np.flatnonzero(of_department))]
    return list(dict.fromkeys([fine, *map(int, others)]))[:LISTED]


def train_listing(lessons: Lessons, naming: Path, folder: Path, *, steps: int, seed: int) -> None:
    """Teach the naming model the prompt and write a new checkpoint.

    Args:
        lessons: the training data.
        naming: checkpoint of the naming model.
        folder: folder of the new checkpoint.
        steps: number of training steps.
        seed: seed of batches, views and lists.
    """
    tokenizer = AutoTokenizer.from_pretrained(naming)
    model = InternVLForConditionalGeneration.from_pretrained(
        naming, dtype=torch.float32, attn_implementation="eager"
    )  # on a CPU the backward pass of bf16 SDPA is slow

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    rng = np.random.default_rng([seed, 4])
    head, asked, end = ids(HEAD), ids(PROMPT + TAIL), ids(END)[0]
    learner = Learner(
        "listing",
        (model.model.multi_modal_projector, model.model.language_model),
        RATE,
        steps=steps,
        warm_up=max(1, steps // 8),
        decay=0.02,
        every=50,
    )
    for step in range(steps):
        seen, lists = lessons.batch(model, step, rng)
        answers = [ids(written(lessons.names, listed) + END) for listed in lists]
        rows = [(owner, asked, answer, [1.0] * len(answer)) for owner, answer in enumerate(answers)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = branch_loss(model, read_trunk(model, head, seen), collect(rows, end))
        learner.step(loss)
    save_mllm(model.eval(), new_processor(tokenizer), folder)


def written(names: Sequence[str], listed: Sequence[int]) -> str:
    """A list in the format of the prompt."""
    return "\n".join(names[one] for one in listed)


@dataclass(frozen=True)
class Quality:
    """Shares of images, 0 to 1.

    Attributes:
        lists: the answer is a list of three different names of classes.
        first: the first name is the wanted one.
        holds: the list contains it.
    """

    lists: float
    first: float
    holds: float


def list_names(folder: Path, images: np.ndarray) -> list[list[str]]:
    """Greedy lists for uint8 [N, 64, 64, 3] images, as the pipeline reads them."""
    answers = ReferenceMllm(folder).label(images, PROMPT, longest=32 * LISTED)
    return [listed_names(answer, LISTED) for answer in answers]


def quality(found: Sequence[Sequence[str]], names: Sequence[str], wanted: np.ndarray) -> Quality:
    """Quality of lists against the wanted names, class ids int64 [N]."""
    targets, known = [names[one] for one in wanted], set(names)
    return Quality(
        lists=float(np.mean([len(items) == LISTED and known.issuperset(items) for items in found])),
        first=float(np.mean([items[0] == target for items, target in zip(found, targets, strict=True)])),
        holds=float(np.mean([target in items for items, target in zip(found, targets, strict=True)])),
    )


STEPS, HELD_OUT = 600, 360


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = training_parser(__doc__, seed=4000)
    parser.add_argument("--config", choices=("demo", "grocery"), required=True, help="for which data set")
    parser.add_argument("--out", type=Path, help=f"folder of all (default: {DEMO_FOLDER} or {DEFAULT_OUT})")
    parser.add_argument("--models", type=Path, default=DEFAULT_OUT, help="with Grocery's mllm/ (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=data_folder(), help="Grocery Store (default: %(default)s)")
    parser.add_argument("--measure", action="store_true", help="measure on images that were held out of training")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    steps = scaled(STEPS, args.scale)
    folder = (args.out or (DEMO_FOLDER if args.config == "demo" else DEFAULT_OUT)).expanduser() / LISTING
    refuse_foreign(parser, folder)
    if args.config == "demo":
        list_birds(folder, steps=steps, seed=args.seed, measured=args.measure)
        return
    naming = args.models.expanduser() / "mllm"
    if not naming.exists():
        raise SystemExit(f"there is no naming model at {naming}: python -m benchmarks.grocery.models --model mllm")
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
