"""Votes and mixed class vectors, by hand."""

import numpy as np
import pytest

from fgvr.baselines import BaselineError
from fgvr.baselines.finer_findr import prototypes, vote
from fgvr.models.near import ClassFeatures

NAMES = ClassFeatures(("owl", "finch", "gull"), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32), 10.0)


def test_each_image_votes_for_the_nearest_name() -> None:
    images = np.array([[0.6, 0.8, 0], [0.8, 0.6, 0], [0.70710678, 0.70710678, 0]], np.float32)
    assert vote(images, NAMES.features).tolist() == [1, 0, 0]  # the last is a tie: the first name


def test_seven_tenths_text_three_tenths_images() -> None:
    views = np.array(
        [
            [[0.6, 0.8, 0], [0, 1, 0]],  # votes finch
            [[0, 0.8, 0.6], [0.8, 0.6, 0]],  # finch; its second view would say owl, but only the plain one votes
            [[1, 0, 0], [0, 0, 1]],  # owl
        ],
        np.float32,
    )
    found = prototypes(NAMES, views)
    assert found.labels == ("owl", "finch")  # nobody voted for gull
    # finch: mean of (.6,.8,0) (0,1,0) (0,.8,.6) (.8,.6,0) = (.35,.8,.15); 0.7·(0,1,0) + 0.3·that.
    assert found.features == pytest.approx(np.array([[0.7 + 0.15, 0, 0.15], [0.105, 0.94, 0.045]]), abs=1e-6)
    assert found.logit_scale == 10.0
    only_text = prototypes(NAMES, views, text_weight=1.0)
    assert only_text.features.tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("names", "views"),
    [
        (ClassFeatures((), np.zeros((0, 3), np.float32), 1.0), np.zeros((2, 1, 3), np.float32)),
        (NAMES, np.zeros((0, 1, 3), np.float32)),
    ],
)
def test_without_names_or_voters_there_is_no_classifier(names: ClassFeatures, views: np.ndarray) -> None:
    with pytest.raises(BaselineError, match="names and discovery images that vote"):
        prototypes(names, views)
