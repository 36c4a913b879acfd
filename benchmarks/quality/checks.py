"""Data checks on real photos: what is found, and what a random split hides that a split by sender shows.

    python -m benchmarks.quality.checks                          # counts: a few minutes; splits: two minutes
    python -m benchmarks.quality.checks --tables counts --sets birds

Data: `$FGVR_DATA/clothing`, `birds`, `grocery-store`. counts: rows of the table `findings` per issue, with the default
thresholds, which were chosen by a look at these photos.
splits: clothing, photos whose label names a piece of clothing, EfficientNet-Lite0 vectors (as in
benchmarks.quality.clothing). Per seed 30% become the test split, once photo by photo and once by sender
(`ingest.source.test_share`, `group_column`); prototypes and a trained head learn from the others. Differences are
random − by sender, paired by seed, with the 95% interval of their mean.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from benchmarks import harness
from benchmarks.quality.clothing import FOLDER, NO_NAMES, TEST_SHARE, write_split, write_vectors
from benchmarks.quality.photo_tables import find_weights
from cluster.session import ray_session
from fgvr.arrays import Floats, Ids
from fgvr.checks.findings import Issue, Photos, findings
from fgvr.checks.photo_facts import CheckWorker
from fgvr.config import build
from fgvr.config.check import Check
from fgvr.config.data import FolderSource, ImageLimits, TableSource
from fgvr.config.tree import merge
from fgvr.heads.prototypes import prototypes
from fgvr.heads.training import HeadExamples, HeadRecipe, train_head
from fgvr.selection.whitening import centre
from fgvr.sources.source import read_source

THREADS: Final = len(os.sched_getaffinity(0))
SETS: Final = ("clothing", "birds", "grocery")


def source_of(name: str) -> TableSource | FolderSource:
    """The photos of a set; clothing has one split, the others those of their folders or files."""
    if name == "grocery":
        return FolderSource(path=str(harness.DATA / "grocery-store" / "dataset"), split_from="top")
    return TableSource(path=str(harness.DATA / name / f"{name}.csv"), class_column="class_name")


def photos_of(rows: pa.Table) -> Photos:
    """The measures of listed photos."""
    ids = np.arange(rows.num_rows, dtype=np.int64)
    checks = CheckWorker(ImageLimits(), THREADS).process(pa.table({"image_id": ids, "uri": rows["uri"]}))
    return Photos(checks, rows["split"].to_pylist(), rows["class_name"].to_pylist())


def split_by(seed: int, column: str | None) -> set[str]:
    """URIs of the test photos of clothing, drawn by ingest itself."""
    source = TableSource(path=str(FOLDER / "clothing.csv"), group_column=column, test_share=TEST_SHARE, test_seed=seed)
    rows = read_source(source, "").rows
    return {
        uri for uri, split in zip(rows["uri"].to_pylist(), rows["split"].to_pylist(), strict=True) if split == "test"
    }


def accuracies(vectors: Floats, classes: Ids, test: np.ndarray, count: int, seed: int) -> dict[str, float]:
    """Accuracy of prototypes and of a head on the test photos, in percent."""
    centred = centre(vectors, vectors[~test].mean(axis=0))
    own, known = centred[~test], classes[~test]
    made = prototypes(own, known, count)
    by_prototype = made.label_ids[(centred[test] @ made.directions.T).argmax(axis=1)]
    given, columns = np.unique(known, return_inverse=True)
    network, _ = train_head(HeadExamples.of_labels(own, columns, len(given)), HeadRecipe(), seed=seed, threads=THREADS)
    with torch.no_grad():
        by_head = given[network(torch.from_numpy(centred[test])).argmax(dim=1).numpy()]
    return {
        "prototypes": 100 * float((by_prototype == classes[test]).mean()),
        "head": 100 * float((by_head == classes[test]).mean()),
    }


def leaking(photos: Photos, rows: Ids, test: np.ndarray) -> np.ndarray:
    """Which of the test photos have a near-duplicate in training: bool [number of test photos]."""
    checks = photos.checks.take(pa.array(rows))
    splits = ["test" if tested else "train" for tested in test.tolist()]
    found = findings(Photos(checks, splits, [photos.classes[row] for row in rows.tolist()]), Check())
    torn = found.filter(pc.equal(found["issue"], Issue.ACROSS_SPLITS.value))["image_id"].to_numpy()
    return np.isin(rows[test], torn)


def measured_splits(seeds: Sequence[int], out: Path, weights: Path | None) -> list[dict[str, dict[str, float]]]:
    """Per seed, of each way to split: accuracies, number of test photos, and how many of them leak."""
    timm = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(find_weights(weights))}
    pools = {"rows_per_part": 512, "max_workers": 2}
    tree: dict[str, Any] = {"cluster": {"num_cpus": 2}, "embed": {"vectors": timm, "workers": pools}}
    tree = merge({**tree, "run": {"max_error_share": 0.1}}, write_split(out, 0)[0])
    with ray_session(build(tree).cluster):
        stored = np.load(write_vectors(tree, out))
    vectors = dict(zip(stored["uri"].tolist(), stored["vectors"].astype(np.float32), strict=True))
    rows = read_source(source_of("clothing"), "").rows
    names = rows["class_name"].to_pylist()
    numbers = {name: number for number, name in enumerate(sorted({*names} - {None}))}
    uris = rows["uri"].to_pylist()
    with (FOLDER / "clothing.csv").open(newline="") as listed:
        senders = {str(FOLDER / row["uri"]): row["sender_id"] for row in csv.DictReader(listed)}
    kept = np.array([n for n, uri in enumerate(uris) if names[n] not in {None, *NO_NAMES} and uri in vectors])
    photos = photos_of(rows)
    matrix, classes = np.stack([vectors[uris[n]] for n in kept]), np.array([numbers[names[n]] for n in kept])
    found = []
    for seed in seeds:
        cells = {}
        for way, column in (("random", None), ("by sender", "sender_id")):
            drawn = split_by(seed, column)
            test = np.array([uris[n] in drawn for n in kept])
            torn = {senders[uris[n]] for n in kept[test]} & {senders[uris[n]] for n in kept[~test]}
            leak = leaking(photos, kept, test)
            facts = {"test photos": int(test.sum()), "leaking": int(leak.sum()), "torn senders": len(torn)}
            cells[way] = {**accuracies(matrix, classes, test, len(numbers), seed), **facts}
        found.append(cells)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--tables", nargs="+", choices=["counts", "splits"], default=["counts", "splits"])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--weights", type=Path, help="file of EfficientNet-Lite0's weights")
    parser.add_argument("--out", type=Path, default=Path("runs/clothing"), help="folder of the vectors' run")
    args = parser.parse_args(arguments)
    with harness.reporting(args) as report:
        if "counts" in args.tables:
            lines = {}
            for name in args.sets:
                rows = read_source(source_of(name), "").rows
                photos = photos_of(rows)
                counts = Counter(findings(photos, Check())["issue"].to_pylist())
                lines[name] = {"photos": rows.num_rows, **counts}
            report.facts["counts"] = lines
            heads = ["photos", *(issue.value for issue in Issue)]
            cells = [harness.Line(name, tuple(f"{of.get(head, 0):,}" for head in heads)) for name, of in lines.items()]
            report.say(harness.markdown("issues", heads, cells))
        if "splits" in args.tables:
            each = measured_splits(args.seeds, args.out.expanduser().absolute(), args.weights)
            report.facts["splits"] = each
            table = []
            for metric in each[0]["random"]:
                gaps = [one["random"][metric] - one["by sender"][metric] for one in each]
                low, high = harness.bootstrap(gaps)
                both = [harness.mean_and_deviation([one[way][metric] for one in each]) for way in each[0]]
                table.append(harness.Line(metric, (*both, f"{np.mean(gaps):+.1f} [{low:+.1f}, {high:+.1f}]")))
            report.say(harness.markdown("clothing", ["random", "by sender", "random − by sender"], table))


if __name__ == "__main__":
    main()
