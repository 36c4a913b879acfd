"""Whether a promised precision is kept on real photos, and where none is promised.

    python -m benchmarks.quality.promised_precision             # two minutes
    python -m benchmarks.quality.promised_precision --targets 0.85 --sets oxford_flowers

Data: `$FGVR_DATA/real-clip`, CLIP ViT-B/32 vectors of test photos of Flowers-102, DTD and Caltech-101 with the names
that GPT-4V gave to the same photos (first of five, closed list). Per set and seed, prototypes learn from the names of
10·C photos (`fgvr.heads.prototypes`, temperature fitted on left-out ones) and name all others. Of these others, 300
photos are drawn at random and compared with their true classes, 200 times; each time a threshold is chosen for the
target at 95% confidence. A promise is held if at least the target's share of *all* kept photos is right; a refusal
breaks none. Beside it, two rules that are in use: the same thresholds, of which the lowest is taken that the checked
photos' own share of right ones reaches (`observed`), and the score as it is (`score ≥ target`). Nothing is chosen by
these numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks import harness
from benchmarks.quality import real_clip
from benchmarks.quality.label_heads import read_space, softmax
from fgvr.arrays import NONE, Doubles
from fgvr.calibration.promise import Flags, first_test, promise, thresholds
from fgvr.heads.calibration import calibration_error, fit_temperature
from fgvr.heads.networks import SCALE
from fgvr.heads.prototypes import left_out_cosines, prototypes

ERROR = 0.05
BUDGET = 10
"""Photos per class that the MLLM named."""
RULES = ("promised", "observed", "score ≥ target")


def predicted(name: str, seed: int) -> tuple[Doubles, Flags]:
    """Scores of the photos that were not asked, and whether their predicted name is the true class."""
    space = read_space(name, seed)
    vectors = space.vectors["f"]
    asked = np.random.default_rng(seed).permutation(len(space.truth))[: BUDGET * space.classes]
    labels = np.full(len(space.truth), NONE)
    labels[asked] = space.own[asked]
    others = np.setdiff1d(np.arange(len(labels)), asked)
    made = prototypes(vectors[asked], labels[asked], space.names)
    cosines, own = left_out_cosines(vectors, labels, space.names, asked[labels[asked] != NONE])
    heat = fit_temperature(SCALE * cosines[None], own)
    scores = softmax(SCALE / heat * (vectors[others] @ made.directions.T))
    return scores.max(axis=1).astype(np.float64), made.label_ids[scores.argmax(axis=1)] == space.truth[others]


def observed(scores: Doubles, right: Flags, pool: Doubles, target: float) -> float | None:
    """The lowest threshold from which on at least the target's share of the checked photos is right."""
    first = first_test(len(scores), target, ERROR)
    found = None
    for threshold, _ in thresholds(pool, (first or len(scores)) / len(scores)):
        kept = scores >= threshold
        if kept.any() and right[kept].mean() >= target:
            found = threshold
    return found


def resampled(
    scores: Doubles, right: Flags, *, target: float, checked: int, draws: int, seed: int
) -> dict[str, list[tuple[float, float]]]:
    """Of each rule and draw, the share that is kept (0: refused) and the precision of what is kept (NaN: refused)."""
    rng = np.random.default_rng([seed, 1])
    found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
    for _ in range(draws):
        rows = rng.permutation(len(scores))[:checked]
        ways = {
            "promised": promise(scores[rows], right[rows], scores, target=target, error=ERROR).threshold,
            "observed": observed(scores[rows], right[rows], scores, target),
            "score ≥ target": target,
        }
        for rule, threshold in ways.items():
            kept = scores >= (np.inf if threshold is None else threshold)
            found[rule].append((float(kept.mean()), float(right[kept].mean()) if kept.any() else float("nan")))
    return found


def cells(each: Sequence[tuple[float, float]], target: float) -> tuple[str, ...]:
    """Draws with a promise, draws that broke none, share of the photos kept, the lowest and the mean precision."""
    kept, precision = np.array(each).T
    made = ~np.isnan(precision)
    held = float((~made | (precision >= target)).mean())
    if not made.any():
        return ("0%", f"{held:.1%}", "0%", "", "")
    return (
        f"{made.mean():.0%}",
        f"{held:.1%}",
        f"{kept.mean():.0%}",
        f"{np.nanmean(precision):.3f}",
        f"{np.nanmin(precision):.3f}",
    )


def table(title: str, rules: Mapping[str, Sequence[tuple[float, float]]], target: float) -> str:
    """A Markdown table with a line per rule."""
    heads = ["promises", "none broken", "kept", "precision, mean", "least"]
    return harness.markdown(title, heads, [harness.Line(rule, cells(each, target)) for rule, each in rules.items()])


def main() -> None:
    """Print a table per set and target."""
    sets = list(real_clip.SETS.values())
    parser = harness.parser(__doc__, seeds=range(3))
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets)
    parser.add_argument("--targets", nargs="+", type=float, default=[0.85, 0.95])
    parser.add_argument("--checked", type=int, default=300, help="photos whose true class is looked at")
    parser.add_argument("--draws", type=int, default=200, help="resamplings per seed")
    asked = parser.parse_args()
    real_clip.check_folder()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with harness.reporting(asked) as report:
        for name in asked.sets:
            known = {seed: predicted(name, seed) for seed in asked.seeds}
            accuracy = [100 * float(right.mean()) for _, right in known.values()]
            errors = [100 * calibration_error(scores.astype(np.float32), right) for scores, right in known.values()]
            report.say(
                f"{name}: {harness.mean_and_deviation(accuracy)}% right, "
                f"ECE {harness.mean_and_deviation(errors)} points, "
                f"{len(next(iter(known.values()))[0]):,} photos"
            )
            for target in asked.targets:
                each = [
                    resampled(*known[seed], target=target, checked=asked.checked, draws=asked.draws, seed=seed)
                    for seed in asked.seeds
                ]
                rules = {rule: [draw for one in each for draw in one[rule]] for rule in RULES}
                report.facts[f"{name}-{target:g}"] = rules
                held = [float(np.mean([np.isnan(p) or p >= target for _, p in one["promised"]])) for one in each]
                report.say(table(f"{name}, target {target:g}", rules, target))
                report.say(f"held per seed: {', '.join(f'{share:.1%}' for share in held)}\n")


if __name__ == "__main__":
    main()
