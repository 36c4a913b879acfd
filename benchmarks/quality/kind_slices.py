"""Which kinds of birds and groceries are named worse than the others, by top-1, sACC and cACC, and false alarms.

    python -m benchmarks.quality.hierarchy --seeds 0       # computes the vectors, once
    python -m benchmarks.quality.kind_slices               # two minutes

Data: `$FGVR_DATA/birds`, 100 species, cut by kind, the last word of their names, and `$FGVR_DATA/grocery-store`, 81
products, cut by coarse class; EfficientNet-Lite0's vectors of benchmarks.quality.hierarchy. Per seed, prototypes of B
photos per class of the training split, drawn at random, with their true names, name the test split. The test photos are
cut, and every test is made twice: on photos (Fisher's exact test), and on classes (`evaluate.slices.group_by
class_name`), since a kind that has a difficult species is not yet a difficult kind. Gaps are means over seeds; in
brackets the 95% interval of the mean, resampled over seeds.

Null: the kinds are shuffled among the classes, so that they mean nothing and each keeps its number of classes. A
shuffle with any slice below .05 after Holm's correction, better or worse, is a false alarm; 5% are allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from benchmarks import harness
from benchmarks.quality.hierarchy import SETS, Photos, read
from benchmarks.quality.photo_tables import find_weights
from fgvr.arrays import Ids
from fgvr.evaluation.slice_cuts import Cut, cut_by
from fgvr.evaluation.slices import NameScores, Slice, Slices, measure_slices, name_scores
from fgvr.heads.prototypes import prototypes
from fgvr.metrics.semantic import SentenceBert
from fgvr.names.merging import NameEncoder
from fgvr.names.spelling import fold_name
from fgvr.selection.whitening import fit_whitening

MIN_IMAGES: Final = 20
METHOD: Final = "prototypes"
GAPS: Final = ("gap", "sacc_gap", "cacc_gap")


@dataclass(frozen=True)
class Named:
    """The test photos of a seed.

    Attributes:
        right: bool [n], whether each is named right.
        scores: sACC and cACC of each.
        classes: int64 [n], from 0 without gaps: the groups of the second test.
        kinds: the kind of each class.
    """

    right: np.ndarray
    scores: NameScores
    classes: Ids
    kinds: Sequence[str]

    def cut(self, kinds: Sequence[str]) -> Cut:
        """The photos by the kinds of their classes."""
        return cut_by("kind", pa.array([kinds[number] for number in self.classes.tolist()]))

    def slices(self, kinds: Sequence[str], *, by_class: bool) -> Slices:
        """The slices of these kinds."""
        groups = self.classes if by_class else None
        return measure_slices(
            {METHOD: self.right},
            [self.cut(kinds)],
            min_images=MIN_IMAGES,
            groups=groups,
            group_by="class",
            names={METHOD: self.scores},
        )


def named(photos: Photos, budget: int, seed: int, encoder: NameEncoder) -> Named:
    """Prototypes of B photos per class on the test photos."""
    rng = np.random.default_rng(seed)
    pool, test = np.flatnonzero(photos.training), np.flatnonzero(~photos.training)
    by_class = [rng.permutation(pool[photos.classes[pool] == name])[:budget] for name in range(len(photos.names))]
    asked = np.sort(np.concatenate(by_class))
    z = fit_whitening(photos.vectors[pool], threads=1).apply(photos.vectors)
    learned = prototypes(z[asked], photos.classes[asked], len(photos.names))
    guesses = learned.label_ids[(z[test] @ learned.directions.T).argmax(1)]
    said = [photos.names[number] for number in guesses.tolist()]
    true = [photos.names[number] for number in photos.classes[test].tolist()]
    here, classes = np.unique(photos.classes[test], return_inverse=True)
    above = photos.kinds
    kinds = [above.written[above.parents[fold_name(photos.names[number])]] for number in here.tolist()]
    return Named(guesses == photos.classes[test], name_scores(said, true, encoder), classes.reshape(-1), kinds)


def false_alarms(one: Named, repeats: int, seed: int) -> dict[str, int]:
    """What is counted → in how many shuffles there is any false alarm."""
    rng, found = np.random.default_rng(seed), Counter[str]()
    for _ in range(repeats):
        kinds = [one.kinds[place] for place in rng.permutation(len(one.kinds)).tolist()]
        for counted in ("photos", "classes"):
            rows = one.slices(kinds, by_class=counted == "classes").tested
            found[counted] += any(row.corrected is not None and row.corrected < 0.05 for row in rows)
    return dict(found)


def table(title: str, each: Sequence[Mapping[str, Slices]], most: int) -> str:
    """The slices with the largest mean loss of top-1, which every seed tests."""
    rows: dict[str, list[Slice]] = {}
    for one in each:
        for row in one["photos"].tested:
            rows.setdefault(row.value[0].removesuffix(" (kind)"), []).append(row)
    flagged = {
        counted: Counter(row.value[0].removesuffix(" (kind)") for one in each for row in one[counted].flagged)
        for counted in ("photos", "classes")
    }
    whole = {name: found for name, found in rows.items() if len(found) == len(each)}
    worst = sorted(whole, key=lambda name: float(np.mean([row.gap for row in whole[name]])))[:most]
    lines = []
    for name in worst:
        found = whole[name]
        cells = [f"{found[0].images:,}", f"{np.mean([row.top1 for row in found]):.1f}"]
        for metric in GAPS:
            values = [float(getattr(row, metric)) for row in found]
            low, high = harness.bootstrap(values)
            cells.append(f"{np.mean(values):+.1f} [{low:+.1f}, {high:+.1f}]")
        cells += [str(flagged[counted][name]) for counted in ("photos", "classes")]
        lines.append(harness.Line(name, tuple(cells)))
    heads = ["photos", "top-1", "gap", "sACC gap", "cACC gap", "flagged, counting photos", "counting classes"]
    return harness.markdown(title, heads, lines)


def main(arguments: list[str] | None = None) -> None:
    """Print a table and the false alarms per set."""
    parser = harness.parser(__doc__, seeds=range(3))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--budget", type=int, default=10, help="photos per class to learn from; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=100, help="shuffles per seed; default: %(default)s")
    parser.add_argument("--most", type=int, default=6, help="slices that are shown; default: %(default)s")
    parser.add_argument("--weights", type=Path, help="file of EfficientNet-Lite0's weights")
    parser.add_argument("--out", type=Path, default=Path("runs/hierarchy"), help="vectors; default: %(default)s")
    args = parser.parse_args(arguments)
    encoder = SentenceBert()
    with harness.reporting(args) as report:
        for data in args.sets:
            photos = read(data, find_weights(args.weights), args.out)
            seeds = [named(photos, args.budget, seed, encoder) for seed in args.seeds]
            each = [
                {counted: one.slices(one.kinds, by_class=counted == "classes") for counted in ("photos", "classes")}
                for one in seeds
            ]
            tests = {counted: [one[counted].tests for one in each] for counted in ("photos", "classes")}
            top1 = harness.mean_and_deviation([100 * float(one.right.mean()) for one in seeds])
            alarms = sum((Counter(false_alarms(one, args.repeats, seed)) for seed, one in enumerate(seeds)), Counter())
            shuffles = args.repeats * len(seeds)
            report.facts[data] = {"tests": tests, "alarms": dict(alarms), "shuffles": shuffles}
            report.say(table(f"{data}, {args.budget} photos per class", each, args.most))
            report.say(f"{data}: top-1 {top1}; tests per seed {tests}")
            said = ", ".join(
                f"{alarms[counted] / shuffles:.1%} counting {counted}" for counted in ("photos", "classes")
            )
            report.say(f"{data}: false alarms in {shuffles} shuffles of the kinds: {said}")


if __name__ == "__main__":
    main()
