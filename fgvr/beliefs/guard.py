"""Whether candidate sets do better than own labels: cross-validated agreement with the labels, and when nobody knows.

In each of three folds, two heads learn from the labels of the other two: one from the own labels, one from the
candidate sets that these labels alone would have made. Each names the fold's images. Where the two differ, at most one
has said the image's own label; d₊ of these images count for the sets and d₋ for the own labels:

    z = (d₊ − d₋) / √(d₊ + d₋)      (McNemar)

|z| > 1.64 decides; between lies the *unknown* band. Own labels are noisy, but their noise is the same for both heads
unless neighbours repeat it: then the sets, which are made of what neighbours say, agree with a repeated mistake. So a
verdict for sets needs an audit, too (`fgvr.beliefs.audit`), and *unknown* means: keep the own label.

On 271 cells of real and planted noise in which a difference of a point or more existed, its verdicts were right in
94 to 100% of what it decided; "neighbourhoods purer than labels", which it replaces, had the right sign in 0 to 8%.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fgvr.arrays import NONE, Doubles, Floats, Ids, Labels
from fgvr.beliefs.audit import MOST, audit_size, drawn
from fgvr.beliefs.names_near import name_sums
from fgvr.candidates.sets import CandidateSets, single_sets

RULES = 3
"""Increase it when the same labels, vectors and sets would give another verdict."""
FOLDS = 3
LEAST = 1.64  # |z| from which it decides: one side of 5%
SHRINK = 0.3  # images that a name's direction is pulled to nothing by, so that a share of 2% is no full prototype
MOST_JUDGED = 20_000  # held-out images that are named; more would not change the verdict
BLOCK = 2**24  # scores computed at once

Flags = npt.NDArray[np.bool_]
Decision = Literal["sets", "own", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """What cross-validation says of candidate sets.

    Attributes:
        images: held-out images that were named.
        differ: how many of these the two heads name differently.
        for_own: d₋, how many of those have the own labels' head's name as their label.
        for_sets: d₊, how many have the sets' head's.
    """

    images: int
    differ: int
    for_own: int
    for_sets: int

    @property
    def z(self) -> float:
        """(d₊ − d₋) / √(d₊ + d₋); 0 where no image speaks for either."""
        return z_of(self.for_sets, self.for_own)

    @property
    def decision(self) -> Decision:
        """Which of the two agrees better with labels that it has not seen; `unknown` between."""
        return "sets" if self.z > LEAST else "own" if self.z < -LEAST else "unknown"

    @property
    def helps(self) -> bool | None:
        """The same as a truth value; None: unknown."""
        return {"sets": True, "own": False, "unknown": None}[self.decision]

    @property
    def audit(self) -> int | None:
        """Photos on which the two differ that a person should look at; None: no sane number would decide.

        It takes the labels for the truth, so it is a plan: what was looked at decides (`fgvr.beliefs.audit.outcome`).
        """
        return audit_size(self.for_own / self.differ, self.for_sets / self.differ) if self.differ else None

    def in_words(self) -> str:
        """The verdict with its numbers, and what would settle it, as one sentence."""
        if not self.differ:
            return "candidate sets and own labels teach the same names: keep the own labels (candidates.method single)"
        counts = (
            f"on {self.differ:,} of {self.images:,} held-out images they lead to different names: {self.for_sets:,} "
            f"agree with the sets, {self.for_own:,} with the own labels, z = {self.z:.1f}"
        )
        number = self.audit
        if number is None:
            look = f"the difference is so small that a look at {MOST} photos would not settle it"
        else:
            look = f"a look at {min(number, self.differ)} of these photos would settle it (audit.csv)"
        match self.decision:
            case "sets":
                return f"candidate sets agree better with labels that they have not seen ({counts}); {look}"
            case "own":
                return (
                    "held-out labels agree better with the own labels than with candidate sets: try candidates.method "
                    f"single ({counts}); {look}"
                )
            case "unknown":
                return f"unknown whether candidate sets help, so prefer the own labels ({counts}); {look}"


@dataclass(frozen=True)
class Comparison:
    """The verdict, and the images on which the two heads differ.

    Attributes:
        verdict: what it comes to.
        rows: their row numbers, int64 [n], ascending.
        own_names: what the own labels' head says of them, int32 [n].
        sets_names: what the sets' head says of them, int32 [n].
    """

    verdict: Verdict
    rows: Ids
    own_names: Labels
    sets_names: Labels

    @property
    def to_audit(self) -> Ids:
        """Positions in `rows` of the images that a person should look at, drawn beforehand; int64, ascending."""
        return drawn(np.arange(len(self.rows)), self.verdict.audit)


def z_of(for_sets: int, for_own: int) -> float:
    """McNemar's z without correction."""
    return (for_sets - for_own) / math.sqrt(for_sets + for_own) if for_sets + for_own else 0.0


def compared(
    own: Labels, vectors: Floats, names: int, sets_of: Callable[[Flags], CandidateSets], *, seed: int = 0
) -> Comparison:
    """Compare candidate sets with own labels.

    Args:
        own: label of each image, int32 [N]; `NONE` where it has none; such an image is in no fold.
        vectors: whitened, of length 1, float32 [N, d].
        names: size of the label space, V.
        sets_of: makes the candidate sets of all N images when only the labels of the images in its argument, bool [N],
            are known. Only those images' sets are used.
        seed: of the folds.

    Raises:
        ValueError: arrays of different lengths.
    """
    if len(own) != len(vectors):
        raise ValueError(f"{len(own)} labels for {len(vectors)} vectors")
    labelled = np.random.default_rng(seed).permutation(np.flatnonzero(own != NONE))
    folds = [np.sort(labelled[number::FOLDS]) for number in range(FOLDS)]
    rows, said = [np.zeros(0, np.int64)], [np.zeros((2, 0), np.int32)]
    for number, held_out in enumerate(folds):
        known = np.zeros(len(own), bool)
        known[np.concatenate([fold for other, fold in enumerate(folds) if other != number])] = True
        judged = held_out[: math.ceil(MOST_JUDGED / FOLDS)] if len(labelled) > MOST_JUDGED else held_out
        if not known.any() or not len(judged):
            continue
        heads = [_head(single_sets(own), known, vectors, names), _head(sets_of(known), known, vectors, names)]
        # A name that nobody else was given first would be a guess of either head.
        taught = np.bincount(own[known], minlength=names) > 0
        said.append(np.stack([_named(vectors[judged], head, taught) for head in heads]))
        rows.append(judged)
    return _counted(own, np.concatenate(rows), np.concatenate(said, axis=1))


def _counted(own: Labels, rows: Ids, said: Labels) -> Comparison:
    order = np.argsort(rows)
    rows, said = rows[order], said[:, order]
    differ = said[0] != said[1]
    label = own[rows[differ]]
    for_own, for_sets = (int((names[differ] == label).sum()) for names in said)
    verdict = Verdict(len(rows), int(differ.sum()), for_own, for_sets)
    return Comparison(verdict, rows[differ], said[0, differ], said[1, differ])


def _head(sets: CandidateSets, known: Flags, vectors: Floats, names: int) -> Doubles:
    """Directions of the names, S_j / (‖S_j‖ + .3) with S_j = Σ_i w_ij z_i over the known images, float64 [V, d]."""
    rows = np.flatnonzero(known)
    weights = sets.weights[rows].astype(np.float64)
    sums = name_sums(vectors[rows], sets.label_ids[rows], weights, names).astype(np.float64)
    return np.asarray(sums / (np.linalg.norm(sums, axis=1, keepdims=True) + SHRINK))


def _named(vectors: Floats, head: Doubles, taught: Flags) -> Labels:
    """The name of each image among those that were given first, int32 [n]."""
    ids = np.flatnonzero(taught)
    directions = head[ids].astype(np.float32).T
    found = np.empty(len(vectors), np.int32)
    step = max(1, BLOCK // max(1, len(ids)))
    for at in range(0, len(vectors), step):
        found[at : at + step] = ids[(vectors[at : at + step] @ directions).argmax(axis=1)]
    return found
