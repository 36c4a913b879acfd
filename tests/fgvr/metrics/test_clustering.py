import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from fgvr.metrics.clustering import match_clusters


def dense_accuracy(predicted: list[str], true: list[str]) -> float:
    """FineR's definition, written out: D x D counts, Hungarian, matched / N."""
    guesses, truths = sorted(set(predicted)), sorted(set(true))
    size = max(len(guesses), len(truths))
    counts = np.zeros((size, size), dtype=int)
    for guess, truth in zip(predicted, true, strict=True):
        counts[guesses.index(guess), truths.index(truth)] += 1
    rows, columns = linear_sum_assignment(counts.max() - counts)
    return 100 * counts[rows, columns].sum() / len(true)


def test_other_words_for_the_same_classes_are_perfect():
    match = match_clusters(["x", "x", "y"], ["a", "a", "b"])
    assert match.accuracy == 100
    assert match.name_of == {"x": "a", "y": "b"}


def test_by_hand():
    # x: 2 of a, 1 of b; y: 3 of b; z: 1 of a. x→a (2) and y→b (3) match; z is surplus: 5 of 7.
    match = match_clusters(list("xxxyyyz"), list("aabbbba"))
    assert match.accuracy == pytest.approx(500 / 7)
    assert match.hits.tolist() == [True, True, False, True, True, True, False]


def test_the_greedy_match_is_not_the_best():
    # x: 3 a, 2 b; y: 2 a, 0 b. Greedy takes x→a (3) and leaves y with nothing: 3. Best is x→b, y→a: 4 of 7.
    assert match_clusters(list("xxxxxyy"), list("aaabbaa")).accuracy == pytest.approx(400 / 7)


def test_synonyms_are_errors():
    assert match_clusters(["rock dove", "rock pigeon"], ["Rock Pigeon", "Rock Pigeon"]).accuracy == 50


def test_more_names_than_images_of_any_class():
    # every image its own name: one name an existing class can match
    assert match_clusters(list("123456"), list("aaabbb")).accuracy == pytest.approx(100 / 3)


def test_one_cluster():
    assert match_clusters(["bird"] * 4, list("aabc")).accuracy == 50


def test_empty_names_match_nothing():
    match = match_clusters(["", "", "x"], ["a", "a", "b"])
    assert match.accuracy == pytest.approx(100 / 3)
    assert match.name_of == {"x": "b"}
    assert match_clusters(["", ""], ["a", "b"]).accuracy == 0
    assert match_clusters([], []).accuracy == 0


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_dense_hungarian(seed):
    rng = np.random.default_rng(seed)
    images, guesses, truths = rng.integers(5, 300), rng.integers(1, 60), rng.integers(1, 40)
    predicted = [f"p{i}" for i in rng.integers(guesses, size=images)]
    true = [f"t{i}" for i in rng.integers(truths, size=images)]
    match = match_clusters(predicted, true)
    assert match.accuracy == pytest.approx(dense_accuracy(predicted, true))
    assert len(set(match.name_of.values())) == len(match.name_of)  # one to one


def test_a_large_label_space_fits():
    rng = np.random.default_rng(0)
    true = rng.integers(5_000, size=50_000)
    predicted = [f"{t}-{rng.integers(6)}" for t in true]  # 30,000 names: dense counts would take 7 GB
    accuracy = match_clusters(predicted, [str(t) for t in true]).accuracy
    assert 100 / 6 < accuracy < 50
