"""The posterior with a text tower: against the formula in loops, and what each witness is good for."""

import numpy as np
import pytest

from fgvr.arrays import NONE
from fgvr.beliefs.posterior import new_image_scores, text_posterior
from tests.fgvr.beliefs.noisy_clusters import planted, unit


def by_the_formula(own, images, texts, vectors, scale, checked, rounds=12):
    """R over all V names in plain loops, as the module's docstring has it."""
    count, names = len(own), len(texts)
    text = scale * (images - images.mean(axis=0)).astype(float) @ texts.T.astype(float)
    zero_shot = np.exp(text) / np.exp(text).sum(axis=1, keepdims=True)
    shares = zero_shot.copy()
    for i in range(count):
        if own[i] != NONE:
            shares[i] *= 0.3
            shares[i, own[i]] += 0.7
        if checked[i] != NONE:
            shares[i] = np.arange(names) == checked[i]
    said = [i for i in range(count) if own[i] != NONE]
    for _ in range(rounds):
        new = shares.copy()
        for i in range(count):
            others = [k for k in range(count) if k != i]
            answered = [k for k in said if k != i]
            q = min(max(sum(shares[k, own[k]] for k in answered) / max(1, len(said) - 1), 0.01), 0.99)
            wrong = sum(1 - shares[k, own[k]] for k in answered)
            for j in range(names):
                prior = (sum(shares[k, j] for k in others) + 1) / (count - 1 + names)
                total = sum(shares[k, j] * vectors[k].astype(float) for k in others)
                logit = np.log(prior) + text[i, j] + 10 * vectors[i] @ total / (np.linalg.norm(total) + 1)
                if own[i] != NONE:
                    same = sum(1 - shares[k, own[k]] for k in answered if own[k] == own[i])
                    b = (same + 1 / names) / (wrong + 1)
                    logit += np.log(q * (own[i] == j) + (1 - q) * b)
                new[i, j] = logit
            new[i] = np.exp(new[i] - new[i].max())
            new[i] /= new[i].sum()
            if checked[i] != NONE:
                new[i] = np.arange(names) == checked[i]
        shares = new
    return shares


def dense(found, names):
    result = np.zeros((len(found.labels), names))
    rows, places = np.nonzero(found.labels != NONE)
    result[rows, found.labels[rows, places]] = found.shares[rows, places]
    return result


def test_it_is_the_formula():
    data = planted(5, classes=4, each=6, spread=0.4)
    texts = unit(data.directions + 0.1)
    own, checked = data.own.copy(), np.full(24, NONE, np.int32)
    own[[0, 13]] = NONE
    checked[[0, 7]] = data.truth[[0, 7]]
    arguments = (own, data.vectors, texts, data.vectors)
    found = text_posterior(*arguments, scale=8.0, checked=checked)
    expected = by_the_formula(*arguments, 8.0, checked)
    np.testing.assert_allclose(dense(found, 4), expected, atol=1e-5)
    said = own != NONE
    right = expected[np.flatnonzero(said), own[said]].mean()
    assert found.label_accuracy == pytest.approx(right, abs=1e-5)
    np.testing.assert_allclose(found.prior, expected.sum(axis=0) / 24, atol=1e-5)


def test_it_corrects_labels_that_text_and_neighbours_contradict():
    data = planted(2, classes=10, each=15, wrong=0.35)
    found = text_posterior(data.own, data.vectors, data.directions, data.vectors, scale=20.0)
    sets = found.sets()
    assert (data.own == data.truth).mean() < 0.7
    assert (sets.first == data.truth).mean() > 0.97
    assert abs(found.label_accuracy - (data.own == data.truth).mean()) < 0.05
    np.testing.assert_allclose(sets.weights.sum(axis=1), 1, atol=1e-6)


def test_a_set_holds_the_fewest_names_with_95_percent():
    data = planted(2, classes=6, each=8, spread=0.6)
    found = text_posterior(data.own, data.vectors, data.directions, data.vectors, scale=3.0)
    for row, (labels, shares) in enumerate(zip(found.labels, found.shares, strict=True)):
        order = np.argsort(-shares, kind="stable")
        fewest = int(np.searchsorted(np.cumsum(shares[order]), 0.95) + 1)
        expected = labels[order[:fewest]].tolist()
        kept = [name for name in found.sets().label_ids[row].tolist() if name != NONE]
        assert kept == expected


def test_a_name_that_is_like_every_photo_is_not_favoured():
    # The text of name 0 has the photos' common direction: without centring it would win everywhere.
    data = planted(4, classes=5, each=12, wrong=0.0)
    common = unit(np.ones((1, 24)))
    images, texts = unit(data.vectors + 3 * common), data.directions.copy()
    texts[0] = unit(0.5 * texts[:1] + common)[0]
    unknown = np.full(60, NONE, np.int32)
    plain = (images @ texts.T).argmax(axis=1)
    found = text_posterior(unknown, images, unit(texts), data.vectors, scale=50.0)
    assert (plain == 0).mean() > 0.9
    assert (found.sets().first == data.truth).mean() > 0.9
    assert found.label_accuracy is None


def test_checked_photos_teach_the_others():
    # Two classes whose texts and labels say nothing; ten checked photos of each settle the rest by nearness.
    data = planted(6, classes=2, each=30, wrong=0.5)
    texts = unit(np.ones((2, 24)))
    checked = np.full(60, NONE, np.int32)
    checked[:10], checked[30:40] = 0, 1
    found = text_posterior(data.own, data.vectors, texts, data.vectors, scale=100.0, checked=checked)
    assert (found.sets().first == data.truth).mean() > 0.95
    assert (found.shares[:10].max(axis=1) == 1).all()


def test_scores_of_further_photos_by_hand():
    data = planted(2, classes=3, each=10, wrong=0.0)
    found = text_posterior(data.own, data.vectors, data.directions, data.vectors, scale=10.0)
    shares = dense(found, 3)
    sums = shares.T @ data.vectors
    mean = data.vectors.mean(axis=0)
    expected = 10 * (data.vectors - mean) @ data.directions.T
    expected += 20 * data.vectors @ (sums / (np.linalg.norm(sums, axis=1, keepdims=True) + 0.3)).T
    expected += np.log(shares.sum(axis=0))
    new = data.vectors[:7]
    scores = new_image_scores(found, data.vectors, new, new, data.directions, mean=mean, scale=10.0)
    np.testing.assert_allclose(scores, expected[:7], atol=1e-3)


def test_one_name_and_no_images():
    vectors = unit(np.eye(4))
    one = text_posterior(np.zeros(4, np.int32), vectors, vectors[:1], vectors, scale=100.0)
    assert one.sets().label_ids.tolist() == [[0]] * 4
    none = text_posterior(np.zeros(0, np.int32), vectors[:0], vectors, vectors[:0], scale=100.0)
    assert len(none.sets()) == 0
    assert none.label_accuracy is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"own": np.zeros(3, np.int32)}, r"of \[3, 4, 4, 3, 3\] images"),
        ({"texts": np.zeros((0, 4), np.float32)}, "no names"),
        ({"texts": np.zeros((2, 5), np.float32)}, "4 numbers and name vectors of 5: not of one model"),
        ({"own": np.full(4, 7, np.int32)}, "name 7 among 4 names"),
    ],
)
def test_bad_input_is_refused(change, message):
    vectors = unit(np.eye(4))
    given = {"own": np.zeros(4, np.int32), "images": vectors, "texts": vectors, "vectors": vectors} | change
    with pytest.raises(ValueError, match=message):
        text_posterior(**given, scale=100.0)
