"""POP's and RECORDS' rules against numbers worked by hand and against the methods written out with NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.testing import assert_close

from fgvr.losses.real_noise import followed_mean, grown_threshold, log_class_prior, purified, rebalanced_weights


def test_candidates_far_below_the_best_leave_and_the_best_stays():
    weights = torch.tensor([[0.70, 0.2995, 0.0005], [0.98, 0.0, 0.02], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    kept = torch.tensor([[True, True, True], [True, False, True], [False, False, False], [True, True, False]])
    # 0.0005 / 0.70 = 0.0007 is below a thousandth; 0.02 / 0.98 = 0.0204 is not.
    assert purified(weights, kept, 1e-3).tolist() == [
        [True, True, False],
        [True, False, True],
        [False, False, False],
        [True, False, False],
    ]
    assert purified(weights, kept, 0.05).tolist()[1] == [True, False, False]
    assert torch.equal(purified(weights, kept, 0.0), kept)


def test_a_candidate_that_left_does_not_come_back():
    kept = torch.tensor([[True, False, True]])
    assert purified(torch.tensor([[0.1, 0.8, 0.1]]), kept, 0.5).tolist() == [[True, False, True]]


def test_the_threshold_grows_where_hardly_anything_changed():
    # A ten-thousandth of 1,000 images × 50 labels are 5 cells.
    grown = [grown_threshold(1e-3, 1e-3, changed=changed, images=1000, labels=50) for changed in (0, 4, 5, 100)]
    assert grown == [pytest.approx(1.001e-3), pytest.approx(1.001e-3), 1e-3, 1e-3]
    assert grown_threshold(0.4, 0.5, changed=0, images=1000, labels=50) == 0.4


def test_purification_agrees_with_the_authors_algorithm_written_out():
    """As in palm-ml/POP's main.py, on a full matrix N × C: mean of five epochs, ratio to the largest, renormalised."""
    rng = np.random.default_rng(0)
    record = rng.dirichlet(np.full(6, 0.05), size=(5, 40)).astype(np.float64)
    matrix = np.ones((40, 6))
    mean = record.mean(axis=0)
    mean = mean / mean.sum(axis=1, keepdims=True)
    matrix[mean / mean.max(axis=1, keepdims=True) < 0.05] = 0
    expected = mean * matrix / (mean * matrix).sum(axis=1, keepdims=True)
    kept = purified(torch.from_numpy(record).mean(dim=0), torch.ones(40, 6, dtype=torch.bool), 0.05)
    left = torch.from_numpy(record).mean(dim=0) * kept
    assert 40 < int((~kept).sum()) < 200
    np.testing.assert_array_equal(kept.numpy(), matrix > 0)
    np.testing.assert_allclose((left / left.sum(dim=1, keepdim=True)).numpy(), expected, rtol=1e-6)


def test_the_mean_feature_follows_slowly_and_keeps_no_gradient():
    mean = torch.zeros(2)
    batch = torch.tensor([1.0, 3.0], requires_grad=True)
    once = followed_mean(mean, batch, 0.9)
    assert_close(once, torch.tensor([0.1, 0.3]))
    assert_close(followed_mean(once, batch, 0.9), torch.tensor([0.19, 0.57]))
    assert not once.requires_grad


def test_the_prior_is_the_softmax_for_the_mean_feature_with_a_floor():
    logits = torch.tensor([math.log(6.0), math.log(3.0), math.log(1.0)])
    assert_close(log_class_prior(logits).exp(), torch.tensor([0.6, 0.3, 0.1]))
    assert log_class_prior(torch.tensor([0.0, -1000.0]))[1].item() == pytest.approx(math.log(1e-9))


def test_a_rare_name_wins_where_the_prior_alone_spoke_for_the_frequent_one():
    # p = (0.6, 0.3, 0.1) is the prior itself: without it all candidates are equal.
    prior = torch.tensor([0.6, 0.3, 0.1]).log()
    mask = torch.tensor([[True, True, False], [True, True, False]])
    logits = torch.stack([prior, torch.tensor([0.6, 0.4, 0.0]).log()])
    weights = rebalanced_weights(logits, mask, prior)
    # 0.6 / 0.6 : 0.4 / 0.3 = 1 : 4/3.
    assert_close(weights, torch.tensor([[0.5, 0.5, 0.0], [3 / 7, 4 / 7, 0.0]]))


def test_rebalanced_weights_agree_with_the_authors_code_written_out():
    """As Proden_loss_RECORDS: softmax of the logits less log(bias + 1e-9), on the candidates, renormalised."""
    rng = np.random.default_rng(1)
    logits, mean_logits = rng.normal(size=(20, 7)) * 3, rng.normal(size=7) * 2
    mask = rng.random((20, 7)) < 0.5
    mask[:, 0] = True
    output = softmax(logits - np.log(softmax(mean_logits) + 1e-9), axis=1) * mask
    expected = output / output.sum(axis=1, keepdims=True)
    prior = log_class_prior(torch.from_numpy(mean_logits))
    found = rebalanced_weights(torch.from_numpy(logits), torch.from_numpy(mask), prior)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
