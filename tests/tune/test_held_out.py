import numpy as np
import pytest

from fgvr.arrays import NONE
from fgvr.models.near import ClassFeatures
from tune import held_out
from tune.held_out import METRIC, HeldOut, draw_held_out, share_of_votes


def test_the_objective_is_the_mean_share_of_votes():
    votes = np.array([[0, 0, 1, 0], [2, 1, 1, NONE], [3, NONE, NONE, NONE]], np.int32)
    # 3 of 4 for label 0; 1 of 3 for label 2; 0 of 1 for label 1.
    assert share_of_votes(np.array([0, 2, 1]), votes) == pytest.approx((3 / 4 + 1 / 3 + 0) / 3)
    assert share_of_votes(np.array([0, 1, 3]), votes) == pytest.approx((3 / 4 + 2 / 3 + 1) / 3)


def test_only_what_is_predicted_counts_not_how_surely(monkeypatch):
    images = np.eye(3, dtype=np.float16)
    votes = np.array([[0, 0], [1, 0], [0, 0]], np.int32)
    for scale in (0.1, 100.0):
        classes = ClassFeatures(("a", "b"), np.float32([[1, 0, 0], [0, 1, 0.5]]), scale)
        # Image 0 is nearest to a, images 1 and 2 to b: votes 1, 1/2, 0.
        assert HeldOut(images, votes).measure(classes) == {METRIC: pytest.approx(0.5)}
    monkeypatch.setattr(held_out, "AT_ONCE", 2)  # one image at a time
    assert HeldOut(images, votes).measure(classes) == {METRIC: pytest.approx(0.5)}


def test_comes_back_from_a_file(tmp_path):
    written = HeldOut(np.float16([[0.6, 0.8]]), np.int32([[3, NONE]]))
    written.write(str(tmp_path / "deep" / "held_out.npz"))
    read = HeldOut.read(str(tmp_path / "deep" / "held_out.npz"))
    np.testing.assert_array_equal(read.features, written.features)
    np.testing.assert_array_equal(read.votes, written.votes)


def test_a_quarter_of_the_known_images_is_held_out(monkeypatch):
    known = np.ones(100, bool)
    known[::5] = False
    held = draw_held_out(known, seed=3)
    assert len(held) == 20
    assert known[held].all()
    assert (np.diff(held) > 0).all()
    np.testing.assert_array_equal(held, draw_held_out(known, seed=3))
    assert set(held) != set(draw_held_out(known, seed=4))
    monkeypatch.setattr(held_out, "MOST", 7)
    assert len(draw_held_out(known, seed=3)) == 7


def test_one_image_is_always_kept():
    assert [len(draw_held_out(np.ones(n, bool), 0)) for n in (0, 1, 2, 3)] == [0, 0, 1, 1]
