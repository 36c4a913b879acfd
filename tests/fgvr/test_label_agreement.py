import numpy as np
import pytest

from fgvr.label_agreement import Agreement, estimate, truth_in_words


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
        (
            Agreement(0.6, 0.64, 0.93),
            "expected: neighbourhoods (0.93) purer than labels (0.64): candidate sets should help",
        ),
        (
            Agreement(0.6, 0.95, 0.71),
            "expected: neighbourhoods (0.71) no purer than labels (0.95): candidate sets should not help",
        ),
        (Agreement(0.6), "too few labels agree to tell how noisy labels and neighbourhoods are"),
    ],
)
def test_the_expectation_in_words(agreement, words):
    assert agreement.in_words() == words


@pytest.mark.parametrize(
    ("accuracy", "precision", "words"),
    [
        (0.65, 0.96, "true: neighbourhoods (0.96) purer than labels (0.65): the expectation holds"),
        (0.9, 0.8, "true: neighbourhoods (0.80) no purer than labels (0.90): the expectation does not hold"),
    ],
)
def test_the_truth_beside_the_expectation(accuracy, precision, words):
    assert truth_in_words(Agreement(0.6, 0.64, 0.93), accuracy, precision) == words
    assert truth_in_words(Agreement(0.6), accuracy, precision) == words.partition(": the")[0]


def test_nothing_to_compare_with_gives_nothing():
    assert estimate(np.array([[3, -1, -1]], np.int32), k=3).agreement is None
    assert estimate(np.zeros((0, 11), np.int32), k=3).agreement is None
