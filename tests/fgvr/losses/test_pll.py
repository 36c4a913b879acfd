import math

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


@pytest.mark.parametrize("loss", ["proden", "cc", "gce", "ce"])
def test_gradients_against_finite_differences(loss):
    torch.manual_seed(0)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]], dtype=torch.bool)
    weights = pll.proden_weights(torch.randn(4, 5), mask)
    functions = {
        "proden": lambda x: pll.proden_loss(x, weights),
        "cc": lambda x: pll.cc_loss(x, mask),
        "gce": lambda x: pll.gce_loss(x, weights, 0.7),
        "ce": lambda x: pll.cross_entropy(x, torch.tensor([0, 1, 2, -1])),
    }
    # The losses compute in fp32, so the steps are large and the tolerance is fp32's.
    assert torch.autograd.gradcheck(functions[loss], logits, eps=1e-2, atol=2e-3, rtol=2e-2)


def test_the_gradient_of_proden_is_p_minus_w():
    logits = LOGITS.clone().requires_grad_()
    pll.proden_loss(logits, UNIFORM).backward()
    assert_close(logits.grad, (P - UNIFORM) / 2)


@pytest.mark.parametrize("loss", [pll.proden_loss, pll.gce_loss, pll.cc_loss])
def test_images_without_candidates_add_nothing(loss):
    logits = torch.cat([LOGITS, torch.randn(2, 3)]).requires_grad_()
    mask = torch.cat([MASK, torch.zeros(2, 3, dtype=torch.bool)])
    targets = mask if loss is pll.cc_loss else pll.proden_weights(logits, mask)
    assert targets.isfinite().all()
    found = loss(logits, targets)
    assert_close(found, loss(LOGITS, targets[:2]) / 2)
    found.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[2:] == 0).all()
