from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fgvr.evaluation.images import IMAGE_FAILURES, UNLABELLED_IMAGES, choose_images, compare, names_of, readable
from fgvr.schemas import ERROR, Reason

DISCOVERY = np.array([1, 3])


def samples(splits: Sequence[str], classes: Sequence[str | None]) -> pa.Table:
    return pa.table(
        {"image_id": range(len(splits)), "split": list(splits), "class_name": pa.array(classes, pa.string())}
    )


class OneHot:
    name = "one-hot"

    def encode(self, names: Sequence[str]) -> np.ndarray:
        return np.eye(len(names), dtype=np.float32)


def test_the_images_of_the_split():
    rows = samples(["train", "test", "train", "train", "test"], list("abcde"))
    chosen = choose_images(rows, DISCOVERY, split="test", max_images=None, seed=0)
    assert (chosen.ids.tolist(), chosen.split, chosen.trained_on) == ([1, 4], "test", False)


def test_a_sample_is_sorted_and_the_same_for_the_same_seed():
    rows = samples(["test"] * 100, ["a"] * 100)
    first, again, other = (choose_images(rows, DISCOVERY, split="test", max_images=9, seed=s).ids for s in (0, 0, 1))
    assert first.tolist() == again.tolist() == sorted(first.tolist())
    assert len(set(first.tolist())) == 9
    assert first.tolist() != other.tolist()


def test_a_folder_of_photos_has_no_test_split():
    chosen = choose_images(samples(["train"] * 5, [None] * 5), DISCOVERY, split="test", max_images=None, seed=0)
    assert (chosen.ids.tolist(), chosen.split, chosen.trained_on) == ([1, 3], "train", True)


def test_without_truth_not_every_image_is_asked_about():
    rows = samples(["test"] * 5000, [None] * 5000)
    assert len(choose_images(rows, DISCOVERY, split="test", max_images=None, seed=0).ids) == UNLABELLED_IMAGES
    assert len(choose_images(rows, DISCOVERY, split="test", max_images=3000, seed=0).ids) == 3000


def test_compare_scores_only_known_images():
    predicted = {"one": ["a", "b", "", "x"], "two": ["a", "a", "c", "x"]}
    found = compare(predicted, ["a", "b", "c", None], OneHot, hyphen_to_space=False, resamples=0, seed=0)
    assert (found.scored, found.classes) == (3, 3)
    assert found.methods["one"].scores.top1 == found.methods["two"].scores.top1 == 200 / 3
    assert (found.methods["one"].images, found.methods["one"].unnamed, found.methods["one"].names) == (4, 1, 3)
    assert found.agreement == [[0.75, 0.5], [0.5, 1.0]]


def test_compare_without_truth():
    found = compare({"one": ["a", ""]}, [None, None], OneHot, hyphen_to_space=False, resamples=0, seed=0)
    assert found.scored == 0
    assert found.methods["one"].scores is None


def test_names_of_failed_abstained_and_absent_rows_are_empty():
    rows = pa.table(
        {
            "image_id": [0, 2, 3, 7],
            "label": ["gull", None, "tern", "finch"],
            "abstained": [False, None, True, False],
        }
    )
    assert names_of(rows, np.array([0, 1, 2, 3])) == ["gull", "", "", ""]
    assert names_of(rows.drop_columns("abstained"), np.array([3, 7])) == ["tern", "finch"]


def test_damaged_images_are_left_out_but_not_what_the_model_failed_on():
    errors = [None, {"reason": "corrupt", "detail": "x"}, {"reason": "refused", "detail": "x"}, None]
    labels = pa.table({"image_id": range(4), "error": pa.array(errors, ERROR.type)})
    assert readable(labels)["image_id"].to_pylist() == [0, 2, 3]


def test_every_reason_is_either_the_images_or_the_models():
    """On what lies in the image every method fails alike; a new reason has to be sorted in here."""
    of_models = {
        "refused",
        "empty_answer",
        "nothing_there",
        "other_language",
        "no_label_mass",
        "request_rejected",
        "engine_error",
        "no_input",
    }
    of_people = {"struck_out", "not_yet"}
    of_boxes = {"wrong_size"}
    of_files = {"not_in_file", "contradiction", "bad_vector"}
    assert {reason.value for reason in IMAGE_FAILURES} == {
        reason.value for reason in Reason
    } - of_models - of_people - of_boxes - of_files
