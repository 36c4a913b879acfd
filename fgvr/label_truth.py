"""True names as label ids: which images the label space can name rightly at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fgvr.candidates import NONE
from fgvr.metrics.classification import fold_name

NOT_IN_SPACE = -2


def true_label_ids(names: Sequence[str | None], labels: Sequence[str]) -> npt.NDArray[np.int32]:
    """Label id of every image's true name, int32 [N]: `NONE` where it is unknown, `NOT_IN_SPACE` where no label has it.

    Names are compared as in top-1 accuracy: without case, punctuation and the like.
    """
    ids: dict[str, int] = {}
    for label_id, label in enumerate(labels):
        ids.setdefault(fold_name(label), label_id)
    by_name = {name: NONE if name is None else ids.get(fold_name(name), NOT_IN_SPACE) for name in set(names)}
    return np.array([by_name[name] for name in names], dtype=np.int32)
