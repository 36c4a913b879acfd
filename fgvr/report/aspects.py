"""What the report says about aspects: each question's worth, how well the student learned it, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fgvr.evaluation.aspects import AspectAgreement, ClassSums, LeaveOneOut, chance_bits, mutual_information

BINS = 10
"""Of a histogram over the classes: tenths of p(yes)."""
SHOWN_CLASSES = 3
"""Classes with the highest and with the lowest p(yes) that are named."""


@dataclass(frozen=True)
class Overhead:
    """What the aspects cost; None where nothing was measured.

    Attributes:
        parameters: of the student with its aspect outputs.
        parameters_without: of the same student without.
        images_per_second: in training, the fastest epoch: other work on the machine disturbs it least.
        images_per_second_without: of the student without aspects.
        seconds_per_answer: wall time of the aspects stage over images times questions (paper: 0.83 s on an RTX 3090).
    """

    parameters: int
    parameters_without: int
    images_per_second: float | None
    images_per_second_without: float | None
    seconds_per_answer: float | None

    @property
    def time(self) -> float | None:
        """Training time an image over that without aspects, less 1; None where one of them is not known."""
        if not self.images_per_second or not self.images_per_second_without:
            return None
        return self.images_per_second_without / self.images_per_second - 1


@dataclass(frozen=True)
class AspectLine:
    """One question.

    Attributes:
        question: its text.
        rank: 1 = first asked.
        mean: p(yes) over all images.
        bits: that an answer tells about the class.
        chance: bits that it would seem to tell without any relation to the class, because images are few.
        drop: share of right classes that the answers alone lose without it; None where that cannot be said.
        drop_error: standard error of `drop`.
        correlation: of MLLM and student on held-out images (on those trained on where none are held out); None where
            one of them always says the same.
        same: share of these images with the same answer.
        histogram: classes by tenth of their mean p(yes).
        highest: (class, mean p(yes)) of the classes with the highest mean.
        lowest: of those with the lowest.
    """

    question: str
    rank: int
    mean: float
    bits: float
    chance: float
    drop: float | None
    drop_error: float | None
    correlation: float | None
    same: float | None
    histogram: tuple[int, ...]
    highest: tuple[tuple[str, float], ...]
    lowest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class AspectFacts:
    """All numbers about aspects in metrics.json.

    Attributes:
        images: with answers and a class.
        classes: with such an image.
        class_targets: `true` or `near`: whose classes these are.
        class_bits: entropy of the class, what answers can tell at most.
        judged: images of the leave-one-out; 0 where it could not be done.
        accuracy: share of right classes from the answers alone; None likewise.
        compared: images on which student and MLLM were compared.
        held_out: whether these were kept out of the student's training.
        questions: the most informative first.
        overhead: time and parameters.
    """

    images: int
    classes: int
    class_targets: str
    class_bits: float
    judged: int
    accuracy: float | None
    compared: int
    held_out: bool
    questions: tuple[AspectLine, ...]
    overhead: Overhead

    def as_json(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "overhead": {**asdict(self.overhead), "time": self.overhead.time}}


@dataclass(frozen=True)
class Names:
    """What numbers stand for: the questions that the student learned, its classes, and where these are from."""

    questions: Sequence[str]
    labels: Sequence[str]
    class_targets: str


def aspect_facts(
    names: Names,
    sums: ClassSums,
    alone: LeaveOneOut | None,
    agreement: AspectAgreement,
    overhead: Overhead,
    *,
    held_out: bool,
) -> AspectFacts:
    """The facts of Q questions, most informative first; of equal ones the better ranked.

    Args:
        names: of questions and classes.
        sums: over all images.
        alone: what the answers alone tell.
        agreement: of MLLM and student.
        overhead: cost.
        held_out: whether the images of `agreement` were kept out of training.
    """
    means, counts = sums.means(), sums.counts.sum(axis=0)
    bits, chance = mutual_information(means, counts), chance_bits(counts)
    overall = sums.sums.sum(axis=(0, 1)) / np.maximum(counts.sum(axis=0), 1)
    images = sums.images.sum(axis=0)
    shares = images[images > 0] / max(1, images.sum())
    lines = []
    for place, question in enumerate(names.questions):
        of_classes = [(names.labels[c], float(means[c, place])) for c in np.flatnonzero(counts[:, place] > 0)]
        ordered = sorted(of_classes, key=lambda pair: (-pair[1], pair[0]))
        shown = min(SHOWN_CLASSES, len(ordered) // 2)
        tenths = [min(BINS - 1, int(BINS * mean)) for _, mean in of_classes]
        lines.append(
            AspectLine(
                question=question,
                rank=place + 1,
                mean=float(overall[place]),
                bits=float(bits[place]),
                chance=float(chance[place]),
                drop=None if alone is None else float(alone.drop[place]),
                drop_error=None if alone is None else float(alone.error[place]),
                correlation=_known(agreement.correlation[place]),
                same=_known(agreement.same[place]),
                histogram=tuple(tenths.count(tenth) for tenth in range(BINS)),
                highest=tuple(ordered[:shown]),
                lowest=tuple(reversed(ordered[len(ordered) - shown :])),
            )
        )
    return AspectFacts(
        images=int(images.sum()),
        classes=int((images > 0).sum()),
        class_targets=names.class_targets,
        class_bits=float(-(shares * np.log2(shares)).sum()),
        judged=0 if alone is None else alone.images,
        accuracy=None if alone is None else alone.accuracy,
        compared=agreement.images,
        held_out=held_out,
        questions=tuple(sorted(lines, key=lambda line: (-line.bits, line.rank))),
        overhead=overhead,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
