import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fgvr.losses import pll

# Two images, three labels; softmax of the first row is (1/6, 2/6, 3/6), of the second (1/2, 1/4, 1/4).
P = torch.tensor([[1 / 6, 2 / 6, 3 / 6], [1 / 2, 1 / 4, 1 / 4]])
LOGITS = P.log() + torch.tensor([[3.0], [-7.0]])
MASK = torch.tensor([[True, True, False], [False, True, True]])
UNIFORM = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])


def test_proden_by_hand():
    # −½(½ ln 1/6 + ½ ln 2/6 + ½ ln 1/4 + ½ ln 1/4)
    expected = (math.log(6) + math.log(3) + math.log(4) + math.log(4)) / 4
    assert_close(pll.proden_loss(LOGITS, UNIFORM), torch.tensor(expected))
    assert_close(pll.proden_weights(LOGITS, MASK), torch.tensor([[1 / 3, 2 / 3, 0.0], [0.0, 0.5, 0.5]]))


def test_weights_are_detached():
    assert not pll.proden_weights(LOGITS.clone().requires_grad_(), MASK).requires_grad


def test_a_candidate_survives_underflow():
    # e^−200 is 0 in fp32: the weight becomes 0, yet the next update gives the candidate its due.
    weights = pll.proden_weights(torch.tensor([[0.0, 200.0, 0.0]]), MASK[:1])
    assert weights.tolist() == [[0.0, 1.0, 0.0]]
    assert pll.proden_loss(torch.tensor([[0.0, 200.0, 0.0]]), weights).isfinite()
    again = pll.proden_weights(torch.tensor([[5.0, 5.0, 900.0]]), MASK[:1])
    assert_close(again, torch.tensor([[0.5, 0.5, 0.0]]))


def test_all_candidates_far_below_the_rest_keep_their_proportions():
    weights = pll.proden_weights(torch.tensor([[-300.0, -300.0 + math.log(3), 100.0]]), MASK[:1])
    assert_close(weights, torch.tensor([[0.25, 0.75, 0.0]]), rtol=1e-4, atol=1e-5)


def test_low_precision_logits_are_taken_in_fp32():
    loss = pll.proden_loss(LOGITS.bfloat16(), UNIFORM)
    assert loss.dtype == torch.float32
    assert pll.proden_weights(LOGITS.bfloat16(), MASK).dtype == torch.float32


def test_cc_by_hand():
    # −½(ln(1/6 + 2/6) + ln(1/4 + 1/4)) = ln 2
    assert_close(pll.cc_loss(LOGITS, MASK), torch.tensor(math.log(2)))


def test_gce_by_hand():
    # q = 1 is 1 − p: ½(½(5/6 + 4/6) + ½(3/4 + 3/4)) = 3/4
    assert_close(pll.gce_loss(LOGITS, UNIFORM, q=1.0), torch.tensor(0.75))
    expected = sum((1 - p**0.5) / 0.5 for p in (1 / 6, 2 / 6, 1 / 4, 1 / 4)) / 4
    assert_close(pll.gce_loss(LOGITS, UNIFORM, q=0.5), torch.tensor(expected))
    assert_close(pll.gce_loss(LOGITS, UNIFORM, q=1e-4), pll.proden_loss(LOGITS, UNIFORM), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="q must be in"):
        pll.gce_loss(LOGITS, UNIFORM, q=0.0)


def test_cross_entropy_by_hand_and_without_a_label():
    assert_close(pll.cross_entropy(LOGITS, torch.tensor([2, 0])), torch.tensor(math.log(2)))
    assert_close(pll.cross_entropy(LOGITS, torch.tensor([2, -1])), torch.tensor(math.log(2) / 2))


def test_lws_by_hand():
    # Image 1: inside ½ ln 6 + ½ ln 3, outside the third label alone: −ln(1 − 3/6). Image 2: ln 4, and −ln(1 − 1/2).
    inside, outside = (math.log(6) + math.log(3)) / 2 + math.log(4), 2 * math.log(2)
    for beta in (0.0, 1.0, 2.0):
        assert_close(pll.lws_loss(LOGITS, UNIFORM, MASK, beta), torch.tensor((inside + beta * outside) / 2))
    # Two labels outside share by their probabilities, 2/6 : 3/6 = 0.4 : 0.6.
    mask = torch.tensor([[True, False, False]])
    expected = math.log(6) - 0.4 * math.log(4 / 6) - 0.6 * math.log(3 / 6)
    assert_close(pll.lws_loss(LOGITS[:1], mask.float(), mask), torch.tensor(expected))


def test_lws_is_finite_where_a_wrong_probability_rounds_to_one():
    # p of the second label is 1 − e^−40 in truth and 1 in fp32: −log(1 − p) is 40, and its gradient one of logits.
    logits = torch.tensor([[0.0, 40.0]], requires_grad=True)
    loss = pll.lws_loss(logits, torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    assert_close(loss, torch.tensor(80.0))
    loss.backward()
    assert_close(logits.grad, torch.tensor([[-2.0, 2.0]]))


def test_lws_without_labels_outside_the_set_is_proden():
    for labels in (1, 3):
        logits = torch.randn(2, labels, generator=torch.Generator().manual_seed(0)).requires_grad_()
        everything = torch.ones(2, labels, dtype=torch.bool)
        weights = pll.proden_weights(logits, everything)
        loss = pll.lws_loss(logits, weights, everything)
        assert_close(loss, pll.proden_loss(logits, weights))
        loss.backward()
        assert logits.grad.isfinite().all()


def test_cavl_by_hand():
    # |v − 1| · v: 30 · 29 beats 20 · 19; among −1 and 0.5 it is −2 and 0.25, among 0.5 and 0.9 it is 0.25 and 0.09.
    logits = torch.tensor([[30.0, 20.0, 99.0], [7.0, -1.0, 0.5], [0.5, 0.9, 3.0]])
    mask = torch.tensor([[True, True, False], [False, True, True], [True, True, False]])
    assert pll.cavl_weights(logits, mask).tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert not pll.cavl_weights(logits.requires_grad_(), mask).requires_grad


FUNCTIONS = {
    "proden": lambda x, weights, _mask: pll.proden_loss(x, weights),
    "cc": lambda x, _weights, mask: pll.cc_loss(x, mask),
    "gce": lambda x, weights, _mask: pll.gce_loss(x, weights, 0.7),
    "mae": lambda x, weights, _mask: pll.gce_loss(x, weights, 1.0),
    "lws": lambda x, weights, mask: pll.lws_loss(x, weights, mask, 2.0),
    "ce": lambda x, _weights, mask: pll.cross_entropy(x, mask.int().argmax(dim=1)),
}
FIVE = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]], dtype=torch.bool)


@pytest.mark.parametrize("loss", FUNCTIONS)
def test_gradients_against_finite_differences(loss):
    torch.manual_seed(0)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    weights = pll.proden_weights(torch.randn(4, 5, dtype=torch.float64), FIVE)
    if loss == "lws":
        # Its outer weights are constants: with one label outside they are 1, whatever the logits are.
        mask = torch.ones(4, 5, dtype=torch.bool)
        mask[torch.arange(4), torch.tensor([0, 2, 4, 1])] = False
        weights = pll.proden_weights(torch.randn(4, 5, dtype=torch.float64), mask)
        assert torch.autograd.gradcheck(lambda x: FUNCTIONS[loss](x, weights, mask), logits)
        return
    assert torch.autograd.gradcheck(lambda x: FUNCTIONS[loss](x, weights, FIVE), logits)


def test_losses_against_loops_in_numpy():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4, 5)) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights, expected = np.zeros((4, 5)), dict.fromkeys(("proden", "cc", "gce", "mae", "lws"), 0.0)
    for i, inside in enumerate(FIVE.numpy()):
        weights[i, inside] = random.dirichlet(np.ones(inside.sum()))
        outside_total = p[i, ~inside].sum()
        for j in range(5):
            if inside[j]:
                expected["proden"] -= weights[i, j] * np.log(p[i, j]) / 4
                expected["gce"] += weights[i, j] * (1 - p[i, j] ** 0.7) / 0.7 / 4
                expected["mae"] += weights[i, j] * (1 - p[i, j]) / 4
                expected["lws"] -= weights[i, j] * np.log(p[i, j]) / 4
            else:
                expected["lws"] -= 2 * p[i, j] / outside_total * np.log(1 - p[i, j]) / 4
        expected["cc"] -= np.log(p[i, inside].sum()) / 4
    for name, value in expected.items():
        found = FUNCTIONS[name](torch.from_numpy(logits), torch.from_numpy(weights), FIVE)
        assert found.item() == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("loss", FUNCTIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_logit_breaks_the_loss(loss, value):
    logits = torch.zeros(4, 5)
    weights = pll.proden_weights(logits, FIVE)
    assert FUNCTIONS[loss](logits, weights, FIVE).isfinite()
    logits[1, 1] = value
    assert FUNCTIONS[loss](logits, weights, FIVE).isnan()
    assert pll.proden_weights(logits, FIVE)[1].isnan().any()
    if math.isnan(value):
        assert pll.cavl_weights(logits, FIVE)[1].isnan().any()


def test_the_gradient_of_proden_is_p_minus_w():
    logits = LOGITS.clone().requires_grad_()
    pll.proden_loss(logits, UNIFORM).backward()
    assert_close(logits.grad, (P - UNIFORM) / 2)


@pytest.mark.parametrize("loss", ["proden", "gce", "cc", "lws"])
def test_images_without_candidates_add_nothing(loss):
    logits = torch.cat([LOGITS, torch.randn(2, 3)]).requires_grad_()
    mask = torch.cat([MASK, torch.zeros(2, 3, dtype=torch.bool)])
    weights = pll.proden_weights(logits, mask)
    assert (weights[2:] == 0).all()
    assert (pll.cavl_weights(logits, mask)[2:] == 0).all()
    found = FUNCTIONS[loss](logits, weights, mask)
    assert_close(found, FUNCTIONS[loss](LOGITS, weights[:2], MASK) / 2)
    found.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[2:] == 0).all()
