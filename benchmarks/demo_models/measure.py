"""Measures the demo's models on fresh drawings and writes the numbers into their model cards.

    python -m benchmarks.demo_models.measure --seeds 7 8 9 --write-cards

Prints one JSON object with means over the seeds. No drawing of these seeds was used for training.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks import harness
from benchmarks.demo_models.backbone import features_of, load_backbone
from benchmarks.demo_models.drawings import Drawings, draw_many
from benchmarks.demo_models.mllm_language import INSTRUCTION, LABEL_PROMPT, truth_table
from benchmarks.demo_models.reference import ReferenceMllm
from fgvr.demo.paths import BACKBONE_PATH, CLIP_PATH, MLLM_PATH
from fgvr.demo.questions import QUESTIONS
from fgvr.demo.samples import DEMO_DIFFICULTY, TRAINING_DIFFICULTY
from fgvr.demo.species import SPECIES


@dataclass(frozen=True)
class MllmQuality:
    """Shares and areas under the ROC curve, 0 to 1. Aspect AUCs are means over the questions."""

    label_accuracy: float
    """Greedy label equal to the true name, at the demo's difficulty."""
    label_genus: float
    """Greedy label of the right genus."""
    label_valid: float
    """Greedy label is some species' name."""
    aspect_auc: float
    """Species birds at the demo's difficulty, shared layout."""
    aspect_auc_paper_order: float
    aspect_auc_random: float
    """Birds with random attributes at training difficulty, shared layout."""
    aspect_auc_random_lowest: float
    """The worst question of the line above."""
    label_mass: float
    """Mean probability of Yes and No together."""


@dataclass(frozen=True)
class ClipQuality:
    """Shares at the demo's difficulty, 0 to 1."""

    zero_shot: float
    """Top-1 with the true names, "a photo of a {name}."."""
    zero_shot_genus: float
    linear_probe: float
    """Logistic regression on the features of ten images per class."""
    neighbour_precision: float
    """Share of the two nearest other images that have the same class, with ten images per class."""
    coverage: float
    """Share of images for which the MLLM labels of the image and its two nearest others contain the true name."""


@dataclass(frozen=True)
class BackboneQuality:
    """Shares at the demo's difficulty, 0 to 1."""

    linear_probe: float
    """Logistic regression on the features of ten images per class."""
    neighbour_precision: float
    """Share of the two nearest other images (by cosine) that have the same class, with ten images per class."""


Quality = TypeVar("Quality", MllmQuality, ClipQuality, BackboneQuality)


def drawings(seed: int, split: str, per_class: int, difficulty: float, random_share: float = 0.0) -> Drawings:
    """Fresh drawings of one difficulty."""
    count = per_class * len(SPECIES)
    return draw_many(seed, f"measure-{split}", count, difficulty=(difficulty, difficulty), random_share=random_share)


def measure_mllm(folder: Path, seed: int, per_class: int) -> MllmQuality:
    """Quality of an MLLM checkpoint on ``per_class`` drawings of each species."""
    mllm = ReferenceMllm(folder)
    birds = drawings(seed, "test", per_class, DEMO_DIFFICULTY)
    labels = mllm.label(birds.images, LABEL_PROMPT)
    names = {species.name: species.class_id for species in SPECIES}
    ids = np.array([names.get(label, -1) for label in labels])
    genera = np.array([label.split()[-1] if label else "" for label in labels])
    shared = [f"{INSTRUCTION} {question.text}" for question in QUESTIONS]
    paper = [f"{question.text} {INSTRUCTION}" for question in QUESTIONS]
    p, mass = mllm.p_yes(birds.images, shared)
    few = slice(0, len(birds) // 2)
    other = drawings(seed, "random", per_class, TRAINING_DIFFICULTY, random_share=1.0)
    random_auc = aucs(truth_table(other.looks), mllm.p_yes(other.images, shared)[0])
    return MllmQuality(
        label_accuracy=float((ids == birds.species).mean()),
        label_genus=float((genera == np.array([SPECIES[s].genus for s in birds.species])).mean()),
        label_valid=float((ids >= 0).mean()),
        aspect_auc=float(aucs(truth_table(birds.looks), p).mean()),
        aspect_auc_paper_order=float(
            aucs(truth_table(birds.looks)[few], mllm.p_yes(birds.images[few], paper)[0]).mean()
        ),
        aspect_auc_random=float(random_auc.mean()),
        aspect_auc_random_lowest=float(random_auc.min()),
        label_mass=float(mass.mean()),
    )


def aucs(truth: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each question: truth bool [N, Q], p float [N, Q]; float [Q]."""
    return np.array([roc_auc_score(truth[:, q], p[:, q]) for q in range(truth.shape[1])])


@torch.inference_mode()
def measure_clip(folder: Path, mllm_folder: Path, seed: int, per_class: int) -> ClipQuality:
    """Quality of a CLIP folder, with ten drawings per class for training and ``per_class`` for testing."""
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    text = model.encode_text(tokenizer([f"a photo of a {species.name}." for species in SPECIES]), normalize=True)

    def features(birds: Drawings) -> torch.Tensor:
        from PIL import Image

        pixels = [
            torch.stack([transform(Image.fromarray(i)) for i in birds.images[s : s + 240]])
            for s in range(0, len(birds), 240)
        ]
        return torch.cat([model.encode_image(part, normalize=True) for part in pixels])

    train = drawings(seed, "train", 10, DEMO_DIFFICULTY)
    test = drawings(seed, "test", per_class, DEMO_DIFFICULTY)
    x_train, x_test = features(train), features(test)
    guess = (x_test @ text.T).argmax(dim=1).numpy()
    genus = np.array([species.genus for species in SPECIES])
    nearest = two_nearest(x_train)
    labels = np.array(ReferenceMllm(mllm_folder).label(train.images, LABEL_PROMPT))
    truth = np.array([SPECIES[s].name for s in train.species])
    candidates = np.concatenate([labels[:, None], labels[nearest]], axis=1)
    return ClipQuality(
        zero_shot=float((guess == test.species).mean()),
        zero_shot_genus=float((genus[guess] == genus[test.species]).mean()),
        linear_probe=linear_probe(x_train, train, x_test, test),
        neighbour_precision=same_species(train, nearest),
        coverage=float((candidates == truth[:, None]).any(axis=1).mean()),
    )


@torch.inference_mode()
def measure_backbone(folder: Path, seed: int, per_class: int) -> BackboneQuality:
    """Quality of the students' start, with ten drawings per class for training and ``per_class`` for testing."""
    network = load_backbone(folder)
    train = drawings(seed, "train", 10, DEMO_DIFFICULTY)
    test = drawings(seed, "test", per_class, DEMO_DIFFICULTY)
    x_train, x_test = (torch.nn.functional.normalize(features_of(network, birds), dim=1) for birds in (train, test))
    return BackboneQuality(
        linear_probe=linear_probe(x_train, train, x_test, test),
        neighbour_precision=same_species(train, two_nearest(x_train)),
    )


def linear_probe(x_train: torch.Tensor, train: Drawings, x_test: torch.Tensor, test: Drawings) -> float:
    """Accuracy on the second drawings of a logistic regression on unit vectors of the first: float [N, D] each."""
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=30, max_iter=1000).fit(x_train.numpy(), train.species)
    return float(probe.score(x_test.numpy(), test.species))


def two_nearest(vectors: torch.Tensor) -> np.ndarray:
    """Rows of the two nearest other unit vectors of each: int [N, 2]."""
    scores = vectors @ vectors.T
    scores.fill_diagonal_(-2)
    return scores.topk(2, dim=1).indices.numpy()


def same_species(birds: Drawings, nearest: np.ndarray) -> float:
    """Share of neighbours int [N, K] that are of the drawing's own species."""
    return float((birds.species[nearest] == birds.species[:, None]).mean())


def mean_of(parts: list[Quality]) -> Quality:
    """Field by field mean, rounded to 4 digits."""
    kind = type(parts[0])
    return kind(**{f.name: round(float(np.mean([getattr(part, f.name) for part in parts])), 4) for f in fields(kind)})


def write_card(folder: Path, quality: MllmQuality | ClipQuality | BackboneQuality, seeds: list[int]) -> None:
    """Replace the JSON block of a model card by these numbers.

    Raises:
        ValueError: the card has no such block.
    """
    card = folder / "MODEL_CARD.md"
    text = card.read_text()
    before, fence, rest = text.partition("```json\n")
    _, end, after = rest.partition("```")
    if not fence or not end:
        raise ValueError(f"{card} has no ```json block for the measured numbers")
    numbers = json.dumps({"difficulty": DEMO_DIFFICULTY, "seeds": seeds, **asdict(quality)}, indent=2)
    card.write_text(f"{before}{fence}{numbers}\n{end}{after}")


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=(7, 8, 9))
    parser.add_argument("--mllm", type=Path, default=MLLM_PATH, help="MLLM checkpoint (default: the shipped one)")
    parser.add_argument("--clip", type=Path, default=CLIP_PATH, help="CLIP folder (default: the shipped one)")
    parser.add_argument("--backbone", type=Path, default=BACKBONE_PATH, help="timm folder (default: the shipped one)")
    parser.add_argument("--per-class", type=int, default=20, help="test drawings per species (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--write-cards", action="store_true", help="update the numbers in each MODEL_CARD.md")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    mllm = mean_of([measure_mllm(args.mllm, seed, args.per_class) for seed in args.seeds])
    clip = mean_of([measure_clip(args.clip, args.mllm, seed, args.per_class) for seed in args.seeds])
    backbone = mean_of([measure_backbone(args.backbone, seed, args.per_class) for seed in args.seeds])
    with harness.reporting(args) as report:
        report.say(json.dumps({"mllm": asdict(mllm), "clip": asdict(clip), "backbone": asdict(backbone)}, indent=2))
    if args.write_cards:
        write_card(args.backbone, backbone, args.seeds)
        write_card(args.mllm, mllm, args.seeds)
        write_card(args.clip, clip, args.seeds)


if __name__ == "__main__":
    main()
