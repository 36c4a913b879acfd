"""What is said of a student that learned nothing, or from pseudo-labels that are probably wrong."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from fgvr.config import Makd
from fgvr.training.examples import Examples
from pipelines.student_remarks import doubtful_pseudo_labels, learned_nothing

GUESS = math.log(100)


def of_classes(held: list[int]) -> Examples:
    """Images of these classes, all held out, behind ten to learn from."""
    classes = np.array([0] * 10 + held)
    answers, held_out = np.zeros((len(classes), 0), np.float32), np.arange(len(classes)) >= 10
    return Examples(np.arange(len(classes)), [str(n) for n in range(len(classes))], classes, answers, held_out, "v1")


@pytest.mark.parametrize(
    ("held", "reached", "said"),
    [
        ([0] * 10 + [1] * 30, (0.1, 0.75, 0.3), r"75\.0 of 100 held-out .* be right for 75\.0; lower makd\.lr = 0\.5"),
        ([0] * 10 + [1] * 30, (0.1, 0.8, 0.3), None),
        (list(range(100)), (0.01,), r"1\.0 of 100 held-out"),
        (list(range(100)), (0.02,), None),
        (list(range(20)), (0.0,), None),  # too few to tell
        ([-1] * 50 + list(range(20)), (0.0,), None),  # those without a class are not counted
        ([3] * 50, (1.0,), None),  # a single name: nothing to tell apart
        (list(range(100)), (), None),
    ],
)
def test_no_better_than_one_name(held: list[int], reached: tuple[float, ...], said: str | None) -> None:
    history = [{"epoch": 1.0, "validation_top1": value} for value in reached] or [{"epoch": 1.0}]
    remarks = learned_nothing(history, of_classes(held), 0.5)
    assert (not remarks) if said is None else re.search(said, *remarks)


@pytest.mark.parametrize(
    ("learned", "loss", "semi", "said"),
    [
        (0.0, 0.0, {}, "not confident of a single image"),
        (0.5, 0.49 * GUESS, {}, None),
        (0.5, 0.51 * GUESS, {}, r"was 4\.70, not below .* among 100 names \(4\.61\).*raise makd\.semi\.threshold"),
        (0.5, 0.51 * GUESS, {"weight": 0}, None),
        (0.0, 0.0, {"threshold": 1.1}, None),
    ],
)
def test_pseudo_labels_that_teach_nothing_or_wrong_names(
    learned: float, loss: float, semi: dict[str, Any], said: str | None
) -> None:
    settings = Makd.model_validate({"trainer": "semi", "semi": semi})
    remarks = doubtful_pseudo_labels({"pseudo_learned": learned, "pseudo_loss": loss}, 100, settings)
    assert (not remarks) if said is None else re.search(said, *remarks)
    assert not doubtful_pseudo_labels({"pseudo_learned": learned, "pseudo_loss": loss}, 1, settings)


def test_plain_students_have_none() -> None:
    assert not doubtful_pseudo_labels({"class_loss": 9.9}, 100, Makd())
