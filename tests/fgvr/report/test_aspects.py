"""The facts about aspects, from a table of four images worked by hand."""

import json

import numpy as np
import pytest

from fgvr.evaluation.aspects import AspectAgreement, ClassSums, LeaveOneOut
from fgvr.report.aspects import Names, Overhead, aspect_facts

NAMES = Names(["Is it wide?", "Is it red?"], ["Ant", "Bee", "Cat", "never seen"], "near")
NONE = np.array([np.nan, np.nan])
COST = Overhead(110, 100, 90.0, 99.0, None)


def facts(alone=None, correlation=NONE, cost=COST):
    sums = ClassSums(4, 2)
    answers = np.array([[0.5, 1.0], [0.5, 0.9], [0.5, 0.0], [0.5, 0.04]], dtype=np.float32)
    sums.add(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 2]), answers)
    return aspect_facts(NAMES, sums, alone, AspectAgreement(3, correlation, NONE, correlation), cost, held_out=True)


def test_the_most_telling_question_comes_first():
    first, second = facts().questions
    assert (first.question, first.rank, second.question, second.rank) == ("Is it red?", 2, "Is it wide?", 1)
    assert first.mean == pytest.approx(0.485)
    # H(0.485) - (H(0.95) / 2 + H(0) / 4 + H(0.04) / 4) = 0.99935 - 0.14320 - 0.06057
    assert first.bits == pytest.approx(0.79558, abs=1e-4)
    assert second.bits == pytest.approx(0, abs=1e-9)
    assert first.histogram == (2, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    assert first.highest == (("Ant", pytest.approx(0.95)),)
    assert first.lowest == (("Bee", 0),)


def test_a_class_without_images_is_in_no_number():
    found = facts()
    assert (found.images, found.classes) == (4, 3)
    assert found.class_bits == pytest.approx(1.5)  # shares 1/2, 1/4, 1/4
    assert sum(found.questions[0].histogram) == 3


def test_what_is_not_known_is_null_in_json():
    content = facts().as_json()
    text = json.dumps(content, allow_nan=False)
    line = json.loads(text)["questions"][0]
    assert line["correlation"] is line["same"] is line["drop"] is content["accuracy"] is None
    assert content["judged"] == 0
    assert content["overhead"]["time"] == pytest.approx(0.1)  # 99 images a second without aspects, 90 with


def test_what_is_known_goes_to_its_question():
    alone = LeaveOneOut(4, 0.75, np.array([0.0, 0.5]), np.array([0.1, 0.2]))
    first = facts(alone, np.array([0.3, 0.7])).questions[0]
    assert (first.drop, first.drop_error, first.correlation, first.same) == (0.5, 0.2, 0.7, 0.7)


def test_time_is_unknown_without_a_student_to_compare_with():
    assert facts(cost=Overhead(110, 100, 90.0, None, None)).overhead.time is None
