"""Heads for rare names, and labels that are probably wrong, on real product photos with the labels of their senders.

    python -m benchmarks.quality.clothing                          # five splits, a quarter of an hour
    python -m benchmarks.quality.clothing --seeds 0 --tables heads

Data: `$FGVR_DATA/clothing`, 5,398 photos of 348 people; 20 labels between 1,011 photos (T-Shirt) and 7, among them
"Not sure", "Skip" and "Other". Vectors: EfficientNet-Lite0, as in benchmarks.quality.birds, computed once by the
pipeline and given to all splits as a file of vectors. Photos are split by the person who sent them, about 30% for
testing: else training and test photos would be of the same clothes. Labels are a file of answers (`label.sources`).

heads: accuracy and balanced accuracy (mean over classes) on test photos whose label names a piece of clothing.
Differences of balanced accuracy are paired by split with cross entropy, with the 95% interval of their mean. issues:
how the table `issues` ranks labels that were replaced by a wrong one, one in ten at random (an area under the ROC curve
that counts the data's own mistakes as right), and which share of the worst tenth is called "Skip" or "Other".
("Not sure" is a refusal to the reader of answers: these photos have no label.) Nothing is chosen by these numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks import harness
from benchmarks.papers.data_sets import ending_in_words
from benchmarks.papers.near_rows import Row
from benchmarks.papers.near_runs import DataSetRuns, open_data_set
from benchmarks.quality.photo_tables import find_weights, gap_table
from cluster.console import show_progress
from cluster.session import ray_session
from fgvr.config import build
from fgvr.config.tree import merge
from fgvr.tables import vectors

FOLDER: Final = harness.DATA / "clothing"
NO_NAMES: Final = ("Not sure", "Skip", "Other")
TEST_SHARE: Final = 0.3
WRONG_SHARE: Final = 0.1
BASE: Final = "heads, CE"
ROWS: Final = (
    Row("prototypes", "label_prototypes"),
    Row(BASE, "heads", {"heads": {"loss": "ce"}}),
    Row("heads, GCE", "heads", {"heads": {"loss": "gce"}}),
    Row("heads, balanced", "heads", {"heads": {"loss": "balanced"}}),
    Row("heads, seesaw", "heads", {"heads": {"loss": "seesaw"}}),
    Row("heads, balanced, five members", "heads", {"heads": {"loss": "balanced", "members": 5}}),
)


def read_rows() -> list[dict[str, str]]:
    """The rows of clothing.csv, with absolute URIs."""
    with (FOLDER / "clothing.csv").open(newline="") as listed:
        return [{**row, "uri": str(FOLDER / row["uri"])} for row in csv.DictReader(listed)]


def test_senders(rows: Sequence[Mapping[str, str]], seed: int) -> set[str]:
    """People, drawn at random, whose photos are at least `TEST_SHARE` of all."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["sender_id"]] = counts.get(row["sender_id"], 0) + 1
    chosen: set[str] = set()
    taken = 0
    for sender in np.random.default_rng(seed).permutation(sorted(counts)).tolist():
        if taken >= TEST_SHARE * len(rows):
            break
        chosen.add(sender)
        taken += counts[sender]
    return chosen


def write_split(folder: Path, seed: int, *, wrong: float = 0.0) -> tuple[dict[str, Any], set[str]]:
    """Write the photos and their labels of one split.

    Args:
        folder: where.
        seed: of the split, and of the labels that are replaced.
        wrong: share of the training labels that are replaced by another label, at random.

    Returns:
        The changes of the config, and the URIs of the replaced labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows()
    test, rng = test_senders(rows, seed), np.random.default_rng(seed)
    names = sorted({row["class_name"] for row in rows} - set(NO_NAMES))
    photos, answers, replaced = folder / f"photos-{seed}.csv", folder / f"labels-{seed}-{wrong}.csv", set()
    with photos.open("w", newline="") as one, answers.open("w", newline="") as other:
        listed, said = csv.writer(one), csv.writer(other)
        listed.writerow(["uri", "split", "class_name"])
        said.writerow(["uri", "answer"])
        for row in rows:
            label, split = row["class_name"], "test" if row["sender_id"] in test else "train"
            # Without a class name a photo is not scored.
            listed.writerow([row["uri"], split, "" if label in NO_NAMES else label])
            if label not in NO_NAMES and split == "train" and rng.random() < wrong:
                label = str(rng.choice([name for name in names if name != label]))
                replaced.add(row["uri"])
            said.writerow([row["uri"], label])
    changes = {
        "ingest": {"source": {"kind": "table", "path": str(photos)}},
        "label": {"sources": [{"kind": "file", "path": str(answers)}], "images": {"max_images": None}},
    }
    return changes, replaced


def write_vectors(tree: dict[str, Any], out: Path) -> Path:
    """Compute the vectors of all photos once, as a file that serves every split."""
    file = out / "vectors.npz"
    if not file.exists():
        with open_data_set(tree, "vectors", str(out)) as runs:
            samples, embedded = runs.table("samples").read(["uri"]), runs.table("embeddings").read()
        good = np.array(embedded["error"].is_null())
        uris = np.array(samples["uri"].filter(good).to_pylist())
        np.savez(file, vectors=vectors(embedded["vector"].filter(good)), uri=uris)
    return file


def ranked(runs: DataSetRuns, changes: Mapping[str, Any], replaced: set[str]) -> dict[str, float]:
    """How the table `issues` ranks the replaced labels."""
    found = runs.table("issues", changes).read(["image_id", "label", "score"])
    found = found.filter(found["score"].is_valid())
    uris = runs.table("samples", changes).take(found["image_id"].to_numpy(), ["uri"])["uri"].to_pylist()
    wrong, score = np.array([uri in replaced for uri in uris]), found["score"].to_numpy()
    nameless = np.isin(np.array(found["label"]), NO_NAMES)
    worst = np.argsort(-score, kind="stable")[: len(score) // 10]
    return {
        "judged": len(score),
        "replaced": 100 * float(wrong.mean()),
        "AUROC": float(roc_auc_score(wrong, score)),
        "replaced, worst tenth": 100 * float(wrong[worst].mean()),
        "nameless": 100 * float(nameless.mean()),
        "nameless, worst tenth": 100 * float(nameless[worst].mean()),
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--tables", nargs="+", choices=["heads", "issues"], default=["heads", "issues"])
    parser.add_argument("--weights", type=Path, help="file of EfficientNet-Lite0's weights")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/clothing"), help="folder of the runs; default: %(default)s"
    )
    args = parser.parse_args(arguments)
    if not (FOLDER / "clothing.csv").is_file():
        raise SystemExit(f"{FOLDER}: no clothing.csv; set FGVR_DATA to the folder that holds clothing")
    show_progress()
    out = args.out.expanduser().absolute()
    with ending_in_words(), harness.reporting(args) as report:
        timm = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(find_weights(args.weights))}
        first, _ = write_split(out, 0)
        workers = {"rows_per_part": 512, "max_workers": 2}
        tree = merge({"cluster": {"num_cpus": 2}, "embed": {"vectors": timm, "workers": workers}}, first)
        with ray_session(build(tree).cluster):
            file = {"kind": "file", "path": str(write_vectors(tree, out))}
            tree = {"cluster": {"num_cpus": 2}, "embed": {"vectors": file}, "run": {"max_error_share": 0.1}}
            tree = merge(tree, first)
            with open_data_set(tree, "clothing", str(out)) as runs:
                if "heads" in args.tables:
                    each = []
                    for seed in args.seeds:
                        changes = merge(write_split(out, seed)[0], {"heads": {"seed": seed}})
                        each.append({row.label: runs.measure(row, seed, changes) for row in ROWS})
                    report.facts["heads"] = [{label: one.values for label, one in cell.items()} for cell in each]
                    report.say(gap_table("clothing", ("top1", "balanced"), ROWS, each, BASE))
                if "issues" in args.tables:
                    found = [ranked(runs, *write_split(out, seed, wrong=WRONG_SHARE)) for seed in args.seeds]
                    report.facts["issues"] = found
                    cells = {
                        name: harness.mean_and_deviation([one[name] for one in found], 3 if name == "AUROC" else 1)
                        for name in found[0]
                    }
                    lines = [harness.Line(name, (cell,)) for name, cell in cells.items()]
                    report.say(harness.markdown("clothing, one label in ten replaced", ["percent, AUROC"], lines))


if __name__ == "__main__":
    main()
