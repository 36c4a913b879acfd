"""Which labels are clean: the mixture's posterior by SciPy's densities, and the refined loss by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.testing import assert_close

from fgvr.losses.mixture import MOST_FITTED, clean_probability, refined_rows


def em(losses, steps=3000):
    """Expectation maximisation for two Gaussians in one dimension, in a few lines of its own."""
    weights, means, deviations = np.array([0.5, 0.5]), np.array([losses.min(), losses.max()]), np.full(2, losses.std())
    for _ in range(steps):
        joint = weights * norm.pdf(losses[:, None], means, deviations)
        share = joint / joint.sum(axis=1, keepdims=True)
        weights = share.mean(axis=0)
        means = (share * losses[:, None]).sum(axis=0) / share.sum(axis=0)
        variances = (share * (losses[:, None] - means) ** 2).sum(axis=0) / share.sum(axis=0)
        deviations = np.sqrt(variances + 5e-4)
    return weights, means, deviations


def noisy_losses(count, share=0.3, seed=0):
    """Losses of clean labels around 0.4 and of noisy ones around 3, and which are noisy."""
    rng = np.random.default_rng(seed)
    noisy = rng.random(count) < share
    return np.where(noisy, rng.normal(3, 0.5, count), rng.normal(0.4, 0.25, count)), noisy


def test_it_is_the_posterior_of_the_lower_component():
    losses, _ = noisy_losses(2000)
    scaled = (losses - losses.min()) / (losses.max() - losses.min())
    weights, means, deviations = em(scaled)
    low = int(means.argmin())
    joint = weights * norm.pdf(np.clip(scaled, means.min(), means.max())[:, None], means, deviations)
    expected = joint[:, low] / joint.sum(axis=1)
    np.testing.assert_allclose(clean_probability(losses, np.ones(2000, bool)), expected, atol=2e-3)


def test_noisy_labels_are_found():
    losses, noisy = noisy_losses(500)
    clean = clean_probability(losses, np.ones(500, bool))
    assert ((clean < 0.5) == noisy).mean() > 0.98


def test_a_lower_loss_is_never_less_clean():
    rng = np.random.default_rng(3)
    losses = np.concatenate([rng.normal(1, 0.05, 300), rng.normal(1.5, 0.6, 300)])  # one of them much wider
    clean = clean_probability(losses, np.ones(600, bool))[np.argsort(losses)]
    assert (np.diff(clean) <= 1e-6).all()
    assert clean[0] > 0.9


def test_images_without_a_label_or_with_a_broken_loss_are_not_clean_and_spoil_nothing():
    losses, _ = noisy_losses(400)
    known = np.ones(400, bool)
    known[:3] = False
    losses[3], losses[4] = np.nan, np.inf
    clean = clean_probability(losses, known)
    assert clean[:5].tolist() == [0, 0, 0, 0, 0]
    np.testing.assert_array_equal(clean[5:], clean_probability(losses[5:], np.ones(395, bool)))


@pytest.mark.parametrize("losses", [[], [2.0], [1.0, 1.0, 1.0]])
def test_labels_that_cannot_be_told_apart_are_believed(losses):
    assert clean_probability(np.array(losses), np.ones(len(losses), bool)).tolist() == [1.0] * len(losses)


def test_two_losses_and_two_values_are_no_error():
    assert clean_probability(np.array([0.1, 3.0]), np.ones(2, bool)).tolist() == pytest.approx([1.0, 0.0], abs=1e-3)
    many = np.repeat([0.1, 3.0], [70, 30])
    assert (clean_probability(many, np.ones(100, bool)) > 0.5).sum() == 70


def test_many_losses_are_fitted_by_their_quantiles():
    losses, noisy = noisy_losses(MOST_FITTED + 5000)
    clean = clean_probability(losses, np.ones(len(losses), bool))
    assert ((clean < 0.5) == noisy).mean() > 0.98


def test_the_refined_loss_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log() + 7
    rows = refined_rows(logits, torch.tensor([1, 1, 1, -1]), torch.tensor([1.0, 0.0, 0.5, 1.0]))
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert_close(rows, torch.tensor([math.log(4), entropy, (math.log(4) + entropy) / 2, 0.0]))


def test_a_prediction_is_a_target_and_gets_no_gradient():
    logits = torch.tensor([[2.0, 0.0]], requires_grad=True)
    refined_rows(logits, torch.tensor([1]), torch.tensor([0.0])).sum().backward()
    assert logits.grad is not None
    # Cross entropy with its own prediction: p − p = 0.
    assert_close(logits.grad, torch.zeros(1, 2))
