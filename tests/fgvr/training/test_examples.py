import numpy as np
import pytest

from fgvr.training.examples import Examples


def examples(**changes) -> Examples:
    values = {
        "image_ids": np.array([3, 5]),
        "uris": ["a/ä.jpg", "s3://b/c.jpg"],
        "classes": np.array([1, -1]),
        "p_yes": np.array([[0.25, 1.0, np.nan], [0.1, 0.0, 0.5]], dtype=np.float32),
        "held_out": np.array([False, True]),
        "identity": "v1",
    }
    return Examples(**{**values, **changes})


@pytest.mark.parametrize("width", [3, 0])
def test_comes_back_from_a_file(tmp_path, width):
    written = examples(p_yes=examples().p_yes[:, :width])
    written.write(str(tmp_path / "sub" / "examples.parquet"))
    read = Examples.read(str(tmp_path / "sub" / "examples.parquet"))
    assert read.image_ids.tolist() == [3, 5]
    assert read.uris == written.uris
    assert read.classes.tolist() == [1, -1]
    assert read.held_out.tolist() == [False, True]
    assert read.identity == "v1"
    assert read.p_yes.dtype == np.float32
    np.testing.assert_allclose(read.p_yes, written.p_yes, atol=2.5e-4)  # half a step of fp16 below 1


def test_the_first_aspects_keep_everything_else():
    base = examples().first_aspects(0)
    assert base.p_yes.shape == (2, 0)
    assert base.uris == examples().uris
    np.testing.assert_array_equal(examples().first_aspects(2).p_yes, np.float32([[0.25, 1.0], [0.1, 0.0]]))
    with pytest.raises(ValueError, match="a student of 4 questions on examples with answers to 3"):
        examples().first_aspects(4)


def test_values_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"image 5, question 1: 1\.5 is not in"):
        examples(p_yes=np.array([[0, 0], [1, 1.5]], dtype=np.float32))
    with pytest.raises(ValueError, match="different lengths"):
        examples(classes=np.array([1]))
