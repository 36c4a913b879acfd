"""Maps and cards of aspects."""

import numpy as np

from fgvr.report.aspects import AspectLine
from fgvr.report.pictures import MAP_SIDE, answer_pairs, choose_cards, class_dots


def test_ten_classes_have_a_colour_and_every_image_is_a_dot():
    names = [f"class {n:02d}" for n in range(12) for _ in range(12 - n)]  # 12 images of the first, 1 of the last
    points = np.linspace(0, 1, 2 * len(names)).reshape(-1, 2)
    dots = class_dots(names, points, points[::-1])
    assert [(one.name, one.colour) for one in dots] == [("", 0), *((f"class {n:02d}", n + 1) for n in range(10))]
    assert [one.mllm.count("h0") for one in dots] == [3, *range(12, 2, -1)]
    assert sum(one.student.count("h0") for one in dots) == len(names)


def test_points_lie_inside_the_drawing():
    (dots,) = class_dots(["a", "a"], np.array([[0.0, 0.0], [1.0, 0.5]]), np.zeros((2, 2)))
    assert dots.mllm == f"M6.0 6.0h0M{MAP_SIDE - 6}.0 {MAP_SIDE // 2}.0h0"


def test_answers_are_looked_up_by_rank():
    lines = [AspectLine(f"q{rank}", rank, 0, 0, 0, 0, 0, 0, 0, (), (), ()) for rank in (3, 1)]
    mllm, student = np.array([0.25, 0.2, 0.75]), np.array([0.5, 0.6, np.nan])
    pairs = answer_pairs(lines, mllm.astype(np.float32), student.astype(np.float32))
    assert [(pair.question, pair.mllm, pair.student) for pair in pairs] == [("q3", 0.75, None), ("q1", 0.25, 0.5)]


def test_cards_show_different_classes_first():
    classes = np.array([0] * 50 + [1] * 2 + [2])
    rows = choose_cards(classes, 4, seed=0)
    assert sorted(classes[rows[:3]].tolist()) == [0, 1, 2]
    assert len(set(rows)) == 4
    assert choose_cards(classes, 4, seed=0) == rows
    assert len(choose_cards(classes[:2], 4, seed=0)) == 2
    assert choose_cards(np.zeros(0, dtype=np.int64), 4, seed=0) == []
