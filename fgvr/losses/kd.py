"""Knowledge distillation on class logits: KD, decoupled KD, and the standardisation of logits.

A teacher's logits [N, C] express how similar the classes are; the student matches their softmax at a temperature T.
Every loss includes the factor T², which keeps its gradient's size independent of T (Hinton et al. 2015), and is a mean
over images ("batchmean"). Computed in fp32 (fp64 for fp64 logits); no gradient reaches the teacher. With p, q the
tempered probabilities of teacher and student, t the image's class, and p̂, q̂ those of the other classes, renormalised:

    KD   = T² · KL(p ‖ q)
    TCKD = T² · KL((p_t, 1 − p_t) ‖ (q_t, 1 − q_t))        NCKD = T² · KL(p̂ ‖ q̂)
    KD   = TCKD + (1 − p_t) · NCKD                         DKD  = alpha · TCKD + beta · NCKD

Zhao et al., "Decoupled Knowledge Distillation" (CVPR 2022), eq. 5 to 7; their code masks the class with −1000, while
this one leaves it out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CONSTANT = 1e-6
"""A row of logits with a smaller standard deviation counts as constant."""


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · mean over images of KL(softmax(teacher / T) ‖ softmax(student / T)): a scalar; arguments as `kd_rows`."""
    return kd_rows(student, teacher, temperature).mean()


def dkd_loss(  # noqa: PLR0917 - the order of the published code
    student: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Mean over images of alpha · TCKD + beta · NCKD, T² included: a scalar.

    Args:
        student: logits, float [N, C], C ≥ 2.
        teacher: logits, float [N, C].
        target: classes, int64 [N].
        alpha: weight of TCKD, what the teacher says about the image's own class (paper: 1).
        beta: weight of NCKD, what it says about the other classes (paper: 8 for many pairs).
        temperature: T.

    Raises:
        ValueError: the shapes do not match.
    """
    target_part, other_part = dkd_rows(student, teacher, target, temperature)
    return (alpha * target_part + beta * other_part).mean()


def kd_rows(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL of each image, float [N].

    Args:
        student: logits, float [N, C].
        teacher: logits, float [N, C]; may be -inf for an impossible class, but not in a whole row.
        temperature: T > 0.

    Raises:
        ValueError: the shapes differ, or T is not positive.
    """
    student, teacher = _tempered(student, teacher, temperature)
    return temperature**2 * _divergence(student.log_softmax(dim=1), teacher.log_softmax(dim=1))


def dkd_rows(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of each image, float [N] each; arguments and errors as `dkd_loss`."""
    student, teacher = _tempered(student, teacher, temperature)
    if student.shape[1] < 2 or target.shape != student.shape[:1]:
        raise ValueError(f"logits {tuple(student.shape)} need two classes and a target each, not {tuple(target.shape)}")
    own = torch.zeros_like(student, dtype=torch.bool).scatter(1, target[:, None], value=True)
    target_part = _divergence(_own_and_rest(student, own), _own_and_rest(teacher, own))
    other_part = _divergence(_others(student, own), _others(teacher, own))
    return temperature**2 * target_part, temperature**2 * other_part


def standardised(logits: Tensor) -> Tensor:
    """Each row with mean 0 and (unbiased) standard deviation 1, float [N, C].

    Sun et al., "Logit Standardization in Knowledge Distillation" (CVPR 2024): the student need not match the teacher's
    shift and scale. A constant row, as from a student whose last layer starts at zero, stays 0, since its standard
    deviation has no gradient.
    """
    logits = _wide(logits)
    centred = logits - logits.mean(dim=1, keepdim=True)
    squares = centred.square().sum(dim=1, keepdim=True) / max(logits.shape[1] - 1, 1)
    constant = squares <= CONSTANT**2
    return centred / torch.where(constant, 1.0, squares).sqrt()


def _tempered(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(f"logits of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} do not pair")
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature} is not positive")
    return _wide(student) / temperature, _wide(teacher.detach()) / temperature


def _wide(logits: Tensor) -> Tensor:
    """At least fp32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p ‖ q) of each row, float [N]; 0 · log 0 = 0."""
    return functional.kl_div(log_q, log_p.exp(), reduction="none").sum(dim=1)


def _own_and_rest(logits: Tensor, own: Tensor) -> Tensor:
    """Logarithms of (p_t, 1 − p_t), float [N, 2]; exact where p_t rounds to 1."""
    target = logits.masked_fill(~own, -torch.inf).logsumexp(dim=1)
    rest = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
    return torch.stack([target, rest], dim=1) - logits.logsumexp(dim=1, keepdim=True)


def _others(logits: Tensor, own: Tensor) -> Tensor:
    """Log-probabilities of all classes except the target, renormalised, float [N, C]; 0 at the target's position.

    There, log_q = log_p = 0 adds p (log_p − log_q) = 0 to a divergence. (Indexing would make a GPU synchronise.)
    """
    return logits.masked_fill(own, -torch.inf).log_softmax(dim=1).masked_fill(own, 0.0)
