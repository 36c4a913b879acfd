"""The report's numbers on aspects: how informative each question is, how well the student learned it, and its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fgvr.evaluation.aspects import AspectAgreement, ClassSums, LeaveOneOut, chance_bits, mutual_information

BINS = 10
"""Bins of a histogram over the classes: tenths of p(yes)."""
SHOWN_CLASSES = 3
"""How many classes with the highest and with the lowest p(yes) are named."""


@dataclass(frozen=True)
class Overhead:
    """The cost of the aspects; None if not measured.

    Attributes:
        parameters: number of parameters of the student with its aspect outputs.
        parameters_without: number of parameters of the same student without them.
        images_per_second: in training, of the fastest epoch, which other work on the machine disturbed least.
        images_per_second_without: the same for the student without aspects.
        seconds_per_answer: wall time of the aspects stage / (images × questions) (paper: 0.83 s on an RTX 3090).
    """

    parameters: int
    parameters_without: int
    images_per_second: float | None
    images_per_second_without: float | None
    seconds_per_answer: float | None

    @property
    def time(self) -> float | None:
        """Training time per image relative to that without aspects, minus 1; None if either is not known."""
        if not self.images_per_second or not self.images_per_second_without:
            return None
        return self.images_per_second_without / self.images_per_second - 1


@dataclass(frozen=True)
class AspectLine:
    """The numbers of one question.

    Attributes:
        question: its text.
        rank: 1 = first asked.
        mean: p(yes) over all images.
        bits: how many bits an answer tells about the class.
        chance: bits that it would seem to tell by chance, because images are few.
        drop: share of right classes that the answers alone lose without this question; None if undefined.
        drop_error: standard error of `drop`.
        correlation: between MLLM and student on held-out images (on training images if none are held out); None if one
            of them always gives the same answer.
        same: share of these images on which both give the same answer.
        histogram: number of classes by tenth of their mean p(yes).
        highest: (class, mean p(yes)) of the classes with the highest mean.
        lowest: the same for the classes with the lowest mean.
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
        images: number of images with answers and a class.
        classes: number of classes with such an image.
        class_targets: where the classes come from: `true`, or the method that named the images (`near` …).
        class_bits: entropy of the class, the most that answers can tell.
        judged: number of images in the leave-one-out estimate; 0 if it was not possible.
        accuracy: share of right classes from the answers alone; None if it was not possible.
        compared: number of images on which student and MLLM were compared.
        held_out: whether these were held out of the student's training.
        questions: most informative first.
        overhead: cost in time and parameters.
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
        """The facts as JSON types."""
        return {**asdict(self), "overhead": {**asdict(self.overhead), "time": self.overhead.time}}


@dataclass(frozen=True)
class Names:
    """The names behind the numbers: the questions that the student learned, its classes, and their origin."""

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
    """The facts of Q questions, most informative first; among equals the better ranked one first.

    Args:
        names: names of questions and classes.
        sums: sums over all images.
        alone: what the answers alone tell.
        agreement: agreement of MLLM and student.
        overhead: cost of the aspects.
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
