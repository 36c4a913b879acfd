"""Generated pictures in place of photos, with the field guide's drawing program as the generator.

    python -m benchmarks.quality.augment --seeds 0 1 2 3 4                # ten minutes on one core

Five drawings of each of 36 species teach a student that starts from weights that know no species; accuracy on others.
A picture is another drawing of the same species: what a perfect generator would give. A wrong one draws another genus
than it was asked for. No diffusion model runs here, so the numbers say what the plumbing, the filters and the
sampling do, and nothing about diffusion. The first table has the share of pictures that the filters keep, the second
the students: all take the same number of steps. In brackets the 95% interval of the mean difference to the photos
alone, paired and resampled over seeds. Nothing is chosen by these numbers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks import harness
from benchmarks.quality.student_runs import Photos, StudentRuns
from fgvr.arrays import Floats, Ids
from fgvr.augment.sources import COLUMNS, SyntheticRows
from fgvr.augment.worker import AugmentWorker, JudgeSettings
from fgvr.clip.model import load_clip
from fgvr.config import Clip, ImageLimits
from fgvr.config.augment import NEGATIVES, PROMPTS, DrawnBirds
from fgvr.demo.samples import DEMO_DIFFICULTY, sample
from fgvr.demo.species import SPECIES
from fgvr.models.head import HeadModel
from fgvr.models.learned_head import learn_prototypes
from fgvr.training.swaps import Pictures

NAMES: Final = tuple(species.name for species in SPECIES)
CLIP: Final = Clip(model="demo")
STUDENT: Final[dict[str, Any]] = {
    "backbone": "test_byobnet",
    "weights": "demo",
    "image_size": 64,
    "min_crop": 0.8,
    "batch_size": 32,
    "lr": 0.02,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "validation_share": 0,
    "alpha": 0,
}
"""The demo's student (pipelines/configs/demo.yaml)."""
RANDAUGMENT: Final = {"randaugment": 2, "randaugment_magnitude": 9}
BASE: Final = "photos alone"


@dataclass(frozen=True)
class Listed:
    """Photos by their number; see `fgvr.tables.Rows`."""

    uris: tuple[str, ...]

    def take(self, ids: Ids, columns: list[str] | None = None) -> pa.Table:
        """Their URIs."""
        return pa.table({"uri": [self.uris[number] for number in np.asarray(ids).tolist()]})


@dataclass(frozen=True)
class Filters:
    """One setting of the filters."""

    label: str
    negatives: tuple[str, ...] = NEGATIVES
    top_k: int | None = 10


FILTERS: Final = (
    Filters("both, top_k 10 of 36 (the default)"),
    Filters("both, top_k 3 of 36", top_k=3),
    Filters("semantic alone", top_k=None),
    Filters("top_k 10 alone", (), 10),
    Filters("top_k 3 alone", (), 3),
    Filters("top_k 2 alone", (), 2),
)
USED: Final = FILTERS[1]
"""The filters of the students."""


def drawings(folder: Path, seed: int, split: str, per_class: int) -> Photos:
    """Drawings of a field guide, so many of each species."""
    folder.mkdir()
    uris, classes = [], []
    for index in range(per_class * len(SPECIES)):
        drawing = sample(seed, f"augment/{split}", index, difficulty=DEMO_DIFFICULTY)
        file = folder / f"{index:05d}.jpg"
        file.write_bytes(drawing.jpeg())
        uris.append(str(file))
        classes.append(drawing.class_id)
    return Photos(tuple(uris), np.array(classes, np.int64))


def classifier(photos: Photos, folder: Path) -> str:
    """Prototypes of the photos, as the stage makes them of true classes."""
    vectors: Floats = load_clip(CLIP).encode_images([Image.open(uri).convert("RGB") for uri in photos.uris])
    HeadModel(learn_prototypes(vectors, photos.classes, NAMES, None).classes, CLIP).save(folder)
    return str(folder)


def generated(photos: Photos, species: str, filters: Filters, ranked_by: str, seed: int) -> pa.Table:
    """Two pictures of each photo, judged: rows of `fgvr.schemas.SYNTHETIC`."""
    rows = SyntheticRows(
        Listed(photos.uris), np.arange(len(photos)), photos.classes, NAMES, PROMPTS, per_image=2, seed=seed
    )
    judging = JudgeSettings(CLIP, "a photo of a {}", filters.negatives, filters.top_k, NAMES, ranked_by)
    worker = AugmentWorker(
        generator=DrawnBirds(species=species),
        judging=judging,
        limits=ImageLimits(),
        batch_images=64,
    )
    return worker.process(rows.take(np.arange(len(rows)), list(COLUMNS)))


def shown(rows: pa.Table, folder: Path, alpha: float, *, kept: bool = True) -> Pictures:
    """The pictures as files; all of them, or those that are kept."""
    folder.mkdir()
    chosen = rows.filter(rows["kept"]) if kept else rows
    uris = []
    for number, data in enumerate(chosen["image"].to_pylist()):
        (folder / f"{number:05d}.jpg").write_bytes(data)
        uris.append(str(folder / f"{number:05d}.jpg"))
    return Pictures(chosen["source_id"].to_numpy(), uris, alpha, str(folder))


def students(
    learned: Photos, more: Photos, right: pa.Table, wrong: pa.Table, *, place: Path, alpha: float
) -> dict[str, tuple[Photos, dict[str, Any], Pictures | None]]:
    """Photos, further options and pictures of each row."""
    good = shown(right, place / "good", alpha)
    return {
        BASE: (learned, {}, None),
        "RandAugment 2, 9": (learned, RANDAUGMENT, None),
        f"pictures, alpha {alpha:g}": (learned, {}, good),
        "pictures and RandAugment": (learned, RANDAUGMENT, good),
        "pictures, not filtered": (learned, {}, shown(right, place / "all", alpha, kept=False)),
        "wrong generator, filtered": (learned, {}, shown(wrong, place / "passed", alpha)),
        "wrong generator, not filtered": (learned, {}, shown(wrong, place / "wrong", alpha, kept=False)),
        "three times as many photos": (more, {}, None),
    }


def kept_table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Shares that the filters keep, in percent, by filters and generator."""
    lines = [
        harness.Line(label, tuple(harness.mean_and_deviation(shares[species]) for species in ("same", "other")))
        for label, shares in found.items()
    ]
    return harness.markdown("kept, of 100 pictures", ["right generator", "wrong generator"], lines)


def student_table(found: Mapping[str, Sequence[float]], photos: int) -> str:
    """Accuracy, and the paired differences to the photos alone."""
    lines = []
    for label, values in found.items():
        gaps = [value - other for value, other in zip(values, found[BASE], strict=True)]
        low, high = harness.bootstrap(gaps)
        gap = "" if label == BASE else f"{statistics.fmean(gaps):+.1f} [{low:+.1f}, {high:+.1f}]"
        lines.append(harness.Line(label, (harness.mean_and_deviation(values), gap)))
    return harness.markdown(f"{photos} drawings", ["top-1", f"top-1 − {BASE}"], lines)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--per-class", type=int, default=5, help="drawings of each species to learn from")
    parser.add_argument("--tested", type=int, default=20, help="other drawings of each species")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--alpha", type=float, default=0.4)
    args = parser.parse_args()
    with harness.reporting(args) as report, tempfile.TemporaryDirectory() as place:
        kept: dict[str, dict[str, list[float]]] = {
            each.label: {species: [] for species in ("same", "other")} for each in FILTERS
        }
        found: dict[str, list[float]] = {}
        for seed in args.seeds:
            folder = Path(place, str(seed))
            folder.mkdir()
            learned = drawings(folder / "train", seed, "train", args.per_class)
            more = drawings(folder / "more", seed, "train", 3 * args.per_class)  # the first ones are those above
            tested = drawings(folder / "test", seed, "test", args.tested)
            ranked_by = classifier(learned, folder / "classifier")
            made = {}
            for filters in FILTERS:
                for species in ("same", "other"):
                    rows = generated(learned, species, filters, ranked_by, seed)
                    kept[filters.label][species].append(100 * sum(rows["kept"].to_pylist()) / rows.num_rows)
                    made[filters.label, species] = rows
            runs = StudentRuns(NAMES, tested, Path())
            right, wrong = (made[USED.label, species] for species in ("same", "other"))
            for label, (photos, options, pictures) in students(
                learned, more, right, wrong, place=folder, alpha=args.alpha
            ).items():
                began, epochs = time.monotonic(), round(args.epochs * len(learned) / len(photos))
                recipe = {**STUDENT, "epochs": epochs, "seed": seed, **options}
                found.setdefault(label, []).append(runs.top1(recipe, photos, pictures=pictures))
                report.say(f"seed {seed}, {label}: {found[label][-1]:.1f} ({time.monotonic() - began:.0f} s)")
        report.facts |= {"kept": kept, "top1": found}
        report.say(kept_table(kept))
        report.say(student_table(found, args.per_class * len(SPECIES)))


if __name__ == "__main__":
    main()
