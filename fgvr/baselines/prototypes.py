"""Class prototypes of text and images: the classifier of FineR and FiNDR (OatmealLiu/FineR, `grouping.py`).

Each discovery image votes for the name whose text is nearest; names without a vote are dropped. A class is then
0.7 · its name's text vector + 0.3 · the mean vector of its voters' views (the plain image and ten augmented ones), and
an image belongs to the class with the largest product. As in the public code neither the mean nor the sum is normalised
again, so that a class whose views agree counts a little more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgvr.baselines import BaselineError
from fgvr.clip.classifier import ClassFeatures

Floats = npt.NDArray[np.float32]


def vote(images: Floats, names: Floats) -> npt.NDArray[np.int64]:
    """The nearest name of each image, int64 [n]; of equally near ones the first.

    Args:
        images: L2-normalised, [n, d].
        names: L2-normalised, [C, d].
    """
    return np.asarray((images @ names.T).argmax(axis=1), dtype=np.int64)


def prototypes(names: ClassFeatures, views: Floats, text_weight: float = 0.7) -> ClassFeatures:
    """The voted names with their mixed vectors.

    Args:
        names: all proposed names and their L2-normalised text vectors.
        views: L2-normalised vectors of the discovery images, [n, V, d]; the first view of each is the plain image.
        text_weight: of the text; the images have the rest.

    Returns:
        Names that won at least one vote, in their order; vectors float32 [C', d], not normalised.

    Raises:
        BaselineError: no name, or no image to vote.
    """
    if not len(names.labels) or not len(views):
        raise BaselineError(
            f"prototypes need names and discovery images that vote for them: {len(names.labels)} names, "
            f"{len(views)} images with a CLIP vector"
        )
    votes = vote(views[:, 0], names.features)
    winners = np.unique(votes)
    mixed = [
        text_weight * names.features[winner]
        + (1 - text_weight) * views[votes == winner].reshape(-1, views.shape[-1]).mean(axis=0)
        for winner in winners
    ]
    labels = tuple(names.labels[winner] for winner in winners)
    return ClassFeatures(labels, np.stack(mixed).astype(np.float32), names.logit_scale)
