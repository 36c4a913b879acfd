"""What is known of candidate sets where the true names are known, by hand."""

import numpy as np
import pytest

from fgvr.candidates.sets import single_sets
from pipelines.candidates import against_truth


def test_the_truth_of_labels_and_neighbourhoods_by_hand() -> None:
    names = ["Wren", "wren", "Robin", "Stork", "Stork", None]  # no label says Stork
    own = np.array([0, 0, 0, 1, 1, 1], np.int32)
    near = np.array([[0, 1], [1, 0], [2, 0], [3, 4], [4, -1], [5, 3]])
    facts = against_truth(own, near, single_sets(own), names=names, space=["Wren", "Robin"], k=2)
    assert facts["true_label_accuracy"] == pytest.approx(2 / 5)
    # Of one class: 0-1, 1-0, 3-4; not: 2-0. Image 4 has no neighbour, and the class of image 5 is unknown.
    assert facts["true_neighbour_precision"] == pytest.approx(3 / 4)


def test_without_true_names_nothing_is_said() -> None:
    own = np.array([0], np.int32)
    assert against_truth(own, np.array([[0, -1]]), single_sets(own), names=[None], space=["Wren"], k=2) == {}
