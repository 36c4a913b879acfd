"""LaViD's loss: a softmax output group per multiple-choice question follows the signature of the image's class.

LaViD (arXiv 2606.27527) gives each class the soft answers of a language model to Q questions, its signature, and adds
to the class loss the KL divergence between it and the student's outputs: here the mean over the questions,
1/Q · Σ_q KL(s_q ‖ softmax(z_q)).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional


def option_places(sizes: Sequence[int]) -> Tensor:
    """Where the options of each question stand among all K, int64 [Q, largest size]; K where a question has no more.

    Args:
        sizes: number of options of each question, K in all.
    """
    places = torch.full((len(sizes), max(sizes)), sum(sizes))
    for question, (end, size) in enumerate(zip(accumulate(sizes), sizes, strict=True)):
        places[question, :size] = torch.arange(end - size, end)
    return places


def signature_rows(logits: Tensor, signatures: Tensor, places: Tensor) -> Tensor:
    """The mean of KL(signature ‖ softmax) over the questions of each image, float32 [N].

    Args:
        logits: float [N, K], the options of all questions side by side.
        signatures: float [N, K], which sum to 1 for each question; a row with nan has a loss of 0.
        places: `option_places`, on the same device.
    """
    known = ~signatures.isnan().any(dim=1)
    # One more column for the places of questions that have no more options: probability 0, on both sides.
    absent = logits.new_full((len(logits), 1), -torch.inf, dtype=torch.float32)
    log_q = torch.cat([logits.float(), absent], dim=1)[:, places].log_softmax(dim=2)
    targets = torch.where(known[:, None], signatures.float(), 0.0)
    targets = torch.cat([targets, torch.zeros_like(absent)], dim=1)[:, places]
    losses = functional.kl_div(log_q.clamp(min=torch.finfo(torch.float32).min), targets, reduction="none")
    return losses.sum(dim=2).mean(dim=1)
