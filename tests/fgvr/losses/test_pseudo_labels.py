"""Pseudo-labels by hand: the numbers of Semi-ViT's and FlexMatch's equations."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from fgvr.losses.pseudo_labels import NEVER, class_thresholds, pseudo_labels, pseudo_rows

YES = torch.ones(2, dtype=torch.bool)


def of(confidence: list[float], classes: int = 3) -> torch.Tensor:
    """Probabilities whose first class has these confidences, and whose other classes share the rest."""
    first = torch.tensor(confidence)[:, None]
    return torch.cat([first, ((1 - first) / (classes - 1)).expand(-1, classes - 1)], dim=1)


def test_a_pair_is_blended_by_confidence_and_learned_where_the_surer_one_passes() -> None:
    labels = pseudo_labels(of([0.9, 0.5]), torch.full((3,), 0.7), YES, mixup=True)
    assert labels.share.tolist() == pytest.approx([0.9 / 1.4, 0.5 / 1.4])
    assert labels.confident.tolist() == [True, False]
    assert labels.kept.tolist() == [True, True]
    blended = labels.blended(torch.tensor([[[[0]]], [[[140]]]], dtype=torch.uint8))
    assert blended[0].item() == pytest.approx(50)
    assert blended[1].item() == pytest.approx(50)


def test_two_unsure_photos_are_not_learned_though_they_are_blended() -> None:
    labels = pseudo_labels(of([0.4, 0.4]), torch.full((3,), 0.5), YES, mixup=True)
    assert labels.share.tolist() == [0.5, 0.5]
    assert not labels.kept.any()
    assert pseudo_rows(torch.zeros(2, 3), labels).tolist() == [0, 0]


def test_rows_are_the_cross_entropy_of_the_blended_names() -> None:
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2], [0.75, 0.15, 0.1]])
    labels = pseudo_labels(probabilities, torch.full((3,), 0.7), torch.ones(4, dtype=torch.bool), mixup=True)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    one_hot = F.one_hot(labels.names, 3).float()
    mixed = labels.share[:, None] * one_hot + (1 - labels.share)[:, None] * one_hot[[3, 2, 1, 0]]
    expected = F.cross_entropy(logits, mixed, reduction="none")
    torch.testing.assert_close(pseudo_rows(logits, labels), expected)


def test_without_blending_each_stands_for_itself_and_the_unreadable_for_nothing() -> None:
    probabilities = of([0.9, 0.9, 0.3])
    readable = torch.tensor([True, False, True])
    labels = pseudo_labels(probabilities, torch.full((3,), 0.7), readable, mixup=False)
    assert labels.kept.tolist() == [True, False, False]
    assert labels.partners.tolist() == [0, 1, 2]
    blended = pseudo_labels(probabilities[:2], torch.full((3,), 0.7), readable[:2], mixup=True)
    assert blended.share.tolist() == [1, 0]  # the unreadable one has no part, and none of it is black


def test_nobody_readable_is_not_a_number_gone_wrong() -> None:
    labels = pseudo_labels(of([0.9, 0.9]), torch.zeros(3), ~YES, mixup=True)
    assert not labels.kept.any()
    assert torch.isfinite(labels.share).all()


def test_thresholds_per_class() -> None:
    # 6 of class 0, 3 of class 1, none of class 2, one photo never: β = 1, 1/2, 0; M = 1, 1/3, 0.
    last = np.array([0] * 6 + [1] * 3 + [NEVER], np.int32)
    assert class_thresholds(last, 3, 0.9).tolist() == pytest.approx([0.9, 0.3, 0.0])
    # More photos never reached than of any class: 10 of them lower all (the warm-up of equation 11).
    last = np.array([0] * 5 + [NEVER] * 10, np.int32)
    assert class_thresholds(last, 2, 0.9).tolist() == pytest.approx([0.9 * 0.5 / 1.5, 0.0])
    # Nobody knows anything yet, or nobody can.
    assert class_thresholds(np.full(9, NEVER, np.int32), 2, 0.9).tolist() == pytest.approx([0.9, 0.9])
    assert class_thresholds(np.zeros(0, np.int32), 2, 1.5).tolist() == [1.5, 1.5]


def test_a_threshold_per_class_is_that_of_the_surer_of_a_pair() -> None:
    probabilities = torch.tensor([[0.6, 0.4], [0.2, 0.8]])
    labels = pseudo_labels(probabilities, torch.tensor([0.5, 0.9]), YES, mixup=True)
    assert labels.confident.tolist() == [True, False]
    assert labels.kept.tolist() == [False, False]
