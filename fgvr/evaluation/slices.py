"""In which slices of the photos a method is worse than elsewhere: accuracies, intervals, and tests that count together.

Many slices make false alarms likely: among fifty that are like all others, two or three differ at p < .05. So all
tests of a report are corrected together (Holm 1979): the probability of even one false alarm among them stays below 5%.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Floats
from fgvr.evaluation.slice_cuts import OTHERS, Cut
from fgvr.metrics.bootstrap import wilson

if TYPE_CHECKING:
    from fgvr.names.merging import NameEncoder

LEVEL: Final = 0.05
MIN_GROUPS: Final = 5
"""With fewer groups in a slice or beside it, nothing is tested by groups: their spread is not known."""
RULES: Final = 2
"""Increase it when the same names come to have other slices, for fingerprints."""

Hits = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Slice:
    """A method on a slice of the photos.

    Attributes:
        method: the method.
        by: the column, or both columns.
        value: the value per column; (OTHERS,) for gathered ones.
        images: photos of the slice whose true class is known.
        top1: share of them that is right (0–100).
        low, high: its 95% interval.
        rest: top-1 of all other photos (0–100); None: there are none.
        gap: `top1` − `rest`, in points.
        groups: how many groups its photos are of; None where photos are taken as independent.
        p: p-value of the two-sided test against the rest; None: not tested, since it is too small or has no rest.
        corrected: the same after Holm's correction for all tests of the report.
        sacc, cacc: means of these metrics over the slice's photos; None where nobody measured them. cACC matches names
            to classes once, over all photos, so that a slice is not matched to its own advantage. They are not tested.
        sacc_gap, cacc_gap: these minus the means over all other photos; None where there are none.
    """

    method: str
    by: tuple[str, ...]
    value: tuple[str, ...]
    images: int
    top1: float
    low: float
    high: float
    rest: float | None
    gap: float | None
    groups: int | None = None
    p: float | None = None
    corrected: float | None = None
    sacc: float | None = None
    sacc_gap: float | None = None
    cacc: float | None = None
    cacc_gap: float | None = None

    @property
    def flagged(self) -> bool:
        """Whether the method is worse here than elsewhere, beyond chance."""
        return self.corrected is not None and self.corrected < LEVEL and self.gap is not None and self.gap < 0

    @property
    def title(self) -> str:
        """The slice in words: `kids = true, coarse = shoes`."""
        if self.value == (OTHERS,):
            return f"{' × '.join(self.by)}: {OTHERS}"
        return ", ".join(f"{column} = {value}" for column, value in zip(self.by, self.value, strict=True))


@dataclass(frozen=True)
class NameScores:
    """How near a method's names are to the true ones, per photo: float32 [n] each, 0 … 100."""

    sacc: Floats
    cacc: Floats


@dataclass(frozen=True)
class Slices:
    """All slices of a report, the worst first.

    Attributes:
        rows: flagged ones first, then tested ones, each with the largest loss first; then those without a test.
        tests: number of tests that are corrected together.
        min_images: smallest slice that is tested.
        group_by: the column of the groups; "" where photos are taken as independent.
        remarks: what a reader must know: edges, gathered values, why there is nothing.
    """

    rows: tuple[Slice, ...] = ()
    tests: int = 0
    min_images: int = 0
    group_by: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def flagged(self) -> list[Slice]:
        """Where a method is worse than elsewhere, beyond chance."""
        return [row for row in self.rows if row.flagged]

    @property
    def tested(self) -> list[Slice]:
        """Slices with a p-value."""
        return [row for row in self.rows if row.p is not None]

    @property
    def measures_names(self) -> bool:
        """Whether slices have sACC and cACC."""
        return any(row.sacc is not None for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """JSON types, as in metrics.json."""
        rows = [
            {**asdict(row), "by": list(row.by), "value": list(row.value), "flagged": row.flagged} for row in self.rows
        ]
        return {
            "tests": self.tests,
            "min_images": self.min_images,
            "group_by": self.group_by or None,
            "remarks": list(self.remarks),
            "rows": rows,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Slices:
        """The reverse of `as_json`."""
        rows: list[Slice] = []
        for row in facts["rows"]:
            values: dict[str, Any] = {key: value for key, value in row.items() if key != "flagged"}
            rows.append(Slice(**values | {"by": tuple(row["by"]), "value": tuple(row["value"])}))
        return cls(tuple(rows), facts["tests"], facts["min_images"], facts["group_by"] or "", tuple(facts["remarks"]))

    def sentence(self, titles: Mapping[str, str]) -> str:
        """What was found, in one sentence; `titles`: how methods are called."""
        if not self.tests:
            why = "; ".join(self.remarks) or f"none has {self.min_images} photos and a rest to compare it with"
            return f"Slices: nothing was tested ({why})."
        tests = f"{self.tests:,} test{'' if self.tests == 1 else 's'} (slices × methods)"
        found = self.flagged
        if not found:
            return f"Slices: in none of {tests} is a method worse than elsewhere beyond chance (Holm, p < .05)."
        worst = found[0]
        return (
            f"Slices: in {len(found):,} of {tests} a method is worse than elsewhere beyond chance (Holm, p < .05); the "
            f"largest loss: {titles.get(worst.method, worst.method)} where {worst.title}: top-1 {worst.top1:.1f}, "
            f"{-(worst.gap or 0):.1f} points below the rest ({worst.images:,} photos)."
        )


def measure_slices(
    hits: Mapping[str, Hits],
    cuts: Sequence[Cut],
    *,
    min_images: int,
    groups: Codes | None = None,
    group_by: str = "",
    names: Mapping[str, NameScores] | None = None,
) -> Slices:
    """Compare every method on every slice with the same method on all other photos.

    Args:
        hits: method → whether the name of each photo is right, bool [n].
        cuts: partitions of the same photos.
        min_images: smallest slice that is tested.
        groups: group of each photo, int64 [n] from 0 without gaps: photos of a group are not independent, so tests and
            intervals count groups. None: Fisher's exact test and Wilson's interval on photos.
        group_by: what the groups are called.
        names: method → how near its names are to the true ones; None: only whether they are right.
    """
    found = [
        row
        for cut in cuts
        for method, right in hits.items()
        for row in _with_names(_of_cut(method, right, cut, min_images, groups), cut, (names or {}).get(method))
    ]
    corrected = iter(holm([row.p for row in found if row.p is not None]))
    rows = [row if row.p is None else replace(row, corrected=next(corrected)) for row in found]
    rows.sort(key=lambda row: (not row.flagged, row.p is None, 0.0 if row.gap is None else row.gap))
    remarks = tuple(remark for cut in cuts for remark in cut.remarks)
    return Slices(tuple(rows), sum(row.p is not None for row in rows), min_images, group_by, remarks)


def name_scores(said: Sequence[str], true: Sequence[str], encoder: NameEncoder) -> NameScores:
    """Both scores of each photo, sACC and cACC, from its name ("" where there is none) and its true name.

    Each pair of names is measured once: ten million photos have far fewer.
    """
    from fgvr.metrics.clustering import match_clusters
    from fgvr.metrics.semantic import sacc_scores

    counts = Counter(zip(said, true, strict=True))
    guesses, truths = [guess for guess, _ in counts], [truth for _, truth in counts]
    sacc = sacc_scores(guesses, truths, encoder)
    matched = match_clusters(guesses, truths, np.fromiter(counts.values(), np.int64, len(counts)))
    row = {pair: place for place, pair in enumerate(counts)}
    places = np.fromiter((row[pair] for pair in zip(said, true, strict=True)), np.int64, len(said))
    return NameScores(sacc.astype(np.float32)[places], 100 * matched.hits.astype(np.float32)[places])


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method (1979), in the same order.

    The k-th smallest of m is multiplied by m − k + 1; none is smaller than one before it, and none exceeds 1.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(raised, 1)
    return [float(value) for value in corrected]


def fisher(right: int, images: int, rest_right: int, rest_images: int) -> float:
    """P-value of Fisher's exact test, two-sided, that a slice has the same share of right names as the rest."""
    from scipy.stats import fisher_exact

    return float(fisher_exact([[right, images - right], [rest_right, rest_images - rest_right]]).pvalue)


def group_test(
    residuals: npt.NDArray[np.float64], in_slice: Codes, groups: Codes, whole: npt.NDArray[np.float64]
) -> float:
    """P-value, two-sided, that a slice has the mean of all photos, where only groups are independent of each other.

    The score Σ (x − x̄)(y − ȳ), x: in the slice, y: right, is a sum over groups. Under the hypothesis its terms have
    mean 0, so that a one-sample t-test of the groups' terms decides. Where few groups carry the sum, its degrees of
    freedom are those of so many groups, (Σu²)²/Σu⁴ − 1, which keeps the test from false alarms.

    Args:
        residuals: y − ȳ per photo, float64 [n].
        in_slice: places of the slice's photos.
        groups: group of each photo, int64 [n] from 0.
        whole: sum of the residuals per group, float64 [G].
    """
    from scipy.stats import t as student

    own = np.bincount(groups[in_slice], residuals[in_slice], minlength=len(whole)).astype(np.float64)
    terms = own - len(in_slice) / len(groups) * whole
    squares = float((terms**2).sum())
    if squares <= 0:
        return 1.0
    count, total = len(terms), float(terms.sum())
    spread = count / (count - 1) * (squares - total**2 / count)
    freedom = squares**2 / float((terms**4).sum()) - 1
    if spread <= 0 or freedom <= 0:
        return 1.0
    return float(2 * student.sf(abs(total) / spread**0.5, freedom))


def effective_images(right: Hits, groups: Codes) -> float:
    """As how many independent photos these count for the interval of their mean, by the spread between groups.

    Never more than there are; the number of groups where all are right, or all wrong.
    """
    images = len(right)
    _, codes = np.unique(groups, return_inverse=True)
    count = int(codes.max()) + 1 if images else 0
    share = float(right.mean()) if images else 0.0
    if count < 2 or share in {0.0, 1.0}:
        return float(count)
    sums = np.bincount(codes.reshape(-1), right - share)
    variance = count / (count - 1) * float((sums**2).sum()) / images**2
    return float(images) if variance <= 0 else min(float(images), share * (1 - share) / variance)


def _with_names(rows: Iterable[Slice], cut: Cut, names: NameScores | None) -> Iterator[Slice]:
    """The slices of a cut, in its order, with the means of sACC and cACC."""
    if names is None:
        yield from rows
        return
    sizes = np.bincount(cut.codes, minlength=len(cut.values))
    sums = [np.bincount(cut.codes, each, minlength=len(cut.values)) for each in (names.sacc, names.cacc)]
    for place, row in enumerate(rows):
        images, others = int(sizes[place]), len(cut.codes) - int(sizes[place])
        own = [float(each[place]) / images if images else 0.0 for each in sums]
        gaps = [
            mean - (float(each.sum(dtype=np.float64)) - float(each[place])) / others if others else None
            for mean, each in zip(own, sums, strict=True)
        ]
        yield replace(row, sacc=own[0], sacc_gap=gaps[0], cacc=own[1], cacc_gap=gaps[1])


def _of_cut(method: str, right: Hits, cut: Cut, min_images: int, groups: Codes | None) -> Iterator[Slice]:
    """The slices of a cut, of one method, without correction."""
    sizes = np.bincount(cut.codes, minlength=len(cut.values))
    hits = np.bincount(cut.codes, right, minlength=len(cut.values)).astype(np.int64)
    everything, all_right = len(right), int(right.sum())
    members, crowd = np.zeros(0, np.int64), np.zeros(0, np.int64)
    residuals: npt.NDArray[np.float64] = np.zeros(0)
    whole: npt.NDArray[np.float64] = np.zeros(0)
    if groups is not None and everything:
        members = np.argsort(cut.codes, kind="stable")
        residuals = right.astype(np.float64) - all_right / everything
        whole, crowd = np.bincount(groups, residuals).astype(np.float64), np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    for place, value in enumerate(cut.values):
        images, good = int(sizes[place]), int(hits[place])
        others, p, count = everything - images, None, None
        low, high = wilson(good, images)
        testable = images >= min_images and others > 0
        if groups is not None:
            own = members[starts[place] : starts[place] + images]
            inside = np.bincount(groups[own], minlength=len(crowd))
            count, beside = int((inside > 0).sum()), int((inside < crowd).sum())
            counts_as = effective_images(right[own], groups[own])
            low, high = wilson(good / images * counts_as, counts_as)
            if testable and count >= MIN_GROUPS and beside >= MIN_GROUPS:
                p = group_test(residuals, own, groups, whole)
        elif testable:
            p = fisher(good, images, all_right - good, others)
        top1 = 100 * good / images
        rest = 100 * (all_right - good) / others if others else None
        gap = None if rest is None else top1 - rest
        yield Slice(method, cut.by, value, images, top1, 100 * low, 100 * high, rest, gap, count, p)
