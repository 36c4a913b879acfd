"""Writes a drawn field guide: JPEG files, a split file and the aspect questions.

    python -m fgvr.demo.field_guide OUT --train-per-class 10 --test-per-class 20 --difficulty 2 --seed 0

OUT may be a folder or any fsspec address (``s3://bucket/birds``). It gets ``images/<split>/<thousand>/<index>.jpg``,
``samples.csv`` (``uri,split,class_id,class_name``, uris relative to the file's own folder) and ``questions.txt``, one
question per line. File names say nothing about the class.
"""

import argparse
import csv
import io
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import fsspec

from fgvr import storage
from fgvr.demo.drawn_files import HEADER, QUESTIONS_FILE, SAMPLES, first_entry, is_field_guide
from fgvr.demo.questions import QUESTIONS
from fgvr.demo.samples import DEMO_DIFFICULTY, class_of, sample
from fgvr.demo.species import SPECIES

SHARD = 1000
"""Number of drawings in one subfolder, and in one task of a worker process."""

DEFAULT_PER_CLASS: Mapping[str, int] = {"train": 10, "test": 20}


def write_field_guide(
    folder: str | os.PathLike[str],
    *,
    per_class: Mapping[str, int] = DEFAULT_PER_CLASS,
    difficulty: float = DEMO_DIFFICULTY,
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Draw and write a whole field guide; existing files of the same names are overwritten.

    The caller must check the folder's content first (`may_draw`).

    Args:
        folder: a path or an fsspec address.
        per_class: number of drawings of every species, by split name.
        difficulty: strength of pose, light, occlusion and noise (0: none; the models are trained at 1).
        seed: different seeds give different drawings; the same seed gives the same bytes.
        workers: number of processes that draw; 1: only this one.

    Returns:
        Address of the split file, ``<folder>/samples.csv``.

    Raises:
        ValueError: a split name is empty or contains "/", or a count or the difficulty is negative.
    """
    _check(per_class, difficulty)
    root = os.fspath(folder).rstrip("/")
    shards = [
        Shard(root, seed, split, start, min(start + SHARD, count * len(SPECIES)), difficulty)
        for split, count in per_class.items()
        for start in range(0, count * len(SPECIES), SHARD)
    ]
    if workers == 1:
        for shard in shards:
            write_shard(shard)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for _ in pool.map(write_shard, shards):
                pass
    _write(f"{root}/{QUESTIONS_FILE}", _questions())
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(HEADER)
    rows.writerows(_rows(per_class, seed))
    _write(f"{root}/{SAMPLES}", table.getvalue().encode())  # last: a split file means that all images exist
    return f"{root}/{SAMPLES}"


def may_draw(folder: str) -> bool:
    """Whether a folder is empty, or holds a field guide whose questions nobody has changed."""
    if first_entry(folder) is None:
        return True
    return is_field_guide(folder) and has_own_questions(folder)


def has_own_questions(folder: str) -> bool:
    """Whether a field guide's folder has its original questions, or none yet."""
    questions = storage.join(folder, QUESTIONS_FILE)
    return not storage.exists(questions) or _questions().startswith(storage.read_bytes(questions))


def _questions() -> bytes:
    return "".join(f"{question.text}\n" for question in QUESTIONS).encode()


@dataclass(frozen=True)
class Shard:
    """The samples ``start`` … ``stop − 1`` of a split, and where their images go."""

    folder: str
    seed: int
    split: str
    start: int
    stop: int
    difficulty: float


def write_shard(shard: Shard) -> None:
    """Draw and write the images of a shard."""
    filesystem, root = fsspec.core.url_to_fs(shard.folder)
    uris = {index: f"{root}/{image_uri(shard.split, index)}" for index in range(shard.start, shard.stop)}
    for parent in {uri.rpartition("/")[0] for uri in uris.values()}:
        filesystem.makedirs(parent, exist_ok=True)
    for index, uri in uris.items():
        filesystem.pipe_file(uri, sample(shard.seed, shard.split, index, difficulty=shard.difficulty).jpeg())


def image_uri(split: str, index: int) -> str:
    """URI of a drawing, relative to the field guide's folder."""
    return f"images/{split}/{index // SHARD:04d}/{index:07d}.jpg"


def _rows(per_class: Mapping[str, int], seed: int) -> Iterator[tuple[str, str, int, str]]:
    for split, count in per_class.items():
        for index in range(count * len(SPECIES)):
            class_id = class_of(seed, split, index)
            yield image_uri(split, index), split, class_id, SPECIES[class_id].name


def _write(address: str, data: bytes) -> None:
    filesystem, path = fsspec.core.url_to_fs(address)
    filesystem.pipe_file(path, data)


def _check(per_class: Mapping[str, int], difficulty: float) -> None:
    for split, count in per_class.items():
        if not split or "/" in split:
            raise ValueError(f"the split name {split!r} becomes a folder: it needs at least one character and no '/'")
        if count < 0:
            raise ValueError(f"{count} drawings per class of split {split!r}: the count cannot be negative")
    if difficulty < 0:
        raise ValueError(f"difficulty {difficulty} is negative; 0 is a plain studio picture, 1 the training setting")


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("out", help="folder or fsspec address, e.g. birds/ or s3://bucket/birds")
    parser.add_argument(
        "--train-per-class",
        type=int,
        default=DEFAULT_PER_CLASS["train"],
        help="training drawings per species (default: %(default)s)",
    )
    parser.add_argument(
        "--test-per-class",
        type=int,
        default=DEFAULT_PER_CLASS["test"],
        help="test drawings per species (default: %(default)s)",
    )
    parser.add_argument(
        "--difficulty",
        type=float,
        default=DEMO_DIFFICULTY,
        help="strength of pose, light, occlusion and noise (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other drawings (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw (default: %(default)s)")
    args = parser.parse_args(arguments)
    per_class = {"train": args.train_per_class, "test": args.test_per_class}
    if not may_draw(args.out):
        parser.error(
            f"{args.out}: neither empty nor a field guide as it was drawn; name another folder, or remove one cut short"
        )
    started = time.perf_counter()
    path = write_field_guide(
        args.out, per_class=per_class, difficulty=args.difficulty, seed=args.seed, workers=args.workers
    )
    count, seconds = len(SPECIES) * sum(per_class.values()), time.perf_counter() - started
    print(f"{path}: {count} drawings of {len(SPECIES)} species in {seconds:.1f} s ({count / seconds:.0f}/s)")


if __name__ == "__main__":
    main()
