"""The driver's own work per row, without Ray: naming of answers, ids of a split, m images per class.

    python -m benchmarks.scale.driver_rows --rows 10000 100000 1000000

CPU seconds, peak memory in MiB above that before, and the exponent of the seconds' growth from the size before. Answers
are made up: a thousand names, and two unique ones per thousand rows; 20,000 classes.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import harness
from fgvr import schemas, tables
from fgvr.config import Discovery
from fgvr.names.label_space import build_label_space, count_items, label_rows
from fgvr.names.merging import NameEncoder, merge_aliases
from fgvr.sources.sampling import discovery_ids, split_ids
from fgvr.tables import Table

ANSWERS_A_PART, SAMPLES_A_PART = 1024, 65_536
COLUMNS = ["image_id", "split", "class_id"]


def answers(folder: Path, rows: int, rng: np.random.Generator) -> Table:
    """Made-up answers, with one unique name per five hundred."""
    for number, start in enumerate(range(0, rows, ANSWERS_A_PART)):
        ids = range(start, min(start + ANSWERS_A_PART, rows))
        rare = rng.random(len(ids)) < 0.002
        kinds = rng.integers(0, 1000, len(ids))
        names = [f"Rarity {n:012x}" if one else f"Kind {kind}" for n, one, kind in zip(ids, rare, kinds, strict=True)]
        part = {
            "image_id": ids,
            "texts": [[name] for name in names],
            "cut": [[False]] * len(ids),
            "logprobs": [[-1.0]] * len(ids),
            "prompt_tokens": [272] * len(ids),
            "output_tokens": [8] * len(ids),
            "error": pa.nulls(len(ids), schemas.ERROR.type),
        }
        tables.write_part(str(folder), number, pa.table(part, schema=schemas.ANSWERS))
    return Table(str(folder), "answers", "f", rows, 0, -(-rows // ANSWERS_A_PART), ANSWERS_A_PART, 0.0)


def samples(folder: Path, rows: int, rng: np.random.Generator) -> Table:
    """Made-up samples of 20,000 classes, all in the split `train`."""
    for number, start in enumerate(range(0, rows, SAMPLES_A_PART)):
        count = min(SAMPLES_A_PART, rows - start)
        classes = pa.array(rng.integers(0, 20_000, count), pa.int32())
        part = {"image_id": range(start, start + count), "split": ["train"] * count, "class_id": classes}
        tables.write_part(str(folder), number, pa.table(part))
    return Table(str(folder), "samples", "f", rows, 0, -(-rows // SAMPLES_A_PART), SAMPLES_A_PART, 0.0)


def name(table: Table, folder: Path) -> None:
    """What `pipelines.label.name_answers` computes."""
    items = count_items(table.batches(), 1)
    named = build_label_space(items, None, lambda uses: merge_aliases(uses, unneeded, 1.0))
    for number, part in enumerate(table.batches()):
        tables.write_part(str(folder), number, label_rows(part, named))


def unneeded() -> NameEncoder:
    """Replaces the encoder; raises if it is called."""
    raise RuntimeError("at a similarity of 1 no text embeddings are needed")


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    args = parser.parse_args()
    with harness.reporting(args) as report:
        measure(
            args.rows, report.table({"": "<22", "rows": ">10,", "CPU s": ">9.2f", "exponent": ">10.2f", "MiB": ">7.0f"})
        )


def measure(sizes: Sequence[int], table: harness.Table) -> None:
    """Rows of the table, size by size."""
    before: dict[str, float] = {}
    for place, rows in enumerate(sizes):
        with tempfile.TemporaryDirectory() as scratch:
            folder, rng = Path(scratch), np.random.default_rng(0)
            given, listed = answers(folder / "answers", rows, rng), samples(folder / "samples", rows, rng)
            works: dict[str, Callable[[], object]] = {
                "labels of answers": partial(name, given, folder / "labels"),
                "ids of a split": partial(split_ids, listed, ["train"]),
                "five images per class": partial(discovery_ids, listed.batches(COLUMNS), Discovery(per_class=5)),
            }
            for what, work in works.items():
                harness.forget_peak()
                held, started = harness.peak_mib(), time.process_time()
                work()
                seconds = time.process_time() - started
                exponent = None
                if place:
                    exponent = math.log(seconds / before[what]) / math.log(rows / sizes[place - 1])
                table.row(what, rows, seconds, exponent, harness.peak_mib() - held)
                before[what] = seconds


if __name__ == "__main__":
    main()
