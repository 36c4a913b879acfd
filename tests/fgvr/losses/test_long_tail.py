import math

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from fgvr.losses.long_tail import balanced_cross_entropy, inverse_frequency, seesaw_loss
from fgvr.losses.pll import cross_entropy

# Softmax of the first row is (1/6, 2/6, 3/6), of the second (1/2, 1/4, 1/4).
LOGITS = torch.tensor([[1 / 6, 2 / 6, 3 / 6], [1 / 2, 1 / 4, 1 / 4]]).log() + torch.tensor([[3.0], [-7.0]])


def test_weights_are_inverse_and_have_mean_one():
    weights = inverse_frequency(torch.tensor([100, 10, 1]))
    np.testing.assert_allclose(weights, [0.027027, 0.27027, 2.7027], rtol=1e-4)
    assert inverse_frequency(torch.tensor([2, 0, 2])).tolist() == [1.0, 0.0, 1.0]
    assert inverse_frequency(torch.tensor([0, 0])).tolist() == [0.0, 0.0]


def test_balanced_cross_entropy_by_hand():
    # Counts (1, 3, 9): weights ∝ 9 : 3 : 1. Image 0 is of class 0 (CE ln 6), image 1 of class 1 (CE ln 4).
    found = balanced_cross_entropy(LOGITS, torch.tensor([0, 1]), torch.tensor([1, 3, 9]))
    assert_close(found, torch.tensor((9 * math.log(6) + 3 * math.log(4)) / 12))
    assert_close(
        balanced_cross_entropy(LOGITS, torch.tensor([0, -1]), torch.tensor([1, 3, 9])), torch.tensor(math.log(6))
    )
    assert balanced_cross_entropy(LOGITS, torch.tensor([-1, -1]), torch.tensor([1, 3, 9])) == 0


def test_balanced_cross_entropy_is_scikit_learns_balanced_logistic_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = (x[:, 0] + rng.normal(size=200) > 1.2).astype(np.int64)  # a tenth is of class 1
    reference = LogisticRegression(C=1e6, class_weight="balanced", tol=1e-10, max_iter=10_000).fit(x, y)
    weight = torch.tensor(np.stack([np.zeros(3), reference.coef_[0]]), requires_grad=True)
    bias = torch.tensor([0.0, reference.intercept_[0]], dtype=torch.float64, requires_grad=True)
    loss = balanced_cross_entropy(torch.tensor(x) @ weight.T + bias, torch.tensor(y), torch.bincount(torch.tensor(y)))
    loss.backward()
    # Its optimum is ours.
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.abs().max() < 1e-5
    assert bias.grad.abs().max() < 1e-5


def test_seesaw_with_equal_counts_and_no_errors_is_cross_entropy():
    labels = torch.tensor([2, 0])  # the most probable ones
    assert_close(seesaw_loss(LOGITS, labels, torch.tensor([5, 5, 5])), cross_entropy(LOGITS, labels))


def test_seesaw_by_hand():
    # Image 0 is of class 1 with 16 images; class 0 has 1, class 2 has 64. Probabilities are 1/6, 2/6, 3/6.
    # M = (1/16)^.5 = 1/4 for class 0, 1 for class 2; C = 1 for class 0 and (3/2)^2 = 9/4 for class 2.
    counts = torch.tensor([1, 16, 64])
    expected = -math.log((2 / 6) / (1 / 6 / 4 + 2 / 6 + 9 / 4 * 3 / 6))
    assert_close(seesaw_loss(LOGITS[:1], torch.tensor([1]), counts, p=0.5, q=2.0), torch.tensor(expected))
    # An image without a label counts as zero loss.
    both = seesaw_loss(LOGITS, torch.tensor([1, -1]), counts, p=0.5, q=2.0)
    assert_close(both, torch.tensor(expected / 2))


def test_seesaw_does_not_differentiate_its_factors_and_survives_extreme_logits():
    logits = LOGITS[:1].clone().requires_grad_()
    seesaw_loss(logits, torch.tensor([1]), torch.tensor([1, 16, 64]), p=0.5, q=2.0).backward()
    shares = np.array([1 / 6 / 4, 2 / 6, 9 / 4 * 3 / 6])
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad[0], shares / shares.sum() - [0, 1, 0], rtol=1e-5)
    assert seesaw_loss(torch.tensor([[500.0, -500.0]]), torch.tensor([1]), torch.tensor([1, 0])).isfinite()
