"""Which slices of real product photos are found to be weak, and how often shuffled columns raise a false alarm.

    python -m benchmarks.quality.clothing --tables heads --seeds 0   # computes the vectors, once
    python -m benchmarks.quality.slices                              # ten splits, two minutes

Data: `$FGVR_DATA/clothing` and the vectors of benchmarks.quality.clothing (EfficientNet-Lite0). Photos are split by the
person who sent them; prototypes of the training photos' labels name the test photos; these are cut by class, `kids`,
the pair of both, and the person. Every test is made twice: on photos (Fisher's exact test), and on people
(`evaluate.slices.group_by`). With "Not sure", "Skip" and "Other" as a label, photos are left out.

Null: two columns that mean nothing, each drawn anew many times per split: one value of five per photo, and one value of
five per person. A run with any slice below .05 after Holm's correction, better or worse, is a false alarm; 5% are
allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks import harness
from benchmarks.quality.clothing import FOLDER, NO_NAMES, read_rows, test_senders
from fgvr.evaluation.slice_cuts import Cut, crossed, cut_by, group_codes
from fgvr.evaluation.slices import Slices, measure_slices
from fgvr.heads.prototypes import prototypes

MIN_IMAGES: Final = 20
VALUES: Final = 5
METHOD: Final = "prototypes"


@dataclass(frozen=True)
class Split:
    """The test photos of a split: whether each is named right, its person, and the cuts."""

    right: npt.NDArray[np.bool_]
    people: npt.NDArray[np.int64]
    cuts: Sequence[Cut]

    def slices(self, cuts: Sequence[Cut], *, by_person: bool) -> Slices:
        """The slices of some cuts."""
        groups = self.people if by_person else None
        return measure_slices({METHOD: self.right}, cuts, min_images=MIN_IMAGES, groups=groups, group_by="sender_id")


def read_split(vectors: dict[str, npt.NDArray[np.float32]], seed: int) -> Split:
    """Prototypes of the training photos on the test photos of a split."""
    every = [row for row in read_rows() if row["class_name"] not in NO_NAMES and row["uri"] in vectors]
    test = test_senders(read_rows(), seed)
    train = [row for row in every if row["sender_id"] not in test]
    rows = [row for row in every if row["sender_id"] in test]
    names = sorted({row["class_name"] for row in train})
    place = {name: number for number, name in enumerate(names)}
    learned = prototypes(
        np.stack([vectors[row["uri"]] for row in train]),
        np.array([place[row["class_name"]] for row in train]),
        len(names),
    )
    cosines = np.stack([vectors[row["uri"]] for row in rows]) @ learned.directions.T
    said = [names[number] for number in learned.label_ids[cosines.argmax(1)].tolist()]
    right = np.array([name == row["class_name"] for name, row in zip(said, rows, strict=True)])
    columns = {name: pa.array([row[name] for row in rows]) for name in ("class_name", "kids", "sender_id")}
    cuts = {name: cut_by(name, texts, quantities=False) for name, texts in columns.items()}
    pair = crossed(cuts["kids"], cuts["class_name"], 100)
    return Split(right, group_codes(columns["sender_id"]), (*cuts.values(), pair))


def false_alarms(split: Split, repeats: int, seed: int) -> dict[tuple[str, str], int]:
    """(kind of null column, what is counted) → in how many of the repeats there is any false alarm."""
    rng, found = np.random.default_rng(seed), Counter[tuple[str, str]]()
    for _ in range(repeats):
        columns = {
            "per photo": rng.integers(0, VALUES, len(split.right)),
            "per person": rng.integers(0, VALUES, int(split.people.max()) + 1)[split.people],
        }
        for kind, column in columns.items():
            cut = cut_by("null", pa.array([str(value) for value in column]))
            for counted in ("photos", "people"):
                rows = split.slices([cut], by_person=counted == "people").tested
                found[kind, counted] += any(row.corrected is not None and row.corrected < 0.05 for row in rows)
    return dict(found)


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = harness.parser(__doc__, seeds=range(10))
    parser.add_argument("--vectors", type=Path, default=Path("runs/clothing/vectors.npz"), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=50, help="null columns per split and kind; default: %(default)s")
    args = parser.parse_args(arguments)
    if not args.vectors.is_file():
        raise SystemExit(f"{args.vectors}: no such file; python -m benchmarks.quality.clothing computes it")
    with np.load(args.vectors) as stored:
        unit = stored["vectors"].astype(np.float32)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        inside = [str(FOLDER / "photos" / Path(uri).name) for uri in stored["uri"].tolist()]
    vectors = dict(zip(inside, unit, strict=True))
    with harness.reporting(args) as report:
        flagged = {"photos": Counter[str](), "people": Counter[str]()}
        tested, gaps = Counter[str](), dict[str, list[float]]()
        nulls, tops, tests = Counter[tuple[str, str]](), [], dict[str, list[int]]()
        for seed in args.seeds:
            split = read_split(vectors, seed)
            tops.append(100 * float(split.right.mean()))
            for counted, titles in flagged.items():
                found = split.slices(split.cuts, by_person=counted == "people")
                titles.update(row.title for row in found.flagged if row.by != ("sender_id",))
                titles["any sender"] += any(row.by == ("sender_id",) for row in found.flagged)
                tests.setdefault(counted, []).append(found.tests)
                if counted == "photos":
                    for row in found.tested:
                        tested[row.title] += 1
                        gaps.setdefault(row.title, []).append(row.gap or 0.0)
            nulls.update(false_alarms(split, args.repeats, seed))
        report.say(f"top-1 {harness.mean_and_deviation(tops)}; tests per split {tests}")
        report.say(_weak(flagged, tested, gaps))
        report.say(_alarms(nulls, len(args.seeds) * args.repeats))
        report.facts |= {"flagged": {counted: dict(titles) for counted, titles in flagged.items()}}
        report.facts["false alarms"] = {" ".join(key): count for key, count in nulls.items()}


def _weak(flagged: dict[str, Counter[str]], tested: Counter[str], gaps: dict[str, list[float]]) -> str:
    """Slices by the number of splits in which they were flagged."""
    titles = sorted({*flagged["photos"], *flagged["people"]}, key=lambda title: -flagged["photos"][title])
    lines = []
    for title in titles:
        gap = f"{np.mean(gaps[title]):+.1f}" if title in gaps else ""
        counts: list[Any] = [tested[title] or "", gap, flagged["photos"][title], flagged["people"][title]]
        lines.append(harness.Line(title, tuple(map(str, counts))))
    return harness.markdown("slice", ["splits that test it", "mean gap", "flagged by photos", "by people"], lines)


def _alarms(nulls: Counter[tuple[str, str]], runs: int) -> str:
    lines = [
        harness.Line(kind, tuple(f"{100 * nulls[kind, counted] / runs:.1f}%" for counted in ("photos", "people")))
        for kind in ("per photo", "per person")
    ]
    return harness.markdown(f"false alarms in {runs} runs, a value", ["counting photos", "counting people"], lines)


if __name__ == "__main__":
    main()
