import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import log_loss

from fgvr.losses.makd import UNKNOWN_CLASS, aspect_counts, makd_loss, makd_terms

LN2, LN3 = math.log(2), math.log(3)


def test_hand_worked_value():
    # Image 0: class logits (ln 3, 0): softmax (3/4, 1/4), class 0 costs ln(4/3). Image 1: (0, 0), class 1 costs ln 2.
    # Aspect logits (0 | ln 3) against p = (1 | 0): sigmoid 1/2 costs ln 2; sigmoid 3/4 against 0 costs ln 4.
    outputs = torch.tensor([[LN3, 0.0, 0.0], [0.0, 0.0, LN3]])
    loss = makd_loss(outputs, torch.tensor([0, 1]), torch.tensor([[1.0], [0.0]]), alpha=4)
    ce = (math.log(4 / 3) + LN2) / 2
    bce = (LN2 + math.log(4)) / 2
    assert loss.item() == pytest.approx(ce + 4 * bce, rel=1e-6)


def test_soft_targets_hand_worked():
    # sigmoid(ln 3) = 3/4 against p = 0.25: −(0.25 ln 0.75 + 0.75 ln 0.25) = 1.1116…
    loss = makd_loss(torch.tensor([[0.0, LN3]]), torch.tensor([0]), torch.tensor([[0.25]]), alpha=1)
    assert loss.item() == pytest.approx(-(0.25 * math.log(0.75) + 0.75 * math.log(0.25)), rel=1e-6)


def test_agrees_with_sklearn_and_a_numpy_formula():
    rng = np.random.default_rng(0)
    N, C, Q, alpha = 40, 7, 11, 2.5
    outputs = rng.normal(size=(N, C + Q)) * 3
    classes = rng.integers(0, C, N)
    p = rng.uniform(size=(N, Q))
    softmax = np.exp(outputs[:, :C]) / np.exp(outputs[:, :C]).sum(1, keepdims=True)
    s = expit(outputs[:, C:])
    expected = log_loss(classes, softmax, labels=range(C)) + alpha * np.mean(-(p * np.log(s) + (1 - p) * np.log(1 - s)))
    loss = makd_loss(torch.tensor(outputs), torch.tensor(classes), torch.tensor(p), alpha)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_masked_images_count_neither_above_nor_below_the_line():
    outputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    classes, aspects = torch.tensor([0, 1, 2, 0]), torch.rand(4, 2)
    mask = torch.tensor([True, False, True, True])
    kept = [0, 2, 3]
    ce = makd_loss(outputs, classes, aspects, alpha=0)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(outputs[kept][:, 3:], aspects[kept])
    assert makd_loss(outputs, classes, aspects, 4, mask).item() == pytest.approx((ce + 4 * bce).item(), rel=1e-6)
    cells = mask[:, None].expand(4, 2)
    assert makd_loss(outputs, classes, aspects, 4, cells) == makd_loss(outputs, classes, aspects, 4, mask)


def test_single_cells_can_be_masked():
    outputs = torch.zeros(2, 3)
    outputs[0, 1] = 50.0  # sigmoid 1 against p = 0: costs 50, unless it is masked
    terms = makd_terms(
        outputs,
        torch.tensor([0, 0]),
        torch.zeros(2, 2),
        torch.tensor([[False, True], [True, True]]),
    )
    assert terms.aspect_count.item() == 3
    assert terms.aspect_sum.item() == pytest.approx(3 * LN2)


def test_nan_under_the_mask_reaches_neither_loss_nor_gradient():
    outputs = torch.randn(3, 4, requires_grad=True)
    aspects = torch.tensor([[0.5, 1.0], [math.nan, math.nan], [0.0, math.nan]])
    makd_loss(outputs, torch.tensor([0, 1, 1]), aspects, 4, ~aspects.isnan()).backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[1, 2:] == 0).all()


def test_nothing_to_average_is_zero_and_has_a_zero_gradient():
    outputs = torch.randn(3, 4, requires_grad=True)
    classes = torch.full((3,), UNKNOWN_CLASS)
    loss = makd_loss(outputs, classes, torch.rand(3, 2), 4, torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert (outputs.grad == 0).all()
    empty = makd_loss(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2), 4)
    assert empty.item() == 0


def test_unknown_classes_are_left_out_of_the_mean():
    outputs = torch.tensor([[LN3, 0.0], [7.0, -7.0]])
    loss = makd_loss(outputs, torch.tensor([0, UNKNOWN_CLASS]), torch.zeros(2, 0), 4)
    assert loss.item() == pytest.approx(math.log(4 / 3), rel=1e-6)


def test_without_aspects_it_is_cross_entropy():
    outputs, classes = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    expected = torch.nn.functional.cross_entropy(outputs, classes)
    assert makd_loss(outputs, classes, torch.zeros(6, 0), 4).item() == pytest.approx(expected.item(), rel=1e-6)


def test_bf16_outputs_are_summed_in_float32():
    outputs = torch.randn(512, 8)
    classes, aspects = torch.randint(0, 5, (512,)), torch.rand(512, 3)
    half = makd_loss(outputs.bfloat16(), classes, aspects, 4)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(makd_loss(outputs, classes, aspects, 4).item(), rel=2e-3)


@pytest.mark.parametrize(
    ("outputs", "aspects", "mask"),
    [((2, 3), (2, 3), None), ((2, 3), (3, 1), None), ((2, 3), (2,), None), ((2, 5), (2, 2), (3,))],
)
def test_shapes_that_do_not_fit_are_named(outputs, aspects, mask):
    with pytest.raises(ValueError, match=r"\(2, \d\)"):
        makd_loss(
            torch.zeros(outputs),
            torch.tensor([0, 1]),
            torch.zeros(aspects),
            1,
            None if mask is None else torch.ones(mask),
        )


def test_kl_is_bce_without_the_entropy_and_has_its_gradient():
    # sigmoid(ln 3) = 3/4 against p = 1/4: KL = 1/4 ln 1/3 + 3/4 ln 3 = ln 3 / 2; against p = 1 it is −ln 3/4.
    outputs = torch.tensor([[0.0, LN3, LN3]], requires_grad=True)
    classes, aspects = torch.tensor([0]), torch.tensor([[0.25, 1.0]])
    terms = makd_terms(outputs, classes, aspects, kind="kl")
    assert terms.aspect_sum.item() == pytest.approx(LN3 / 2 - math.log(0.75), rel=1e-6)
    (kl,) = torch.autograd.grad(terms.aspect_sum, outputs)
    (bce,) = torch.autograd.grad(makd_terms(outputs, classes, aspects).aspect_sum, outputs)
    assert torch.equal(kl, bce)


def test_softmax_kl_hand_worked():
    # p = (0.6, 0.2) is (3/4, 1/4) of its sum; logits (0, 0) are (1/2, 1/2): KL = 3/4 ln 3 − ln 2. The masked third
    # aspect counts in neither; the second image's only aspect says (1) against (1); the third has no "yes".
    outputs = torch.tensor([[0.0, 0.0, 0.0, 99.0], [0.0, 7.0, -3.0, 1.0], [0.0, 1.0, 2.0, 3.0]], requires_grad=True)
    aspects = torch.tensor([[0.6, 0.2, math.nan], [math.nan, math.nan, 0.4], [0.0, 0.0, math.nan]])
    terms = makd_terms(outputs, torch.tensor([0, 0, 0]), aspects, ~aspects.isnan(), "softmax_kl")
    assert terms.aspect_sum.item() == pytest.approx(0.75 * LN3 - LN2, rel=1e-5)
    assert terms.aspect_count.item() == 2
    (gradient,) = torch.autograd.grad(terms.aspect_sum, outputs)
    assert gradient[0].tolist() == pytest.approx([0, 0.5 - 0.75, 0.5 - 0.25, 0], abs=1e-6)
    assert (gradient[1:] == 0).all()


def test_softmax_kl_agrees_with_a_naive_loop():
    rng = np.random.default_rng(2)
    logits, p = rng.normal(size=(9, 5)) * 3, rng.uniform(size=(9, 5))
    expected = 0.0
    for z, row in zip(logits, p, strict=True):
        q = np.exp(z) / np.exp(z).sum()
        share = row / row.sum()
        expected += sum(a * math.log(a / b) for a, b in zip(share, q, strict=True))
    outputs = torch.tensor(np.hstack([np.zeros((9, 1)), logits]))
    terms = makd_terms(outputs, torch.zeros(9, dtype=torch.int64), torch.tensor(p), kind="softmax_kl")
    assert terms.aspect_sum.item() == pytest.approx(expected, rel=1e-5)
    assert terms.aspect_count.item() == 9


@pytest.mark.parametrize("kind", ["bce", "kl", "softmax_kl"])
def test_counts_are_those_of_the_terms(kind):
    aspects = torch.tensor([[0.5, 0.0], [math.nan, 0.2], [0.0, 0.0], [math.nan, math.nan]])
    terms = makd_terms(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), aspects, ~aspects.isnan(), kind)
    counts = aspect_counts(aspects, ~aspects.isnan(), kind)
    assert counts.tolist() == ([1, 1, 0, 0] if kind == "softmax_kl" else [2, 1, 2, 0])
    assert terms.aspect_count.item() == counts.sum().item()
    empty = makd_terms(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), torch.zeros(4, 0), kind=kind)
    assert (empty.aspect_sum.item(), empty.aspect_count.item()) == (0, 0)
