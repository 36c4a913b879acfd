"""nms against a naive loop, RoIAlign against torchvision's own formula in plain Python."""

import sys

import numpy as np
import pytest
import torch

import fgvr  # noqa: F401 - prepares torchvision beside a CPU torch
from fgvr.detection.operators import nms, provide_operators, roi_align


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def naive_nms(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    waiting = sorted(range(len(boxes)), key=lambda n: (-scores[n], n))
    kept: list[int] = []
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        waiting = [n for n in waiting if overlap(boxes[best], boxes[n]) <= threshold]
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("levels", [3, 1000])  # few levels of the score: many ties
def test_nms_is_the_naive_loop(threshold, levels):
    rng = np.random.default_rng(levels)
    corners = rng.integers(0, 40, (150, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 25, (150, 2))], axis=1).astype(np.float32)  # some empty
    scores = rng.integers(0, levels, 150).astype(np.float32)
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    assert kept.tolist() == naive_nms(boxes.tolist(), scores.tolist(), threshold)


def test_nms_by_hand():
    # Boxes 0 and 1 overlap by 80 / 120, box 2 lies apart, box 3 has no area and equals the score of box 2.
    boxes = torch.tensor([[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60], [50, 50, 50, 60]], dtype=torch.float32)
    scores = torch.tensor([0.5, 0.9, 0.7, 0.7])
    assert nms(boxes, scores, 0.66).tolist() == [1, 2, 3]
    assert nms(boxes, scores, 0.67).tolist() == [1, 2, 3, 0]
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_is_torchvision_s_formula(aligned):
    import torchvision.ops  # noqa: F401

    formula = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(3, 5, 12, 9, generator=generator, requires_grad=True)
    corners = torch.rand(20, 2, generator=generator) * torch.tensor([60.0, 80.0])
    sizes = torch.rand(20, 2, generator=generator) * (torch.tensor([72.0, 96.0]) - corners)  # up to the edges
    boxes = torch.cat([torch.randint(0, 2, (20, 1), generator=generator), corners, corners + sizes], dim=1)
    ours = roi_align(features, boxes, (4, 3), 1 / 8, 2, aligned)
    theirs = formula(features, boxes, 1 / 8, 4, 3, 2, aligned)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weights = torch.rand(ours.shape, generator=generator)
    gradients = [torch.autograd.grad((out * weights).sum(), features)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_roi_align_by_hand():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    # One bin over the whole 4 × 4 image, one sample in its middle: the mean of 5, 6, 9 and 10.
    assert roi_align(image, torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]]), (1, 1), 1.0, 1, True).item() == 7.5
    assert roi_align(image, torch.zeros(0, 5), (2, 2), 1.0, 1).shape == (0, 1, 2, 2)
    one = torch.full((1, 1, 1, 1), 3.0)  # a feature map of one cell has one value
    assert roi_align(one, torch.tensor([[0, 0.0, 0.0, 30.0, 30.0]]), (2, 2), 1 / 32, 2).flatten().tolist() == [3.0] * 4
    with pytest.raises(ValueError, match="sampling_ratio"):
        roi_align(image, torch.zeros(1, 5), (1, 1))


def test_torchvision_s_models_are_given_them_only_where_it_has_none():
    import torchvision

    needed = provide_operators()
    assert needed != torchvision.extension._has_ops()
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    kept = torchvision.ops.boxes.batched_nms(boxes, torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 0, 1]), 0.5)
    assert kept.tolist() == [2, 1]  # the first is suppressed within its class
