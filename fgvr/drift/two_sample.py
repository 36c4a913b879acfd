"""Two-sample tests: are new photos as the reference photos were? And Holm's correction for many such tests.

All p-values hold for samples of any size, with ties, and when many parts are compared with the same reference. What
they assume is that photos are drawn one by one: a burst of ten pictures of one bird is not ten photos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np

from fgvr.arrays import Doubles

EXACT = 500
"""Largest sample for which Kolmogorov's p is computed exactly; beyond, by its limiting distribution."""
TAIL = 0.05
"""Share of the reference photos, those that fit least, beyond which the tail begins."""
LEAST_EXPECTED = 5.0
"""Photos that must be expected of a name in the smaller sample for a cell of its own (Cochran, Biometrics 10, 1954)."""


@dataclass(frozen=True)
class Found:
    """The result of a test.

    Attributes:
        statistic: how large the difference is, as a share of the photos, 0 … 1; NaN where nothing was tested.
        p: probability of a difference at least as large if nothing has changed; NaN where nothing was tested.
    """

    statistic: float
    p: float


NOTHING = Found(nan, nan)


def finite(values: Doubles) -> Doubles:
    """Those that are finite: a photo without a vector or with a broken one has no place in a distribution."""
    array = np.asarray(values, np.float64)
    known: Doubles = array[np.isfinite(array)]
    return known


def same_distribution(new: Doubles, reference: Doubles) -> Found:
    """Two-sided Kolmogorov–Smirnov test of any change; the statistic is the largest gap between the two CDFs.

    Args:
        new: float [n]; values that are not finite are left out.
        reference: float [m].

    Equal values make it conservative.
    """
    from scipy.stats import ks_2samp

    one, other = finite(new), finite(reference)
    if not len(one) or not len(other):
        return NOTHING
    exactly = max(len(one), len(other)) <= EXACT
    found = ks_2samp(one, other, method="exact" if exactly else "asymp")
    return Found(float(found.statistic), float(found.pvalue))


def longer_tail(new: Doubles, reference: Doubles, tail: float = TAIL) -> Found:
    """Whether more new photos than reference photos lie beyond the reference's upper quantile; the statistic: how many.

    A few photos of a new kind change the tail long before they change the whole distribution. The threshold is the j-th
    largest of the m reference values. If nothing has changed, all orders of the n + m values are equally likely, so
    that the number of reference values among the largest k + j − 1 is hypergeometric, and at least k new values lie
    beyond the threshold exactly if at most j − 1 of these are reference values (the precedence test: Nelson,
    Technometrics 5, 1963).

    Args:
        new: float [n]; values that are not finite are left out.
        reference: float [m].
        tail: share of the reference beyond the threshold.
    """
    from scipy.stats import hypergeom

    one, other = finite(new), finite(reference)
    if not len(one) or not len(other):
        return NOTHING
    beyond = max(1, int(tail * len(other)))
    threshold = np.partition(other, len(other) - beyond)[len(other) - beyond]
    # Values equal to the threshold do not count: that only makes p larger.
    above = int((one > threshold).sum())
    p = 1.0 if not above else hypergeom.cdf(beyond - 1, len(one) + len(other), len(other), above + beyond - 1)
    return Found(above / len(one), float(min(1.0, p)))


def same_names(new: Mapping[str, int], reference: Mapping[str, int]) -> Found:
    """χ² test of homogeneity of the predicted names; the statistic is the total variation distance of their shares.

    Names of which fewer than `LEAST_EXPECTED` photos are expected in the smaller sample count as one name: how frequent
    a name is in both samples together says nothing about their difference, so that p stays right.

    Args:
        new: photos per name; a name that the reference lacks counts, too.
        reference: likewise.
    """
    from scipy.stats import chi2

    names = sorted({*new, *reference})
    counts = np.array([[one.get(name, 0) for name in names] for one in (new, reference)], np.float64)
    counts = counts.reshape(2, len(names))
    sizes = counts.sum(axis=1)
    if not sizes.all():
        return NOTHING
    cells = _pooled(counts, sizes.min() / sizes.sum())
    shares = cells / sizes[:, None]
    expected = cells.sum(axis=0) * sizes[:, None] / sizes.sum()
    value = float(((cells - expected) ** 2 / expected).sum())
    apart = float(np.abs(shares[0] - shares[1]).sum() / 2)
    return Found(apart, float(chi2.sf(value, cells.shape[1] - 1)) if cells.shape[1] > 1 else 1.0)


def _pooled(counts: Doubles, smaller: float) -> Doubles:
    """The counts [2, cells] with rare names in one cell; the cell joins the rarest of the others if it is rare, too."""
    counts = counts[:, counts.any(axis=0)]
    counts = counts[:, np.argsort(-counts.sum(axis=0), kind="stable")]
    rare = counts.sum(axis=0) * smaller < LEAST_EXPECTED
    kept, rest = counts[:, ~rare], counts[:, rare].sum(axis=1, keepdims=True)
    if not rest.any():
        return kept
    if rest.sum() * smaller < LEAST_EXPECTED and kept.shape[1]:
        kept[:, -1:] += rest
        return kept
    return np.concatenate([kept, rest], axis=1)


def holm(p: Doubles) -> Doubles:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979), float64 [n].

    Where those below alpha count as alarms, the probability of any false alarm is at most alpha, however the tests
    depend on each other: here all parts share one reference. NaN stays NaN and is not counted.
    """
    values = np.asarray(p, np.float64)
    result = np.full(len(values), nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    times = len(order) - np.arange(len(order))
    result[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * times))
    return result
