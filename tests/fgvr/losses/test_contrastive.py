"""The cross-contrastive loss against numbers worked by hand, and what must not change it."""

import math

import pytest
import torch

from fgvr.losses.contrastive import cross_contrastive_rows, supcon_rows

TAU = 0.07
CLASSES = torch.tensor([0, 0, 1, 1])
SAME = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])


def test_the_floor_is_the_logarithm_of_the_positives():
    # Each row: two positives with cosine 1, two negatives with cosine 0: −ln(e^(1/τ) / (2 e^(1/τ) + 2 e^0)).
    floor = math.log(2 + 2 * math.exp(-1 / TAU))
    assert floor == pytest.approx(0.693148, abs=1e-6)
    assert supcon_rows(SAME, 3 * SAME, CLASSES, TAU).tolist() == pytest.approx([floor] * 4, abs=1e-6)
    assert cross_contrastive_rows([SAME, SAME, SAME], CLASSES, TAU).tolist() == pytest.approx([6 * floor] * 4, abs=1e-5)
    assert cross_contrastive_rows([SAME, SAME], CLASSES, TAU).tolist() == pytest.approx([2 * floor] * 4, abs=1e-5)


def test_a_sum_written_out_in_plain_python():
    one, other = torch.randn(5, 3), torch.randn(5, 3)
    classes = [0, 1, 0, 2, 1]
    a = [row / row.norm() for row in one.double()]
    b = [row / row.norm() for row in other.double()]
    expected = []
    for i in range(5):
        weights = [math.exp(float(a[i] @ b[j]) / 0.5) for j in range(5)]
        mine = [j for j in range(5) if classes[j] == classes[i]]
        expected.append(-sum(math.log(weights[j] / sum(weights)) for j in mine) / len(mine))
    assert supcon_rows(one, other, torch.tensor(classes), 0.5).tolist() == pytest.approx(expected, rel=1e-4)


def test_the_order_of_the_rows_changes_nothing():
    torch.manual_seed(0)
    views, order = [torch.randn(6, 4) for _ in range(3)], torch.tensor([3, 1, 5, 0, 2, 4])
    classes = torch.tensor([0, 1, 0, 2, 2, 1])
    rows = cross_contrastive_rows(views, classes, TAU)
    again = cross_contrastive_rows([view[order] for view in views], classes[order], TAU)
    assert torch.allclose(rows[order], again, atol=1e-5)


def test_rows_without_a_class_count_for_nobody():
    torch.manual_seed(0)
    views, classes = [torch.randn(4, 3, requires_grad=True) for _ in range(2)], torch.tensor([0, 1, -1, 0])
    rows = cross_contrastive_rows(views, classes, TAU)
    kept = torch.tensor([0, 1, 3])
    alone = cross_contrastive_rows([view[kept] for view in views], classes[kept], TAU)
    assert rows[2] == 0
    assert torch.allclose(rows[kept], alone, atol=1e-5)
    rows.sum().backward()
    assert all(bool((view.grad[2] == 0).all()) and bool(view.grad.isfinite().all()) for view in views)


def test_nobody_has_a_class():
    rows = cross_contrastive_rows([torch.randn(2, 3), torch.randn(2, 3)], torch.tensor([-1, -1]), TAU)
    assert rows.tolist() == [0, 0]
