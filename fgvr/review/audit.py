"""An audit: how many names of a run are right, with a 95% interval, from a random sample that people looked at.

The photos are sorted by name and, within a name, by confidence, and cut into strata of equal size, in each of which
about `PER_STRATUM` photos are drawn. The share of right names is the stratified estimate Σ W_h p_h; its interval is
that of Korn and Graubard (Survey Methodology 24, 1998): Clopper–Pearson with the number of photos that would have the
same variance if they were drawn from the whole set at once. Since the order of the sample is random, any beginning of
it is a sample, too; strata with fewer than two decided photos are then joined with the next ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from fgvr.arrays import Ids
from fgvr.beliefs.audit import Outcome, sign_test
from fgvr.errors import UserError
from fgvr.review.audit_file import AuditSample, Drawn

ERROR: Final = 0.05
PER_STRATUM: Final = 10
FEWEST: Final = 20
"""Photos of the smallest sample: with fewer, no interval says anything."""

Floats = npt.NDArray[np.float64]


class NoAudit(UserError, ValueError):
    """A sample that cannot be drawn; the message says why."""


@dataclass(frozen=True)
class Share:
    """A share with its 95% interval.

    Attributes:
        right: photos whose name is right.
        decided: photos that somebody decided.
        share: the estimate; NaN without decided photos.
        low: lower end.
        high: upper end.
    """

    right: int
    decided: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Audit:
    """What an audit says.

    Attributes:
        whole: the share of right names over all photos.
        by_name: by name, Clopper–Pearson on the photos that the run calls so.
        by_score: (lowest score, highest score, share) of three groups of equal size; empty without scores.
        drawn: photos of the sample.
        cannot_tell: photos about which nobody could tell; they count as not decided.
        worst: the lower end if all of these were wrong.
        best: the upper end if all of these were right.
    """

    whole: Share
    by_name: Mapping[str, Share]
    by_score: Sequence[tuple[float, float, Share]]
    drawn: int
    cannot_tell: int
    worst: float
    best: float


def clopper_pearson(right: Floats | float, photos: Floats | float) -> tuple[Floats, Floats]:
    """Ends of the exact 95% interval of a binomial share; counts need not be whole. 0 … 1 for no photos."""
    from scipy.stats import beta

    k, n = np.asarray(right, np.float64), np.asarray(photos, np.float64)
    with np.errstate(invalid="ignore"):
        low = np.where(k > 0, beta.ppf(ERROR / 2, np.maximum(k, 1e-12), n - k + 1), 0.0)
        high = np.where(k < n, beta.ppf(1 - ERROR / 2, k + 1, np.maximum(n - k, 1e-12)), 1.0)
    return low, high


def photos_needed(half_width: float, everything: int, expected: float = 0.8) -> int:
    """The smallest sample whose 95% interval reaches no further than ± `half_width`, if `expected` is the share.

    Raises:
        NoAudit: a half-width that is not between 0.005 and 0.5.
    """
    if not 0.005 <= half_width <= 0.5:
        raise NoAudit(f"a half-width of {half_width:g}: choose one between 0.005 and 0.5")

    def is_wide(photos: int) -> bool:
        low, high = clopper_pearson(expected * photos, float(photos))
        return bool((high - low) / 2 > half_width)

    # The interval only narrows with more photos: halve the range in which it becomes narrow enough.
    few, enough = 0, 40_000
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if is_wide(middle) else (few, middle)
    return min(everything, max(FEWEST, enough))


def draw(names: Sequence[str] | npt.NDArray[np.int32], scores: Floats, size: int, seed: int) -> tuple[Ids, Ids, Ids]:
    """Draw a stratified sample.

    Args:
        names: of each photo: text, or codes int32 [N].
        scores: confidence of each photo [N]; NaN where there is none.
        size: photos to draw, at most N.
        seed: of the draw.

    Returns:
        Positions of the drawn photos in random order, int64 [size]; their strata, int64 [size]; sizes of all strata.

    Raises:
        NoAudit: no photos.
    """
    everything = len(scores)
    if not everything:
        raise NoAudit("there is no named photo of which a sample could be drawn")
    size = min(size, everything)
    rng = np.random.default_rng(seed)
    order = np.lexsort((np.nan_to_num(scores, nan=-1.0), np.asarray(names)))
    count = max(1, size // PER_STRATUM)
    blocks = np.array_split(order, count)
    sizes = np.array([len(block) for block in blocks], np.int64)
    # Equal sizes up to one: so are the draws. Which strata get one more is drawn, too.
    draws = np.full(count, size // count)
    draws[rng.permutation(count)[: size % count]] += 1
    draws = np.minimum(draws, sizes)
    taken = [rng.permutation(block)[:number] for block, number in zip(blocks, draws, strict=True)]
    positions, strata = np.concatenate(taken).astype(np.int64), np.repeat(np.arange(count), draws)
    shuffled = rng.permutation(len(positions))
    return positions[shuffled], strata[shuffled].astype(np.int64), sizes


def stratified(right: npt.NDArray[np.bool_], strata: Ids, sizes: Ids) -> Share:
    """The share over all photos from decided ones of a stratified sample.

    Args:
        right: of each decided photo [n].
        strata: its stratum [n].
        sizes: photos of each stratum in the whole set.
    """
    n, k = len(right), int(right.sum())
    if not n:
        return Share(0, 0, float("nan"), 0.0, 1.0)
    decided = np.bincount(strata, minlength=len(sizes)).astype(np.float64)
    hits = np.bincount(strata, weights=right, minlength=len(sizes)).astype(np.float64)
    decided, hits, whole = _joined(decided, hits, np.asarray(sizes, np.float64))
    weight, p = whole / whole.sum(), hits / decided
    estimate = float((weight * p).sum())
    left = np.clip(1 - decided / whole, 0.0, 1.0)  # of a stratum that was looked at completely nothing is left to guess
    variance = float((weight**2 * left * p * (1 - p) / np.maximum(decided - 1, 1)).sum())
    if np.all(left == 0.0):
        return Share(k, n, estimate, estimate, estimate)
    simple = estimate * (1 - estimate)
    # Nothing or everything right: the variance says nothing, so count the photos as drawn at once.
    effective = simple / variance if variance > 0 and simple > 0 else float(n)
    effective = min(effective, 2.0 * n)  # a variance from few photos per stratum is itself uncertain
    low, high = clopper_pearson(estimate * effective, effective)
    return Share(k, n, estimate, float(low), float(high))


def _joined(decided: Floats, hits: Floats, sizes: Floats) -> tuple[Floats, Floats, Floats]:
    """Neighbouring strata joined until each has two decided photos, or all are one."""
    if (decided >= 2).all():
        return decided, hits, sizes
    group, groups, held = 0, np.zeros(len(sizes), np.int64), 0.0
    for stratum, number in enumerate(decided):
        groups[stratum] = group
        held += number
        if held >= 2:
            group, held = group + 1, 0.0
    if 0 < held < 2 or (group and groups[-1] == group):
        groups[groups == group] = max(0, group - 1)
    parts = [np.bincount(groups, weights=values).astype(np.float64) for values in (decided, hits, sizes)]
    return parts[0], parts[1], parts[2]


def simple(right: Sequence[bool]) -> Share:
    """The share of a simple random sample: Clopper–Pearson."""
    n, k = len(right), sum(right)
    low, high = clopper_pearson(k, n) if n else (np.float64(0), np.float64(1))
    return Share(k, n, k / n if n else float("nan"), float(low), float(high))


def judge(sample: AuditSample, right: Mapping[str, bool | None]) -> Audit:
    """What the decided photos of a sample say.

    Args:
        sample: as it was stored.
        right: of each decided photo, by URI, whether the run's name is right; None: nobody could tell.
    """
    known = [(photo, right[photo.uri]) for photo in sample.photos if right.get(photo.uri) is not None]
    unknown = [photo for photo in sample.photos if photo.uri in right and right[photo.uri] is None]

    def share(rows: Sequence[tuple[Drawn, bool | None]]) -> Share:
        hits = np.array([bool(hit) for _, hit in rows], np.bool_)
        return stratified(hits, np.array([p.stratum for p, _ in rows], np.int64), np.array(sample.sizes, np.int64))

    names: dict[str, list[bool]] = defaultdict(list)
    for photo, hit in known:
        names[photo.name].append(bool(hit))
    scored = sorted(((p, bool(hit)) for p, hit in known if p.score >= 0), key=lambda row: row[0].score)
    thirds = [rows for rows in _thirds(scored) if rows]
    whole = share(known)
    return Audit(
        whole=whole,
        by_name={name: simple(hits) for name, hits in sorted(names.items())},
        by_score=[(rows[0][0].score, rows[-1][0].score, simple([hit for _, hit in rows])) for rows in thirds],
        drawn=len(sample.photos),
        cannot_tell=len(unknown),
        worst=min(whole.low, share([*known, *((photo, False) for photo in unknown)]).low),
        best=max(whole.high, share([*known, *((photo, True) for photo in unknown)]).high),
    )


def _thirds(rows: Sequence[tuple[Drawn, bool]]) -> list[Sequence[tuple[Drawn, bool]]]:
    cuts = [round(len(rows) * part / 3) for part in range(4)]
    return [rows[first:last] for first, last in pairwise(cuts)]


def compare(sample: AuditSample, truth: Mapping[str, str]) -> Outcome:
    """Which of two methods is right more often on decided photos of an audit of differences: exact McNemar test.

    Args:
        sample: one with `methods`; on all its photos the two names differ.
        truth: what decided photos show, by URI; "" where only is known that it is neither.
    """
    decided = [photo for photo in sample.photos if photo.uri in truth]
    first = sum(photo.name == truth[photo.uri] for photo in decided)
    second = sum(photo.other == truth[photo.uri] for photo in decided)
    return Outcome(first, second, len(decided) - first - second, sign_test(first, second))
