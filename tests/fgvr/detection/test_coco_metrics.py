"""COCO's AP against cases worked by hand."""

import numpy as np
import pytest

from fgvr.detection.coco import Category, CocoImage, Objects
from fgvr.detection.evaluate import Detections, coco_metrics, coco_results

FINCH, OWL = Category(3, "finch"), Category(90, "owl")


def image(image_id, boxes, classes, crowd=None) -> CocoImage:
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    crowds = np.array(crowd or [False] * len(corners), dtype=bool)
    return CocoImage(image_id, f"{image_id}.jpg", 200, 200, Objects(corners, np.array(classes, int), crowds, areas))


def found(boxes, classes, scores) -> Detections:
    return Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(classes, int), np.array(scores, dtype=np.float32)
    )


def test_one_right_one_false_one_missed():
    # Two finches of 40 × 40 px. By falling score: a hit at IoU 1, a false alarm. So precision is 1 up to recall 1/2
    # and 0 beyond: of COCO's 101 recall points 0, 0.01 … 1 the first 51 count, at every IoU threshold.
    truth = [image(5, [[0, 0, 40, 40], [100, 100, 140, 140]], [0, 0])]
    metrics = coco_metrics(truth, [FINCH], [found([[0, 0, 40, 40], [50, 0, 90, 40]], [0, 0], [0.9, 0.8])])
    expected = pytest.approx(100 * 51 / 101)
    assert metrics == {"AP": expected, "AP50": expected, "AP75": expected, "AP_medium": expected}


def test_a_loose_box_counts_up_to_its_overlap():
    # 40 × 40 against 40 × 34 inside it: IoU 0.85, which is right at 0.50, 0.55 … 0.85: eight of ten thresholds.
    # 36 × 34 against it: IoU 0.765, right at six of ten. The owl is found perfectly, but called a finch: AP 0, and
    # the finches' false alarm comes last, where it costs nothing.
    truth = [image(1, [[0, 0, 40, 40]], [0]), image(2, [[0, 0, 20, 20]], [1])]
    loose = [found([[0, 0, 40, 34]], [0], [0.9]), found([[0, 0, 20, 20]], [0], [0.5])]
    metrics = coco_metrics(truth, [FINCH, OWL], loose)
    assert metrics["AP"] == pytest.approx(100 * (0.8 + 0) / 2)
    assert metrics["AP50"] == metrics["AP75"] == pytest.approx(50)
    assert (metrics["AP_small"], metrics["AP_medium"]) == (0, pytest.approx(80))
    looser = [found([[0, 0, 36, 34]], [0], [0.9]), found([], [], [])]
    assert coco_metrics(truth, [FINCH, OWL], looser)["AP"] == pytest.approx(100 * 0.6 / 2)


def test_detections_in_a_crowd_are_neither_right_nor_wrong():
    truth = [image(1, [[0, 0, 40, 40], [60, 60, 180, 180]], [0, 0], crowd=[False, True])]
    boxes = [[70, 70, 110, 110], [0, 0, 40, 40]]
    assert coco_metrics(truth, [FINCH], [found(boxes, [0, 0], [0.9, 0.5])])["AP"] == pytest.approx(100)


def test_nothing_found_and_nothing_to_find():
    truth = [image(1, [[0, 0, 20, 20]], [0]), image(2, [], [])]
    nothing = [found([], [], [])] * 2
    assert coco_metrics(truth, [FINCH], nothing) == {"AP": 0, "AP50": 0, "AP75": 0, "AP_small": 0}
    assert coco_metrics(truth[1:], [FINCH], nothing[1:]) == {}


def test_an_area_on_the_border_of_two_sizes_is_of_both():
    truth = [image(1, [[0, 0, 32, 32]], [0])]
    right, nothing = found([[0, 0, 32, 32]], [0], [0.9]), found([], [], [])
    sizes = {"AP_small", "AP_medium"}
    assert {name for name in coco_metrics(truth, [FINCH], [right]) if "_" in name} == sizes
    assert {name for name in coco_metrics(truth, [FINCH], [nothing]) if "_" in name} == sizes


def test_results_have_the_file_s_own_ids():
    truth = [image(5, [[0, 0, 20, 20]], [1])]
    assert coco_results(truth, [FINCH, OWL], [found([[1, 2, 4, 8]], [1], [0.5])]) == [
        {"image_id": 5, "category_id": 90, "bbox": [1, 2, 3, 6], "score": 0.5}
    ]
