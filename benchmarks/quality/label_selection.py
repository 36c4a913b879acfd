"""Whom to ask: how much a few answers are worth by which images they are about, on real CLIP vectors and real answers.

    python -m benchmarks.quality.label_selection [--data ../shared/data/real-clip] [--seeds 0 1 2 3 4]

The data are vectors of CLIP ViT-B/32 of the official test photos of Flowers-102, DTD and Caltech-101, with GPT-4V's
first of five names for each (a closed list). B photos are "asked": they keep that name. Plain prototypes of the names,
in the centred space (f) or the whitened one (z), then name all other photos; accuracy is that of the true class.

`accuracy` is that on all photos that were not asked about, as in the table that it reproduces; but whoever asks about
the difficult ones leaves the easy ones. So `held out` is that on a fifth of the photos, drawn at random, about which
nothing could be asked, with as many answers.

Rows: `random` photos, also with a cosine head trained by GCE (`heads`), the best of what there was before; the
`medoids` or `typical` images of B clusters; `two rounds`: half of them medoids, the others where names are uncovered or
disputed. Differences to `random, z` are paired by seed; ± is the standard deviation over seeds. A seed decides the
order of the photos, the sample and the start of k-means.

The recipe, `medoids, z`, against that head: paired differences with the 95% interval of their mean.

A third table checks what a run says about its own selection (`fgvr.selection.coverage`): the share of the photos whose
nearest asked photo has the name that GPT-4V gives them, estimated from the answers about B photos, for B and for 2B
photos, and what it really is, from the answers about all photos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from benchmarks.quality import real_clip
from fgvr.arrays import NONE, Floats, Ids
from fgvr.heads.training import HeadExamples, HeadRecipe, train_head
from fgvr.neighbours import Vectors, nearest
from fgvr.selection.choose import Space, choose
from fgvr.selection.coverage import coverage, distances, reach
from fgvr.selection.second_round import prototypes, second_round
from fgvr.selection.whitening import centre, fit_whitening

HEAD, RECIPE = "random, head, f", "medoids, z"
ROWS = (HEAD, "random, f", "random, z", RECIPE, "typical, z", "two rounds, z")
ANSWERS_PER_CLASS = (3, 10)


@dataclass(frozen=True)
class Photos:
    """Vectors [N, d], true classes and given names int64 [N] (`NONE`: none), and the number of classes.

    The first names are those of the classes.
    """

    vectors: Vectors
    classes: Ids
    names: Ids
    count: int


@dataclass(frozen=True)
class Score:
    """Of one selection: accuracy (%), share of classes asked about, share of right names among those asked about."""

    accuracy: float
    reached: float
    right: float


@dataclass(frozen=True)
class Said:
    """The covered share as estimated and as it is, with B answers and with 2B."""

    estimated: float
    true: float
    estimated_doubled: float
    true_doubled: float


def read_photos(name: str, seed: int, folder: Path) -> Photos:
    """The photos of one data set with their first names."""
    found = real_clip.read(name, seed, folder)
    return Photos(found.vectors, found.truth, found.answers[:, 0], found.classes)


def asked_by(row: str, photos: Photos, space: Space, budget: int, seed: int) -> Ids:
    """The photos that are asked about in a row of the table."""
    how = row.partition(",")[0]
    if how == "random":
        return np.sort(np.random.default_rng(seed).permutation(len(photos.classes))[:budget])
    if how == "typical":
        return choose(space, budget, "typical", seed=seed).rows
    if how == "medoids":
        return choose(space, budget, "medoids", seed=seed).rows
    first = choose(space, (budget + 1) // 2, seed=seed).rows
    more = second_round(space, first, photos.names[first], budget // 2, seed=seed)
    return np.union1d(first, more.chosen.rows)


def score(photos: Photos, vectors: Floats, asked: Ids, scored: Ids, head: int | None = None) -> Score:
    """Name the photos `scored` by prototypes of the names of those that were asked about; or by a head of this seed."""
    named = asked[photos.names[asked] != NONE]
    given = np.unique(photos.names[named])
    if head is None:
        scores = vectors[scored] @ prototypes(vectors[named], photos.names[named]).T
    else:
        columns = np.searchsorted(given, photos.names[named])
        network, _ = train_head(HeadExamples.of_labels(vectors[named], columns, len(given)), HeadRecipe(), seed=head)
        with torch.no_grad():
            scores = network(torch.from_numpy(vectors[scored])).numpy()
    said = given[scores.argmax(axis=1)]
    return Score(
        accuracy=100 * float((said == photos.classes[scored]).mean()),
        reached=len(np.unique(photos.classes[asked])) / photos.count,
        right=float((photos.names == photos.classes)[named].mean()),
    )


def said_of(photos: Photos, whitened: Floats, asked: Ids, doubled: Ids) -> Said | None:
    """The estimates of coverage beside the truth; None where there are no estimates."""
    estimate = coverage(reach(whitened, asked), photos.names[asked], distances(whitened, doubled))
    if estimate is None or estimate.doubled is None:
        return None
    true = [_covered(photos, whitened, rows) for rows in (asked, doubled)]
    return Said(estimate.covered, true[0], estimate.doubled, true[1])


def _covered(photos: Photos, whitened: Floats, asked: Ids) -> float:
    others = np.setdiff1d(np.arange(len(whitened)), asked)
    near = asked[nearest(whitened[others], whitened[asked], 1).ids[:, 0]]
    return float((photos.names[others] == photos.names[near]).mean())


@dataclass(frozen=True)
class Measured:
    """One seed: the scores of all rows on the other photos, on photos held out, and what is said about `medoids`."""

    others: dict[str, Score]
    held_out: dict[str, Score]
    said: Said | None


def measure(photos: Photos, answers: int, seed: int) -> Measured:
    """All rows for one seed."""
    budget = answers * photos.count
    everyone = np.arange(len(photos.classes))
    others, asked, whitened = _scored(photos, everyone, budget, seed)
    said = None
    if 2 * budget < len(whitened):
        doubled = choose(Space(photos.vectors, whitened), 2 * budget, seed=seed).rows
        said = said_of(photos, whitened, asked["medoids, z"], doubled)
    held_out, _, _ = _scored(photos, everyone[len(everyone) // 5 :], budget, seed)
    return Measured(others, held_out, said)


def _scored(photos: Photos, pool: Ids, budget: int, seed: int) -> tuple[dict[str, Score], dict[str, Ids], Floats]:
    """The scores of all rows, what they ask about, and the pool in the whitened space.

    Scored are the photos outside the pool, if there are any, else those that are not asked about. The first rows are
    those outside.
    """
    whitening = fit_whitening(photos.vectors[pool])
    vectors = {"f": centre(photos.vectors, whitening.mean), "z": whitening.apply(photos.vectors)}
    whitened = vectors["z"][pool]
    inside = Photos(photos.vectors[pool], photos.classes[pool], photos.names[pool], photos.count)
    space = Space(inside.vectors, whitened)
    scores, chosen = {}, {}
    for row in ROWS:
        chosen[row] = asked_by(row, inside, space, budget, seed)
        asked = pool[chosen[row]]
        outside = np.setdiff1d(np.arange(len(photos.classes)), pool if len(pool) < len(photos.classes) else asked)
        scores[row] = score(photos, vectors[row[-1]], asked, outside, seed if row == HEAD else None)
    return scores, chosen, whitened


def table(measured: Mapping[str, list[Measured]]) -> str:
    """Accuracy and its paired difference to random photos in the same space, classes reached, right names, by set."""
    lines = [
        f"{'set':14}{'photos':15}{'accuracy':>12}{'to random, z':>14}{'held out':>12}{'to random, z':>14}"
        f"{'classes':>9}{'names right':>13}"
    ]
    for name, seeds in measured.items():
        for row in ROWS:
            cells = _cells([seed.others for seed in seeds], row) + _cells([seed.held_out for seed in seeds], row)
            found = [seed.others[row] for seed in seeds]
            lines.append(
                f"{name:14}{row:15}{cells}{np.mean([one.reached for one in found]):9.3f}"
                f"{np.mean([one.right for one in found]):13.3f}"
            )
    return "\n".join(lines)


def _cells(seeds: list[dict[str, Score]], row: str) -> str:
    accuracy = np.array([seed[row].accuracy for seed in seeds])
    difference = accuracy - np.array([seed["random, z"].accuracy for seed in seeds])
    spread = (accuracy.std(ddof=1), difference.std(ddof=1)) if len(seeds) > 1 else (0.0, 0.0)
    paired = f"{difference.mean():+.1f} ±{spread[1]:.1f}" if row != "random, z" else ""
    return f"{accuracy.mean():7.1f} ±{spread[0]:.1f}{paired:>14}"


def gains(measured: Mapping[str, list[Measured]]) -> str:
    """The recipe against a trained head on random photos, on the other photos and on photos held out."""
    lines = [f"{RECIPE + ' - ' + HEAD:32}{'others':>24}{'held out':>24}"]
    for name, seeds in measured.items():
        cells = ""
        for scores in ([one.others for one in seeds], [one.held_out for one in seeds]):
            gaps = [each[RECIPE].accuracy - each[HEAD].accuracy for each in scores]
            low, high = harness.bootstrap(gaps)
            cells += f"{np.mean(gaps):+.1f} [{low:+.1f}, {high:+.1f}]".rjust(24)
        lines.append(f"{name:32}{cells}")
    return "\n".join(lines)


def estimates(said: Mapping[str, list[Said]]) -> str:
    """The covered share, estimated and true."""
    lines = [f"{'set':16}{'covered: said':>14}{'true':>8}{'with 2B: said':>15}{'true':>8}"]
    for name, seeds in said.items():
        mean = [float(np.mean([getattr(one, field) for one in seeds])) for field in Said.__dataclass_fields__]
        lines.append(f"{name:16}{mean[0]:14.3f}{mean[1]:8.3f}{mean[2]:15.3f}{mean[3]:8.3f}")
    return "\n".join(lines)


def main() -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(5))
    parser.add_argument("--data", type=Path, default=real_clip.FOLDER, help="folder of <set>.npz files")
    args = parser.parse_args()
    real_clip.check_folder(args.data)
    measured: dict[str, list[Measured]] = {}
    for title, name in real_clip.SETS.items():
        for answers in ANSWERS_PER_CLASS:
            measured[f"{title.lower()}, {answers}C"] = [
                measure(read_photos(name, seed, args.data), answers, seed) for seed in args.seeds
            ]
    with harness.reporting(args) as report:
        report.say(table(measured) + "\n")
        report.say(gains(measured) + "\n")
        said = {name: [seed.said for seed in seeds if seed.said is not None] for name, seeds in measured.items()}
        report.say(estimates({name: seeds for name, seeds in said.items() if seeds}))


if __name__ == "__main__":
    main()
