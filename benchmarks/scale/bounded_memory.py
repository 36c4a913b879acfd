"""Steps that hold rows in one process, without Ray: seconds and memory at 100 thousand, 1 million and 10 million rows.

    export OMP_NUM_THREADS=1
    python -m benchmarks.scale.bounded_memory --folder /data/bounded --rows 100000 1000000
    python -m benchmarks.scale.bounded_memory --folder /data/bounded --rows 10000000 --steps tables ingest makd
    python -m benchmarks.scale.bounded_memory --folder /data/bounded --table          # of all measurements so far
    python -m benchmarks.scale.bounded_memory --folder /data/bounded --plot memory.png

The functions are the pipeline's own; the tables they read are made up: 20,000 classes, a tenth of the rows in the
split `test`, answers to 16 questions about 100,000 images, vectors of 16 numbers, of which 100,000 are asked for,
names of 1,000 kinds. Each step runs in a process of its own. `MiB` is its anonymous memory (RssAnon, every 10 ms)
beyond that after its imports; mapped files do not count, because the system can reclaim them.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import harness
from cluster.heartbeat import beating
from fgvr import schemas, tables
from fgvr.clip.vectors import read_vectors
from fgvr.config.data import TableSource
from fgvr.evaluation.images import choose_images, names_of
from fgvr.losses.makd import aspect_counts
from fgvr.mllm.openai_server.cache import ReplyCache
from fgvr.models.near import ClassFeatures
from fgvr.sources.sampling import split_ids
from fgvr.sources.source import read_source
from fgvr.tables import Table
from fgvr.training.assemble import HeldOut, answers_of, assemble, class_rows, pool_targets, true_classes
from fgvr.training.examples import Examples, MappedUris
from fgvr.training.pool_targets import best_names
from fgvr.training.targets import true_targets

CLASSES, QUESTIONS, DIM, SOME, KINDS = 20_000, 16, 16, 100_000, 1_000
PART = 65_536


@dataclass(frozen=True)
class Measured:
    """The measurements of a step; see the module's docstring."""

    rows: int
    seconds: float
    mib: float


def rows_of(folder: Path) -> int:
    """Rows of the tables in a folder, by its name."""
    return int(folder.name)


def check(right: bool) -> None:
    """Raise where a step gave what it must not give."""
    if not right:
        raise ValueError("what was read is not what was written")


def parts_of(rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Number and ids of each part."""
    for number, start in enumerate(range(0, rows, PART)):
        yield number, np.arange(start, min(start + PART, rows))


def make_tables(folder: Path) -> None:
    """Write the made-up tables that the other steps read; not measured."""
    rows = rows_of(folder)
    rng = np.random.default_rng(0)
    names = np.array([f"Genus species {number:05d}" for number in range(CLASSES)], dtype=object)
    kinds = np.array([f"Kind {number}" for number in range(KINDS)], dtype=object)
    asked = np.sort(rng.choice(rows, size=min(SOME, rows), replace=False))
    errors = pa.nulls(PART, schemas.ERROR.type)
    for number, ids in parts_of(rows):
        count = len(ids)
        classes = rng.integers(0, CLASSES, count)
        sample = {
            "image_id": ids,
            "uri": [f"s3://photos/of/somebody/2026/{image:09d}.jpg" for image in ids],
            "split": np.where(ids % 10 == 9, "test", "train"),
            "class_id": pa.array(classes, pa.int32()),
            "class_name": names[classes],
            "metadata": pa.nulls(count, pa.string()),
        }
        tables.write_part(str(folder / "samples"), number, pa.table(sample, schema=schemas.SAMPLES))
        halfs = rng.standard_normal((count, DIM)).astype("<f2")
        vectors = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * DIM), count, [None, pa.py_buffer(halfs.tobytes())])
        part = [pa.array(ids), vectors, errors.slice(0, count)]
        tables.write_part(str(folder / "embeddings"), number, pa.table(part, schema=schemas.embeddings(DIM)))
        predicted = {"image_id": ids, "label": kinds[rng.integers(0, KINDS, count)], "abstained": np.zeros(count, bool)}
        tables.write_part(str(folder / "predictions"), number, pa.table(predicted))
    for number, start in enumerate(range(0, len(asked), PART)):
        ids = asked[start : start + PART]
        p_yes = pa.array(list(rng.random((len(ids), QUESTIONS), dtype=np.float32)), pa.list_(pa.float32()))
        good = pa.table({"image_id": ids, "p_yes": p_yes, "error": errors.slice(0, len(ids))})
        tables.write_part(str(folder / "aspects"), number, good)
    with (folder / "photos.csv").open("w", newline="") as file:
        listed = csv.writer(file)
        listed.writerow(["uri", "class_name"])
        for _, ids in parts_of(rows):
            listed.writerows(
                [f"s3://photos/{image * 2654435761 % 2**32:08x}.jpg", names[image % CLASSES]] for image in ids
            )
    for name, of in (("samples", rows), ("embeddings", rows), ("predictions", rows), ("aspects", len(asked))):
        Table(str(folder / name), name, "f", of, 0, -(-of // PART), PART, 0.0).commit()


def opened(folder: Path, name: str) -> Table:
    """A table of the folder."""
    return Table.load(str(folder / name))


def ingest(folder: Path) -> None:
    """A CSV becomes the samples table, part by part."""
    listed = read_source(TableSource(path=str(folder / "photos.csv")), str(folder))
    for number, part in enumerate(listed.parts(PART)):
        tables.write_part(str(folder / "listed"), number, part)


def ids(folder: Path) -> None:
    """Ids of a split, and the discovery images."""
    split_ids(opened(folder, "samples"), ["train"])


def makd(folder: Path) -> None:
    """Examples of a student that learns true classes."""
    samples = opened(folder, "samples")
    found = class_rows(samples, "train")
    targets = true_targets(true_classes(found))
    answers = answers_of(found["image_id"].to_numpy(), opened(folder, "aspects"), QUESTIONS)
    training_set = assemble(found, targets, answers, HeldOut(0.05, 0), "v1", samples=samples)
    training_set.examples.write(str(folder / "examples"))
    training_set.table({})


def pool(folder: Path) -> None:
    """Targets of a student that learns the probabilities of names, from stored vectors and then from their table."""
    text = np.random.default_rng(0).standard_normal((100, DIM)).astype(np.float32)
    labels = tuple(f"Kind {number}" for number in range(100))
    classes = ClassFeatures(labels, text, 10.0)
    everyone = split_ids(opened(folder, "samples"), ["train"])
    starts = range(0, len(everyone), PART)
    for number, start in enumerate(starts):
        here = everyone[start : start + PART]
        named = best_names(classes.scores(read_vectors(opened(folder, "embeddings"), here)[0]), 2.0)
        rows = {
            "image_id": here,
            "label_ids": pa.array(list(named.label_ids), pa.list_(pa.int32())),
            "probabilities": pa.array(list(named.probabilities), pa.list_(pa.float32())),
            "weight": named.probabilities[:, 0],
            "kind": pa.array(["near"] * len(here)),
            "standing": pa.nulls(len(here), pa.string()),
            "error": pa.nulls(len(here), schemas.ERROR.type),
        }
        tables.write_part(str(folder / "pool"), number, pa.table(rows, schema=schemas.POOL))
    made = Table(str(folder / "pool"), "pool", "f", len(everyone), 0, len(starts), PART, 0.0, extra={"by": "near"})
    pool_targets(made, labels)


def worker(folder: Path) -> None:
    """The examples that a worker of makd holds, before its images."""
    import torch

    examples = Examples.read(str(folder / "examples"))
    uris = examples.uris
    assert isinstance(uris, MappedUris)  # noqa: S101 - of examples that were read
    cells = np.zeros(len(examples), np.int32)
    for places, values in examples.answers.blocks():
        p_yes = torch.from_numpy(values)
        cells[places] = aspect_counts(p_yes, ~p_yes.isnan(), "bce").numpy()
    order = np.random.default_rng(0).permutation(np.flatnonzero(~examples.held_out))
    for start in range(0, 100 * 128, 128):
        batch = np.sort(order[start : start + 128])
        check(len(uris.read(batch)) == len(examples.p_yes[batch]) == len(examples.classes[batch]))


def evaluate(folder: Path) -> None:
    """Ten thousand images of the split, and the names that a method gave them."""
    samples = opened(folder, "samples")
    columns = ["image_id", "split", "class_name"]
    chosen = choose_images(samples.batches(columns), np.arange(100), split="test", max_images=10_000, seed=0)
    names_of(opened(folder, "predictions").find(chosen.ids), chosen.ids)


def vectors(folder: Path) -> None:
    """Vectors of images that lie together."""
    rows = rows_of(folder)
    wanted = np.arange(rows // 2, rows // 2 + min(SOME, rows // 2))
    _, found = read_vectors(opened(folder, "embeddings"), wanted)
    check(bool(found.all()))


def scattered(folder: Path) -> None:
    """Vectors of images all over the table."""
    _, found = read_vectors(opened(folder, "embeddings"), np.random.default_rng(1).choice(rows_of(folder), SOME))
    check(bool(found.all()))


def replies(folder: Path) -> None:
    """Kept, and every hundredth found by a process that did not keep them."""
    place, body = str(folder / "replies"), json.dumps({"choices": [{"message": {"content": "Yes"}}]}).encode()
    cache, rows = ReplyCache(place), rows_of(folder)
    for number in range(rows):
        cache.keep(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4, body)
    reader = ReplyCache(place)
    for number in range(0, rows, 100):
        check(reader.find(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4) == body)


STEPS: dict[str, Callable[[Path], None]] = {
    "tables": make_tables,
    "ingest": ingest,
    "ids": ids,
    "makd": makd,
    "pool": pool,
    "worker": worker,
    "evaluate": evaluate,
    "vectors": vectors,
    "scattered": scattered,
    "replies": replies,
}


def measure(step: str, folder: Path) -> Measured:
    """Seconds of a step, and its anonymous memory beyond what was held before."""
    held, seen = harness.anonymous_mib(), [0.0]
    started = time.monotonic()
    with beating(lambda: seen.append(harness.anonymous_mib()), 0.01):
        STEPS[step](folder)
        seconds = time.monotonic() - started
    return Measured(rows_of(folder), seconds, max(seen) - held)


def measured(folder: Path) -> dict[str, list[Measured]]:
    """The measurements of each step, by number of rows."""
    found = {step: list(folder.glob(f"*/{step}.json")) for step in STEPS if step != "tables"}
    read = {step: [Measured(**json.loads(file.read_text())) for file in files] for step, files in found.items()}
    return {step: sorted(values, key=lambda value: value.rows) for step, values in read.items() if values}


def as_table(folder: Path) -> str:
    """One line per step and size, with the bytes per further row."""
    lines = [f"{'step':<14}{'rows':>12}{'seconds':>9}{'MiB':>8}{'more bytes per row':>18}"]
    for step, values in measured(folder).items():
        before: Measured | None = None
        for value in values:
            slope = "" if before is None else f"{(value.mib - before.mib) * 2**20 / (value.rows - before.rows):.1f}"
            lines.append(f"{step:<14}{value.rows:>12,}{value.seconds:>9.1f}{value.mib:>8.0f}{slope:>18}")
            before = value
    return "\n".join(lines)


def plot(folder: Path, file: Path) -> None:
    """Draw MiB against rows, both logarithmic."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for step, values in measured(folder).items():
        axes.loglog([value.rows for value in values], [max(value.mib, 1) for value in values], marker="o", label=step)
    axes.set(xlabel="rows", ylabel="MiB beyond the imports")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[])
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", type=Path, help="draw MiB against rows into this file")
    parser.add_argument("--here", action="store_true", help=harness.HIDDEN)
    args = parser.parse_args()
    for rows in args.rows:
        folder = args.folder / str(rows)
        folder.mkdir(parents=True, exist_ok=True)
        for step in args.steps:
            if args.here:
                (folder / f"{step}.json").write_text(json.dumps(asdict(measure(step, folder))))
            else:
                harness.again("--folder", args.folder, "--rows", rows, "--steps", step, "--here")
    if args.plot:
        plot(args.folder, args.plot)
    if args.here:
        harness.answer(None)
        return
    with harness.reporting(args) as report:
        report.say(as_table(args.folder))


if __name__ == "__main__":
    main()
