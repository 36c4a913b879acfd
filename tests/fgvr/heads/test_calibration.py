import numpy as np
import pytest
from scipy.special import softmax

from fgvr.arrays import NONE
from fgvr.heads import calibration
from fgvr.heads.calibration import calibration_error, fit_temperature, held_out_folds


def test_the_temperature_by_which_logits_were_scaled_is_found():
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits, axis=1)])
    assert fit_temperature(3.0 * logits[None], labels) == pytest.approx(3.0, rel=0.03)
    assert fit_temperature(0.5 * logits[None], labels) == pytest.approx(0.5, rel=0.03)


def test_two_logits_by_hand():
    # Three of four right with logits (2, 0): p = 3/4 = 1 / (1 + e^(−2/T)), T = 2 / ln 3.
    logits = np.tile([[2.0, 0.0]], (4, 1))
    assert fit_temperature(logits[None], np.array([0, 0, 0, 1])) == pytest.approx(2 / np.log(3), rel=1e-3)


def test_an_ensemble_is_calibrated_as_the_mean_of_its_members():
    rng = np.random.default_rng(0)
    members = 2 * rng.normal(size=(3, 500, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(members / 1.5, axis=2).mean(axis=0)])
    found = fit_temperature(members, labels)

    def surprise(temperature: float) -> float:
        mean = softmax(members / temperature, axis=2).mean(axis=0)
        return -np.log(mean[np.arange(500), labels]).mean()

    assert all(surprise(found) <= surprise(other) + 1e-9 for other in found * np.array([0.8, 0.95, 1.05, 1.2]))


def test_images_without_label_or_with_an_impossible_name_do_not_count():
    logits = np.tile([[2.0, 0.0, -np.inf]], (6, 1))
    labels = np.array([0, 0, 0, 1, NONE, 2])
    assert fit_temperature(logits[None], labels) == pytest.approx(2 / np.log(3), rel=1e-3)
    assert fit_temperature(logits[None], np.full(6, NONE)) == 1.0
    assert fit_temperature(logits[None], np.full(6, 2)) == 1.0
    assert fit_temperature(np.zeros((1, 0, 3)), np.zeros(0, np.int64)) == 1.0


def test_folds_hold_out_every_image_once_or_one_sample(monkeypatch):
    folds = list(held_out_folds(10, 0))
    assert sorted(np.concatenate(folds).tolist()) == list(range(10))
    assert [len(fold) for fold in folds] == [4, 3, 3]
    assert [len(fold) for fold in held_out_folds(2, 0)] == [1, 1]
    monkeypatch.setattr(calibration, "HELD_OUT", 3)
    sample = list(held_out_folds(10, 0))
    assert [len(fold) for fold in sample] == [3]


def test_calibration_error_by_hand():
    # Two bins in use: .9 with one of two right (gap .4), .1 with none of two right (gap .1).
    scores = np.array([0.9, 0.9, 0.1, 0.1], np.float32)
    assert calibration_error(scores, np.array([True, False, False, False])) == pytest.approx(0.25, rel=1e-5)
    assert calibration_error(np.array([1.0], np.float32), np.array([True])) == 0
    assert calibration_error(np.zeros(0, np.float32), np.zeros(0, bool)) == 0
