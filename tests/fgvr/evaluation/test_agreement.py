import numpy as np
from scipy.stats import pearsonr

from fgvr.evaluation.aspects import compare_aspects

NAN = np.nan


def test_three_images_by_hand():
    mllm = np.array([[0.9, 0.2, NAN], [0.1, 0.2, NAN], [0.8, 0.2, 0.5]], dtype=np.float32)
    student = np.array([[0.6, 0.1, 0.4], [0.3, 0.3, NAN], [0.4, 0.6, NAN]], dtype=np.float32)
    found = compare_aspects(mllm, student)
    assert found.images == 3
    np.testing.assert_allclose(found.difference, [0.9 / 3, 0.6 / 3, NAN], atol=1e-6)
    np.testing.assert_allclose(found.same, [2 / 3, 2 / 3, NAN])
    expected = pearsonr(mllm[:, 0], student[:, 0]).statistic
    np.testing.assert_allclose(found.correlation, [expected, NAN, NAN], atol=1e-6)  # the second: always 0.2


def test_nothing_to_compare():
    none = np.full((2, 1), NAN, dtype=np.float32)
    found = compare_aspects(none, np.zeros((2, 1), dtype=np.float32))
    assert found.images == 0
    assert np.isnan(found.same).all()
