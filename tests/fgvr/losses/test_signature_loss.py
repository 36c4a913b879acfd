"""The loss of signatures: by hand, against SciPy, and its gradient."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from fgvr.losses.signatures import option_places, signature_rows


def test_by_hand() -> None:
    # One question of two options, one of three. Of the first image the outputs say ½, ½ and ½, ¼, ¼.
    logits = torch.tensor([[0.0, 0.0, math.log(2), 0.0, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]])
    signatures = torch.tensor([[1.0, 0.0, 0.25, 0.25, 0.5], [0.5, 0.5, 1 / 3, 1 / 3, 1 / 3]])
    first = math.log(2)
    second = 0.25 * math.log(0.25 / 0.5) + 0.25 * math.log(0.25 / 0.25) + 0.5 * math.log(0.5 / 0.25)
    rows = signature_rows(logits, signatures, option_places([2, 3]))
    assert rows.tolist() == pytest.approx([(first + second) / 2, 0], abs=1e-6)


@pytest.mark.parametrize("sizes", [[2], [4, 4], [3, 2, 5], [26, 2]])
def test_the_mean_of_scipys_divergences(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (6, sum(sizes)))
    signatures = np.concatenate([rng.dirichlet(np.ones(size), 6) for size in sizes], axis=1)
    ends = np.cumsum(sizes)[:-1]
    parts = zip(np.split(signatures, ends, axis=1), np.split(logits, ends, axis=1), strict=True)
    expected = np.mean([entropy(own, softmax(outputs, axis=1), axis=1) for own, outputs in parts], axis=0)
    found = signature_rows(torch.from_numpy(logits), torch.from_numpy(signatures), option_places(sizes))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_an_image_without_a_signature_adds_nothing_not_even_to_gradients() -> None:
    logits = torch.tensor([[1.0, 0.0, 3.0], [0.0, 2.0, 1.0]], requires_grad=True)
    signatures = torch.tensor([[torch.nan] * 3, [0.2, 0.3, 0.5]])
    rows = signature_rows(logits, signatures, option_places([3]))
    rows.sum().backward()
    assert logits.grad is not None
    assert rows[0] == 0
    assert logits.grad[0].tolist() == [0, 0, 0]
    expected = logits[1].detach().softmax(0) - signatures[1]  # of one question
    assert logits.grad[1].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0, 0.0, 1e4]], requires_grad=True)
    rows = signature_rows(logits, torch.tensor([[0.0, 1.0, 0.5, 0.5, 0.0]]), option_places([2, 3]))
    rows.sum().backward()
    assert logits.grad is not None
    assert rows.isfinite().all()
    assert logits.grad.isfinite().all()
