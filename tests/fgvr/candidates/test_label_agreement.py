import numpy as np
import pytest

from fgvr.candidates.agreement import Agreement, estimate, truth_in_words, verdict_in_words


def simulate(accuracy, precision, classes=40, images=4000, neighbours=10):
    """Neighbour labels drawn from the model that the estimate assumes; wrong labels are one of three others."""
    random = np.random.default_rng(0)
    truth = np.tile(random.integers(0, classes, (images, 1)), neighbours + 1)
    stranger = random.random(truth.shape) > precision
    stranger[:, 0] = False
    truth = np.where(stranger, random.integers(0, classes, truth.shape), truth)
    wrong = (truth + random.integers(1, 4, truth.shape)) % classes
    return np.where(random.random(truth.shape) < accuracy, truth, wrong).astype(np.int32)


@pytest.mark.parametrize("accuracy", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("precision", [0.8, 0.95])
def test_accuracy_and_precision_are_found_without_truth(accuracy, precision):
    found = estimate(simulate(accuracy, precision), k=3)
    assert found.label_accuracy == pytest.approx(accuracy, abs=0.04)
    assert found.neighbour_precision == pytest.approx(precision, abs=0.06)


def test_agreement_by_hand():
    # own 1: neighbours 1, 2 → 1 of 2; own 5: neighbours 5, none → 1 of 1; the row without an own label does not count
    labels = np.array([[1, 1, 2], [5, 5, -1], [-1, 5, 5]], np.int32)
    found = estimate(labels, k=3)
    assert found.agreement == pytest.approx(2 / 3)
    assert found.label_accuracy is None


def test_clean_labels_in_pure_neighbourhoods_are_perfect():
    labels = np.repeat(np.arange(30, dtype=np.int32)[:, None], 11, axis=1)
    found = estimate(labels, k=3)
    assert (found.agreement, found.label_accuracy, found.neighbour_precision) == (1.0, 1.0, 1.0)


def test_evidence_falls_with_the_rank_where_neighbours_do():
    """Three images a class: the third nearest other image is always a stranger."""
    labels = simulate(0.75, 0.95)
    labels[:, 3:] = np.random.default_rng(1).integers(0, 40, labels[:, 3:].shape)
    found = estimate(labels, k=3)
    assert found.label_accuracy == pytest.approx(0.75, abs=0.05)
    assert found.neighbour_precision == pytest.approx(0.95, abs=0.08)
    assert (found.evidence[:3] > 1).all()
    assert (found.evidence[3:] < 0.1).all()


def test_more_images_than_are_needed_are_sampled():
    few, many = (estimate(np.tile(simulate(0.75, 0.95), (times, 1)), k=3) for times in (1, 6))
    assert many.label_accuracy == pytest.approx(few.label_accuracy, abs=0.02)


@pytest.mark.parametrize(
    ("agreement", "words"),
    [
        (Agreement(0.6, 0.64, 0.93), "estimated: labels 0.64 right, neighbourhoods 0.93 pure"),
        (Agreement(0.6, 0.95, 0.71), "estimated: labels 0.95 right, neighbourhoods 0.71 pure"),
        (Agreement(0.6), "too few labels agree to tell how noisy labels and neighbourhoods are"),
    ],
)
def test_the_estimates_in_words(agreement, words):
    assert agreement.in_words() == words


@pytest.mark.parametrize(
    ("accuracy", "precision", "words"),
    [
        (0.65, 0.96, "true: labels 0.65 right, neighbourhoods 0.96 pure"),
        # By hand: 0.93 estimated, 0.72 true, 0.21 off; 0.64 estimated, 0.85 true; both off.
        (0.65, 0.72, "true: labels 0.65 right, neighbourhoods 0.72 pure: the estimate was wrong"),
        (0.85, 0.93, "true: labels 0.85 right, neighbourhoods 0.93 pure: the estimate was wrong"),
        (0.0, 0.13, "true: labels 0.00 right, neighbourhoods 0.13 pure: the estimate was wrong"),
        (0.84, 0.73, "true: labels 0.84 right, neighbourhoods 0.73 pure"),
    ],
)
def test_the_truth_beside_the_estimates(accuracy, precision, words):
    assert truth_in_words(Agreement(0.6, 0.64, 0.93), accuracy, precision) == words
    assert truth_in_words(Agreement(0.6), accuracy, precision) == words.partition(": the")[0]


@pytest.mark.parametrize(
    ("helps", "before", "after", "words"),
    [
        (True, 0.65, 0.30, "0.30 of the names right after training on sets: the verdict was wrong"),
        (True, 0.65, 0.85, "0.85 of the names right after training on sets: the verdict was right"),
        (False, 0.65, 0.85, "0.85 of the names right after training on sets: the verdict was wrong"),
        (False, 0.65, 0.60, "0.60 of the names right after training on sets: the verdict was right"),
        (True, 0.65, 0.64, "sets changed next to nothing: 0.64 of the names right after training on them"),
        (None, 0.65, 0.85, ""),
        (True, None, 0.85, ""),
        (True, 0.65, None, ""),
    ],
)
def test_a_verdict_is_compared_with_what_came_of_it(helps, before, after, words):
    assert verdict_in_words(helps, before, after) == words


def test_nothing_to_compare_with_gives_nothing():
    assert estimate(np.array([[3, -1, -1]], np.int32), k=3).agreement is None
    assert estimate(np.zeros((0, 11), np.int32), k=3).agreement is None


def one_name_each(counts):
    """Neighbours that all carry the image's own label: a perfect agreement of `counts[i]` images with name i."""
    return np.repeat(np.repeat(np.arange(len(counts)), counts).astype(np.int32)[:, None], 11, axis=1)


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ([10] * 6, True),
        ([10] * 5 + [9], False),  # 59 images, 6 names: 9.8 a name
        ([1] * 23 + [3] * 11, False),  # 56 images, 34 names
        ([1] * 3 + [40] * 3, True),  # half of the names once
        ([1] * 4 + [40] * 3, False),  # 17.7 a name, but most names once
    ],
)
def test_few_images_a_name_are_no_ground_for_an_estimate(counts, told):
    found = estimate(one_name_each(counts), k=3)
    assert (found.images, found.names, found.once) == (sum(counts), len(counts), counts.count(1))
    assert (found.unfounded == "") is told
    assert found.in_words().startswith("estimated: " if told else "no estimate of how noisy labels")
    words = truth_in_words(found, 1.0, 1.0)
    assert words == "true: labels 1.00 right, neighbourhoods 1.00 pure"


def test_why_there_is_no_estimate():
    few = estimate(one_name_each([2] * 25), k=3)
    assert few.in_words().endswith("are: 2.0 images per name on average, at least 10 are needed")
    rare = estimate(one_name_each([1] * 4 + [40] * 3), k=3)
    assert rare.in_words().endswith("are: 4 of 7 names have a single image")


def test_only_images_with_a_name_count():
    labels = np.concatenate([one_name_each([10] * 3), np.full((5, 11), -1, np.int32)])
    found = estimate(labels, k=3)
    assert (found.images, found.names, found.once) == (30, 3, 0)


def test_one_name_for_all_and_a_truth_of_no_image_decide_nothing():
    one = estimate(one_name_each([400]), k=3)
    assert one.in_words().endswith("are: all images have one name, right or wrong")
    assert truth_in_words(one, 0.13, 1.0) == "true: labels 0.13 right, neighbourhoods 1.00 pure"
    unknown = float("nan")
    assert truth_in_words(Agreement(0.6, 0.64, 0.93), unknown, 0.9) == "true: no image has a known class"
    assert truth_in_words(Agreement(0.6, 0.64, 0.93), 0.6, unknown) == "true: no image has a known class"
