"""Whether a promised precision is kept on real photos with a tree of kinds: names first, then the kinds above them.

    python -m benchmarks.quality.promised_kinds                 # three minutes, and ten for vectors, which are kept
    python -m benchmarks.quality.promised_kinds --seeds 0 --sets birds

Data, vectors and tree are those of `benchmarks.quality.hierarchy`: 100 species of birds below the last word of their
name, 81 groceries below coarse classes. Per seed a cosine head learns from 10 photos per class with their true names
and names the test split. Of the test photos, `--checked` ones are drawn at random and compared with their true names,
200 times; thresholds for names and for kinds are chosen at 95% confidence for both together, and for names alone. A
promise is held if at least the target's share of all names given is right, and of all kinds given. Nothing is chosen by
these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import torch

from benchmarks import harness
from benchmarks.quality.hierarchy import SETS, Photos, read
from benchmarks.quality.photo_tables import find_weights
from fgvr.calibration.cascade import Checked, Scores, find_thresholds
from fgvr.calibration.kinds import is_below, kinds_above
from fgvr.calibration.promise import Flags
from fgvr.heads.calibration import fit_temperature, held_out_folds
from fgvr.heads.training import HeadExamples, HeadRecipe, train_head
from fgvr.models.infer import TOP
from fgvr.selection.whitening import fit_whitening

BUDGET: Final = 10
ERROR: Final = 0.05
Draw = tuple[float, float, float, float]
"""Shares of photos that get a name and a kind, and the precision of each; NaN where none is given."""


def predicted(photos: Photos, seed: int) -> tuple[Scores, Flags, Flags]:
    """How sure the head is of each test photo, whether its name is right, and whether the kind above it is."""
    rng = np.random.default_rng(seed)
    pool, test = np.flatnonzero(photos.training), np.flatnonzero(~photos.training)
    by_class = [rng.permutation(pool[photos.classes[pool] == name])[:BUDGET] for name in range(len(photos.names))]
    asked = np.sort(np.concatenate(by_class))
    z = fit_whitening(photos.vectors[pool], threads=1).apply(photos.vectors)
    labels = photos.classes[asked]

    def logits_of(learned: np.ndarray, others: np.ndarray) -> np.ndarray:
        examples = HeadExamples.of_labels(z[asked][learned], labels[learned], len(photos.names))
        network, _ = train_head(examples, HeadRecipe(loss="ce"), seed=seed, threads=1)
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(z[others])).numpy(), np.float32)

    everyone, found = np.arange(len(asked)), np.zeros((1, len(asked), len(photos.names)), np.float32)
    for fold in held_out_folds(len(asked), seed):
        found[0, fold] = logits_of(np.setdiff1d(everyone, fold), asked[fold])
    heat = fit_temperature(found, labels)
    p = torch.from_numpy(logits_of(everyone, test) / heat).softmax(dim=1).numpy()
    best = np.argsort(-p, axis=1)[:, :TOP]
    names, true = np.array(photos.names), [photos.names[label] for label in photos.classes[test]]
    tree = photos.kinds.tree(photos.names)
    labelled = pa.chunked_array([pa.array(names[best[:, 0]].tolist())])
    tops = pa.chunked_array([pa.array(names[best].tolist())])
    nodes, mass = kinds_above(
        tree, labelled, tops, pa.chunked_array([pa.array(np.take_along_axis(p, best, axis=1).tolist())])
    )
    return (
        Scores(p.max(axis=1).astype(np.float64), mass),
        best[:, 0] == photos.classes[test],
        is_below(tree, [*true], nodes),
    )


def draws_of(known: tuple[Scores, Flags, Flags], target: float, *, kinds: bool, checked: int, seed: int) -> list[Draw]:
    """What is given and how much of it is right, per resampling."""
    scores, right, kind_right = known
    rng, found = np.random.default_rng([seed, 1]), []
    for _ in range(200):
        rows = rng.permutation(len(right))[:checked]
        sample = Checked(scores.of(rows), right[rows], kind_right[rows])
        chosen = find_thresholds(sample, scores, target=target, error=ERROR, kinds=kinds, asking=False)
        named, above = chosen.by_student(scores), chosen.by_kind(scores)
        found.append((float(named.mean()), float(above.mean()), _share(right[named]), _share(kind_right[above])))
    return found


def _share(right: Flags) -> float:
    return float(right.mean()) if len(right) else float("nan")


def line(title: str, draws: Sequence[Draw], target: float) -> harness.Line:
    """A line of the table."""
    named, above, precision, of_kinds = np.array(draws).T
    broken = (precision < target) | (of_kinds < target)
    cells = [f"{(~broken).mean():.1%}", f"{named.mean():.0%}", _mean(precision), f"{above.mean():.0%}", _mean(of_kinds)]
    return harness.Line(title, tuple(cells))


def _mean(values: np.ndarray) -> str:
    return "" if np.isnan(values).all() else f"{np.nanmean(values):.3f}"


def main() -> None:
    """Print a table per set."""
    parser = harness.parser(__doc__, seeds=range(3))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--targets", nargs="+", type=float, default=[0.8, 0.9])
    parser.add_argument("--checked", nargs="+", type=int, default=[300, 600], help="photos that are looked at")
    parser.add_argument("--weights", type=Path, help="file of EfficientNet-Lite0's weights")
    parser.add_argument("--out", type=Path, default=Path("runs/hierarchy"), help="vectors; default: %(default)s")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with harness.reporting(asked) as report:
        for data in asked.sets:
            photos = read(data, find_weights(asked.weights), asked.out)
            known = {seed: predicted(photos, seed) for seed in asked.seeds}
            lines = []
            for target in asked.targets:
                for checked in asked.checked:
                    for kinds in (False, True):
                        each = [
                            draws_of(known[seed], target, kinds=kinds, checked=checked, seed=seed)
                            for seed in asked.seeds
                        ]
                        title = f"{target:g}, {checked} checked, {'names and kinds' if kinds else 'names alone'}"
                        report.facts[f"{data}, {title}"] = each
                        lines.append(line(title, [draw for one in each for draw in one], target))
            names = [100 * float(right.mean()) for _, right, _ in known.values()]
            above = [100 * float(right.mean()) for _, _, right in known.values()]
            report.say(
                f"{data}: {harness.mean_and_deviation(names)}% of the names right, "
                f"{harness.mean_and_deviation(above)}% of the kinds above them"
            )
            heads = ["none broken", "named", "precision", "kinds", "precision of kinds"]
            report.say(harness.markdown(data, heads, lines))


if __name__ == "__main__":
    main()
