"""Clean or noisy, by the loss of an image's own label: a mixture of two Gaussians, fitted to the losses of all images.

A network learns right labels before wrong ones, so that after a few epochs the losses of wrong labels are higher (Arpit
et al., ICML 2017). Li et al., "DivideMix: Learning with Noisy Labels as Semi-supervised Learning" (ICLR 2020): the
posterior of the component with the lower mean is the probability that a label is clean; losses are scaled and variances
regularised as in the authors' code (LiJunnan1992/DivideMix, eval_train), whose ten steps may end before the fit. The
first version of NeaR (arXiv 2505.01064v1) splits its images so. What is done with it is DivideMix's label refinement: a
label counts as far as it is clean, and the prediction for the rest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

REGULARISATION = 5e-4
"""Added to the variances, for losses scaled to 0 … 1 (DivideMix's code)."""
MOST_FITTED = 2**17
"""Losses that the mixture is fitted to: quantiles where there are more, since two Gaussians have five numbers."""
ALIKE = 1e-6
"""Losses within this of each other say nothing about which label is clean."""


def clean_probability(losses: npt.NDArray[np.floating], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The probability that each image's label is clean: float32 [N].

    Between the two means it is the posterior of the lower component. Beyond them it stays as at the mean: where one
    component is wider, a plain posterior would call the very lowest losses noisy again.

    Args:
        losses: [N], of each image's own label.
        known: bool [N], which images have a label; of the others the probability is 0. So it is where a loss is no
            number.

    Fewer than two labels, or losses that are all alike, cannot be told apart: their labels are believed.
    """
    losses = np.asarray(losses, dtype=np.float64)
    known = known & np.isfinite(losses)
    found = losses[known]
    probability = np.zeros(len(losses), dtype=np.float32)
    if len(found) < 2 or found.max() - found.min() < ALIKE:
        probability[known] = 1.0
        return probability
    scaled = (found - found.min()) / (found.max() - found.min())
    probability[known] = _lower_posterior(scaled)
    return probability


def _lower_posterior(scaled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The posterior of the component with the lower mean, held beyond both means."""
    from sklearn.mixture import GaussianMixture

    fitted = scaled
    if len(scaled) > MOST_FITTED:
        fitted = np.sort(scaled)[np.linspace(0, len(scaled) - 1, MOST_FITTED).round().astype(np.int64)]
    mixture = GaussianMixture(2, tol=1e-5, max_iter=500, reg_covar=REGULARISATION, random_state=0)
    mixture.fit(fitted[:, None])
    means = mixture.means_[:, 0]
    between = np.clip(scaled, means.min(), means.max())
    posterior: npt.NDArray[np.float64] = mixture.predict_proba(between[:, None])[:, int(means.argmin())]
    return posterior


def refined_rows(logits: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
    """Each image's cross entropy with its refined label w · y + (1 − w) · p: float32 [N] (DivideMix's refinement).

    p is the prediction itself, detached: an image whose label is noisy for certain learns to be sure of what it says
    (dynamic soft bootstrapping, Arazo et al., "Unsupervised Label Noise Modeling and Loss Correction", ICML 2019, who
    fit two betas in place of two Gaussians).

    Args:
        logits: [N, C].
        labels: int64 [N]; −1 where there is none, whose loss is 0.
        clean: w in 0 … 1, [N].
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    own = F.nll_loss(log_p, labels.clamp(min=0), reduction="none")
    predicted = -(log_p.detach().exp() * log_p).sum(dim=1)
    return torch.where(labels >= 0, clean * own + (1.0 - clean) * predicted, 0.0)
