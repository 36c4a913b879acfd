import math

import numpy as np
import pytest
import torch

from fgvr.losses.kd import dkd_loss, dkd_rows, kd_loss, kd_rows, standardised

LN2, LN3 = math.log(2), math.log(3)


def naive(student, teacher, target, temperature):
    """(KD, TCKD, NCKD) of each image by the definitions, a probability at a time, T² included."""
    rows = []
    for s, t, own in zip(student, teacher, target, strict=True):
        p = [math.exp(x / temperature) for x in t]
        q = [math.exp(x / temperature) for x in s]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        kd = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        tckd = p[own] * math.log(p[own] / q[own]) + (1 - p[own]) * math.log((1 - p[own]) / (1 - q[own]))
        nckd = 0.0
        for j in range(len(p)):
            if j != own:
                a, b = p[j] / (1 - p[own]), q[j] / (1 - q[own])
                nckd += a * math.log(a / b)
        rows.append([temperature**2 * value for value in (kd, tckd, nckd)])
    return np.array(rows)


def drawn(n=9, c=6, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, c)) * scale, rng.normal(size=(n, c)) * scale, rng.integers(0, c, n)


def test_kd_hand_worked():
    # Teacher (ln 3, 0): (3/4, 1/4); student (0, 0): (1/2, 1/2). KL = 3/4 ln 3/2 + 1/4 ln 1/2 = 3/4 ln 3 − ln 2.
    expected = 0.75 * LN3 - LN2
    loss = kd_loss(torch.zeros(1, 2), torch.tensor([[LN3, 0.0]]), 1)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # Twice the logits at T = 2 are the same probabilities; T² = 4 stays.
    assert kd_loss(torch.zeros(1, 2), torch.tensor([[2 * LN3, 0.0]]), 2).item() == pytest.approx(4 * expected, rel=1e-6)
    # The mean over images, not over classes: a second image that agrees halves it.
    two = kd_loss(torch.zeros(2, 2), torch.tensor([[LN3, 0.0], [5.0, 5.0]]), 1)
    assert two.item() == pytest.approx(expected / 2, rel=1e-6)


def test_dkd_hand_worked():
    # Teacher logits (ln 6, ln 3, 0): p = (6, 3, 1)/10; student (ln 2, 0, 0): q = (2, 1, 1)/4; the class is the first.
    student, teacher = torch.tensor([[LN2, 0.0, 0.0]]), torch.tensor([[math.log(6), LN3, 0.0]])
    tckd = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
    nckd = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss = dkd_loss(student, teacher, torch.tensor([0]), 1, 8, 1)
    assert loss.item() == pytest.approx(tckd + 8 * nckd, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_agree_with_a_naive_loop(temperature):
    student, teacher, target = drawn()
    expected = naive(student, teacher, target, temperature)
    s, t, y = torch.tensor(student), torch.tensor(teacher), torch.tensor(target)
    np.testing.assert_allclose(kd_rows(s, t, temperature).numpy(), expected[:, 0], rtol=1e-9)
    tckd, nckd = dkd_rows(s, t, y, temperature)
    np.testing.assert_allclose(tckd.numpy(), expected[:, 1], rtol=1e-9)
    np.testing.assert_allclose(nckd.numpy(), expected[:, 2], rtol=1e-9)
    assert kd_loss(s, t, temperature).item() == pytest.approx(expected[:, 0].mean(), rel=1e-9)
    assert dkd_loss(s, t, y, 1.5, 8, temperature).item() == pytest.approx(
        (1.5 * expected[:, 1] + 8 * expected[:, 2]).mean(), rel=1e-9
    )


def test_kd_is_its_two_parts():
    student, teacher, target = (torch.tensor(array) for array in drawn(seed=3))
    tckd, nckd = dkd_rows(student, teacher, target, 4)
    p_t = (teacher / 4).softmax(dim=1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(kd_rows(student, teacher, 4), tckd + (1 - p_t) * nckd, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradients(temperature):
    student, teacher, target = (torch.tensor(array) for array in drawn(4, 5))
    student.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda s: kd_loss(s, teacher, temperature), (student,))
    assert check(lambda s: dkd_loss(s, teacher, target, 1, 8, temperature), (student,))
    assert check(lambda s: kd_loss(standardised(s), standardised(teacher), temperature), (student,))
    # KD's gradient is T · (q − p) / N.
    kd_loss(student, teacher, temperature).backward()
    expected = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1)) / 4
    torch.testing.assert_close(student.grad, expected.detach())


def test_the_teacher_gets_no_gradient():
    student, teacher, target = (torch.tensor(array) for array in drawn(4, 5))
    teacher.requires_grad_()
    student.requires_grad_()
    (kd_loss(student, teacher, 4) + dkd_loss(student, teacher, target, 1, 8, 4)).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_logits_are_finite_with_finite_gradients(size):
    student = torch.tensor([[size, -size, 0.0], [-size, size, size], [0.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-size, size, 0.0], [-size, size, size], [size, -torch.inf, -torch.inf]])
    for target in ([0, 0, 0], [1, 2, 1]):
        loss = kd_loss(student, teacher, 4) + dkd_loss(
            student, teacher[:2].repeat(2, 1)[:3], torch.tensor(target), 1, 8, 4
        )
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.isfinite().all()


def test_the_second_part_survives_a_teacher_that_is_sure():
    # p_t = 1 − 1e-30 or so: what it says about the others still counts, (3/4, 1/4) against (1/2, 1/2).
    teacher, student = torch.tensor([[70.0, LN3, 0.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    _, nckd = dkd_rows(student, teacher, torch.tensor([0]), 1)
    assert nckd.item() == pytest.approx(0.75 * LN3 - LN2, rel=1e-5)


def test_a_student_that_agrees_costs_nothing():
    _, teacher, target = (torch.tensor(array) for array in drawn())
    assert kd_loss(teacher + 3, teacher, 4).item() == pytest.approx(0, abs=1e-12)  # a shift is no difference
    assert dkd_loss(teacher + 3, teacher, target, 1, 8, 4).item() == pytest.approx(0, abs=1e-12)
    scaled = kd_loss(standardised(7 * teacher - 2), standardised(teacher), 2)  # nor, standardised, a scale
    assert scaled.item() == pytest.approx(0, abs=1e-12)


def test_standardised_rows():
    # (0, 1, 2): mean 1, unbiased deviation 1. (0, 4): mean 2, deviation √8.
    torch.testing.assert_close(standardised(torch.tensor([[0.0, 1.0, 2.0]])), torch.tensor([[-1.0, 0.0, 1.0]]))
    root = 2 / math.sqrt(8)
    torch.testing.assert_close(standardised(torch.tensor([[0.0, 4.0]])), torch.tensor([[-root, root]]))
    rows = standardised(torch.tensor(drawn(20, 7)[0]))
    np.testing.assert_allclose(rows.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(rows.std(1, correction=1), 1)


def test_constant_rows_stay_zero_with_a_finite_gradient():
    student = torch.zeros(2, 3, requires_grad=True)
    loss = kd_loss(standardised(student), standardised(torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])), 2)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.abs().max() < 10


def test_half_precision_is_computed_in_float32():
    student, teacher, _ = (torch.tensor(array) for array in drawn())
    half = kd_loss(student.bfloat16(), teacher.bfloat16(), 4)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(kd_loss(student, teacher, 4).item(), rel=0.02)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"student \(2, 3\) and teacher \(2, 4\)"):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 4), 4)
    with pytest.raises(ValueError, match="temperature = 0"):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 3), 0)
    with pytest.raises(ValueError, match=r"\(2, 1\) need two classes"):
        dkd_loss(torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([0, 0]), 1, 8, 4)
    with pytest.raises(ValueError, match=r"a target each, not \(3,\)"):
        dkd_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 0, 0]), 1, 8, 4)
