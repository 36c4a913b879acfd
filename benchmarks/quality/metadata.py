"""Metadata beside photos: where it helps a student and a head, where it does not, and a column that gives answers away.

    python -m benchmarks.quality.metadata                         # about ten minutes, most of it the drawn birds
    python -m benchmarks.quality.metadata --tables clothing grocery --vectors FOLDER

birds: drawn species are merged into pairs that look alike, since each photo of a pair is drawn as either species at
random; the month (May to July, or November to January) tells which it is said to be. A small student is trained with
the month and without, and asked with the month and with it hidden. clothing: `$FGVR_DATA/clothing`, heads on
EfficientNet-Lite0 vectors with and without the flag `kids`, split by sender; and `sender_id` under a split at random
and by sender, with what the look for leaks says of it. grocery: `$FGVR_DATA/grocery-store`, heads on the same kind of
vectors with and without the coarse class (as the department of a shop would be known); its descriptions are texts of
the classes, the same for all photos of one, so they only show what the look for leaks says.

Vectors: FOLDER/clothing/vectors.npz and FOLDER/grocery/vectors.npz with `uri` and `vectors`; without them they are
computed first by the stage `embed`. Differences are paired by seed, with the 95% interval of their mean. Nothing is
chosen by these numbers.
"""

from __future__ import annotations

import csv
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks import harness
from benchmarks.quality import clothing
from benchmarks.quality.photo_tables import find_weights
from cluster.session import ray_session
from fgvr.array_files import save_array
from fgvr.arrays import Floats, Ids
from fgvr.config import ImageLimits, Makd, build
from fgvr.config.metadata import FusedMetadata, Metadata
from fgvr.config.tree import merge
from fgvr.demo.samples import class_of, sample
from fgvr.evaluation.leaks import powers
from fgvr.heads.beside import Beside
from fgvr.heads.training import HeadRecipe
from fgvr.metadata.fitted import fit
from fgvr.models.fused import StudentMetadata
from fgvr.models.infer import load_classifier
from fgvr.models.learned_head import learn_heads, sets_of_labels
from fgvr.models.sentences import sentence_model
from fgvr.models.student import StudentSpec, timm_preprocess
from fgvr.selection.whitening import fit_whitening
from fgvr.training.examples import Examples
from fgvr.training.fused import train_fused
from fgvr.training.reporter import LocalReporter
from fgvr.training.student import train_student
from fgvr.training.student_data import StudentJob

PAIRS: Final = 6
PER_CLASS: Final = {"train": 60, "test": 30}
SIDE: Final = 64
EPOCHS: Final = 20
RECIPE: Final = HeadRecipe(loss="ce")
SMALL: Final = {"channels": [16, 16, 32, 64], "stem_width": 16}
MONTHS: Final = ((5, 6, 7), (11, 12, 1))
"""Months in which the first and the second of a pair are seen."""


@dataclass(frozen=True)
class Drawn:
    """Drawn photos: URIs, classes int64 [N] (2·p and 2·p + 1 are a pair) and months."""

    uris: list[str]
    classes: Ids
    months: pa.Array


def draw_pairs(folder: Path, split: str, seed: int) -> Drawn:
    """Photos of pairs: which of the two a photo is said to be is drawn at random, and the month follows from it."""
    rng, uris, classes = np.random.default_rng((seed, len(split))), [], []
    folder.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(range(PAIRS), 0)
    index = 0
    while min(counts.values()) < 2 * PER_CLASS[split]:
        pair = class_of(seed, split, index) // 2
        if pair < PAIRS and counts[pair] < 2 * PER_CLASS[split]:
            counts[pair] += 1
            uris.append(str(folder / f"{split}-{index}.png"))
            Image.fromarray(sample(seed, split, index, difficulty=0.3).image).save(uris[-1])
            classes.append(2 * pair + int(rng.integers(2)))
        index += 1
    months = [str(rng.choice(MONTHS[label % 2])) for label in classes]
    return Drawn(uris, np.array(classes, np.int64), pa.array(months))


def birds(seed: int, *, pretrain: int = 0) -> dict[str, float]:
    """Accuracy in percent: of all classes and of the pairs, with the month, with it hidden, and of a student alone."""
    folder = Path(tempfile.mkdtemp(prefix="fgvr-metadata-"))
    try:
        train, test = draw_pairs(folder, "train", seed), draw_pairs(folder, "test", seed)
        names = tuple(f"class {label}" for label in range(2 * PAIRS))
        spec = StudentSpec("resnet10t", names, (), timm_preprocess("resnet10t", SIDE), SMALL)
        values = {"backbone": "resnet10t", "backbone_args": SMALL, "image_size": SIDE, "epochs": EPOCHS, "seed": seed}
        values |= {"batch_size": 32, "lr": 0.2, "min_crop": 0.5, "alpha": 0, "schedule": "cosine", "warmup_epochs": 2}
        columns = FusedMetadata(columns={"month": "month"}, dimensions=64, pretrain_epochs=pretrain)
        count = len(train.uris)
        none = np.zeros((count, 0), np.float32)
        Examples(np.arange(count), train.uris, train.classes, none, np.zeros(count, bool), "drawn").write(
            str(folder / "examples")
        )
        plain = StudentJob(str(folder / "examples"), spec, Makd(**values), ImageLimits(), cache=str(folder / "cache"))
        fitted, _ = fit({"month": train.months}, columns)
        save_array(str(folder / "metadata.npy"), fitted.encode({"month": train.months}).astype("<f2"))
        fused = replace(
            plain,
            spec=replace(spec, metadata=StudentMetadata.of(fitted, columns)),
            settings=Makd(**values, metadata=columns),
            metadata=str(folder / "metadata.npy"),
        )
        alone, beside = LocalReporter(folder / "alone"), LocalReporter(folder / "beside")
        train_student(plain, alone)
        train_fused(fused, beside)
        with_month = said(beside, test, {"month": test.months})
        hidden, photo = said(beside, test, {}), said(alone, test, {})
        found = {"photo alone": photo, "fused": with_month, "fused, month hidden": hidden}
        each = {name: 100 * float((ids == test.classes).mean()) for name, ids in found.items()}
        # Of photos whose pair is right: which of the two?
        within = {
            f"{name}, within pairs": 100 * float((ids == test.classes)[ids // 2 == test.classes // 2].mean())
            for name, ids in found.items()
        }
        pair = {f"{name}, pair": 100 * float((ids // 2 == test.classes // 2).mean()) for name, ids in found.items()}
        return each | within | pair
    finally:
        shutil.rmtree(folder)


def said(reporter: LocalReporter, photos: Drawn, texts: Mapping[str, pa.Array]) -> Ids:
    """The classes that a trained student gives, int64 [N]."""
    student, limits = load_classifier(reporter.checkpoint / "last"), ImageLimits()
    prepared = torch.stack([student.read(uri, limits) for uri in photos.uris])
    return np.asarray(student.predict_with(prepared, texts).scores.argmax(axis=1), np.int64)


@dataclass(frozen=True)
class Photos:
    """Photos with vectors: float32 [N, d], names, URIs."""

    vectors: Floats
    uris: list[str]

    def rows(self, uris: Sequence[str]) -> Ids:
        """Places of URIs; −1 without a vector."""
        place = {uri: number for number, uri in enumerate(self.uris)}
        found = np.array([place.get(uri, -1) for uri in uris], np.int64)
        if not (found >= 0).any():
            raise SystemExit(f"no vector is of a photo below {harness.DATA}: compute them anew (--vectors)")
        return found


def read_vectors(file: Path) -> Photos:
    """Vectors that the stage `embed` computed."""
    stored = np.load(file)
    return Photos(stored["vectors"].astype(np.float32), stored["uri"].tolist())


def of_heads(
    vectors: Floats,
    names: Sequence[str],
    texts: Mapping[str, pa.Array],
    columns: Metadata,
    *,
    halves: tuple[Ids, Ids],
    seed: int,
) -> tuple[float, float]:
    """Accuracy and mean accuracy over classes of a cosine head on test photos, in percent.

    Args:
        vectors: float32 [N, d].
        names: true names, N.
        texts: columns, N each.
        columns: those that the head sees; empty: none.
        halves: rows to learn from, and rows to test on.
        seed: of the head and of the whitening's sample.
    """
    labels, (training, test) = sorted(set(names)), halves
    own = np.array([labels.index(name) for name in names], np.int64)
    whitening = fit_whitening(vectors[training], threads=1)
    beside = None
    if columns.on:
        some = {name: column.take(pa.array(training)) for name, column in texts.items()}
        fitted, _ = fit(some, columns, sentences(columns))
        beside = Beside(fitted, fitted.encode(some, sentences(columns)), columns)
    learned = learn_heads(
        *(vectors[training], own[training], sets_of_labels(own[training]), labels, whitening),
        recipe=RECIPE,
        seed=seed,
        beside=beside,
    )
    mine = {name: column.take(pa.array(test)) for name, column in texts.items()} if columns.on else {}
    scores = learned.classes.scores_with(vectors[test], mine)
    said_names = np.array(learned.classes.labels)[scores.argmax(axis=1)]
    right = said_names == np.array(names)[test]
    each = [right[own[test] == label].mean() for label in np.unique(own[test])]
    return 100 * float(right.mean()), 100 * float(np.mean(each))


def sentences(columns: Metadata) -> Any:
    """The sentence model, where a column is text."""
    texts = any(column.kind == "text" for column in columns.parsed)
    return sentence_model(columns.sentence_model) if texts else None


def leak_rows(
    texts: Mapping[str, pa.Array], columns: Metadata, names: Sequence[str], groups: Sequence[str] | None
) -> str:
    """What the look for leaks says of columns."""
    labels = sorted(set(names))
    own = np.array([labels.index(name) for name in names], np.int64)
    fitted, _ = fit(texts, columns, sentences(columns))
    found = powers(fitted, texts, fitted.encode(texts, sentences(columns)), own, groups=groups)
    return "; ".join(
        f"{one.column} {100 * one.accuracy:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}] "
        f"(majority {100 * one.majority:.1f}{', reported' if one.suspicious else ''})"
        for one in found
    )


def of_clothing(file: Path, seeds: Sequence[int], report: harness.Report) -> None:
    """The tables of clothing."""
    photos = read_vectors(file)
    rows = [row for row in clothing.read_rows() if row["class_name"] not in clothing.NO_NAMES]
    at = photos.rows([row["uri"] for row in rows])
    rows = [row for row, place in zip(rows, at.tolist(), strict=True) if place >= 0]
    vectors, names = photos.vectors[at[at >= 0]], [row["class_name"] for row in rows]
    senders = [row["sender_id"] for row in rows]
    texts = {"kids": pa.array([row["kids"] for row in rows]), "sender_id": pa.array(senders)}
    kinds = {
        "vectors": {},
        "with kids": {"kids": "category"},
        "with sender_id": {"sender_id": "category"},
    }
    for split in ("by sender", "at random"):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        for seed in seeds:
            out = clothing.test_senders(rows, seed)
            held = np.array([sender in out for sender in senders])
            if split == "at random":
                held = np.random.default_rng(seed).permutation(held)
            halves = (np.flatnonzero(~held), np.flatnonzero(held))
            for name, kind in kinds.items():
                columns = Metadata(columns=kind)
                found[name].append(of_heads(vectors, names, texts, columns, halves=halves, seed=seed))
        say(report, f"clothing, split {split}", "vectors", found)
    both = Metadata(columns={"kids": "category", "sender_id": "category"}, vocabulary=1000)
    lines = {"at random": leak_rows(texts, both, names, None), "by sender": leak_rows(texts, both, names, senders)}
    report.facts["clothing-leaks"] = lines
    report.say("\n".join(f"clothing, alone, photos held out {how}: {line}" for how, line in lines.items()))


def of_grocery(file: Path, seeds: Sequence[int], report: harness.Report) -> None:
    """The tables of grocery: five training photos per class, all test photos."""
    folder = harness.DATA / "grocery-store" / "dataset"
    with (folder / "classes.csv").open(newline="") as listed:
        classes = list(csv.DictReader(listed))
    told = [(folder / row["Product Description Path (str)"].strip("/")).read_text() for row in classes]
    photos = read_vectors(file)
    uris, label_ids, splits = [], [], []
    for split in ("train", "test"):
        for line in (folder / f"{split}.txt").read_text().splitlines():
            path, label, _ = (part.strip() for part in line.split(","))
            uris.append(str(folder / path))
            label_ids.append(int(label))
            splits.append(split)
    at = photos.rows(uris)
    good = np.flatnonzero(at >= 0)
    vectors = photos.vectors[at[good]]
    own = np.array(label_ids)[good]
    names = [classes[label]["Class Name (str)"] for label in own.tolist()]
    coarse = pa.array([classes[label]["Coarse Class Name (str)"] for label in own.tolist()])
    texts = {"coarse": coarse, "description": pa.array([told[label] for label in own.tolist()])}
    training, test = (np.flatnonzero(np.array(splits)[good] == split) for split in ("train", "test"))
    kinds = {"vectors": {}, "with coarse class": {"coarse": "category"}}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(training)
        few = np.concatenate([order[own[order] == label][:5] for label in np.unique(own[training])])
        for name, kind in kinds.items():
            columns = Metadata(columns=kind)
            halves = (np.sort(few), test)
            found[name].append(of_heads(vectors, names, texts, columns, halves=halves, seed=seed))
    say(report, "grocery, five photos per class", "vectors", found)
    mine = {name: column.take(pa.array(training)) for name, column in texts.items()}
    both = Metadata(columns={"coarse": "category", "description": "text"})
    line = leak_rows(mine, both, [names[row] for row in training.tolist()], None)
    report.facts["grocery-leaks"] = line
    report.say(f"grocery, alone, photos held out at random: {line}")


def say(report: harness.Report, title: str, base: str, found: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """A table of accuracy, mean accuracy over classes, and the difference of the former to a row, paired by seed."""
    report.facts[title] = {name: list(values) for name, values in found.items()}
    lines = []
    for name, values in found.items():
        gaps = [one[0] - other[0] for one, other in zip(values, found[base], strict=True)]
        low, high = harness.bootstrap(gaps)
        gap = "" if name == base else f"{statistics.fmean(gaps):+.1f} [{low:+.1f}, {high:+.1f}]"
        cells = (harness.mean_and_deviation([one[k] for one in values]) for k in (0, 1))
        lines.append(harness.Line(name, (*cells, gap)))
    report.say(harness.markdown(title, ["top-1", "balanced", f"top-1 − {base}"], lines))


def vectors_at(folder: Path) -> Path:
    """The folder with the vectors of both data sets, computed where they are missing."""
    timm = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(find_weights(None))}
    workers = {"rows_per_part": 512, "max_workers": 2}
    base = {"cluster": {"num_cpus": 2}, "embed": {"vectors": timm, "workers": workers}}
    first, _ = clothing.write_split(folder / "clothing", 0)
    listed = folder / "grocery" / "photos.csv"
    listed.parent.mkdir(parents=True, exist_ok=True)
    root = harness.DATA / "grocery-store" / "dataset"
    with listed.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["uri", "split"])
        for split in ("train", "test"):
            for line in (root / f"{split}.txt").read_text().splitlines():
                out.writerow([str(root / line.partition(",")[0]), split])
    second = merge(first, {"ingest": {"source": {"kind": "table", "path": str(listed)}}})
    with ray_session(build(merge(base, first)).cluster):
        clothing.write_vectors(merge(base, first), folder / "clothing")
        clothing.write_vectors(merge(base, second), folder / "grocery")
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    tables = ["birds", "clothing", "grocery"]
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    parser.add_argument("--pretrain", type=int, default=0, help="epochs of contrastive pre-training of the birds")
    parser.add_argument("--vectors", type=Path, default=Path("runs/metadata"), help="default: %(default)s")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with harness.reporting(args) as report:
        if "birds" in args.tables:
            each = [birds(seed, pretrain=args.pretrain) for seed in args.seeds]
            report.facts["birds"] = each
            rows = [name for name in each[0] if "," not in name.removeprefix("fused, month hidden")]
            lines = [
                harness.Line(
                    name,
                    tuple(
                        harness.mean_and_deviation([one[key] for one in each])
                        for key in (name, f"{name}, within pairs", f"{name}, pair")
                    ),
                )
                for name in rows
            ]
            report.say(harness.markdown("drawn birds", ["all classes", "within pairs", "pair"], lines))
        folder = args.vectors.expanduser().absolute()
        named = {name: folder / name / "vectors.npz" for name in ("clothing", "grocery")}
        if any(name in args.tables and not file.exists() for name, file in named.items()):
            vectors_at(folder)
        if "clothing" in args.tables:
            of_clothing(named["clothing"], args.seeds, report)
        if "grocery" in args.tables:
            of_grocery(named["grocery"], args.seeds, report)


if __name__ == "__main__":
    main()
