"""The whitening, against the formulas written out for few images, and what it is for."""

import io

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power

from fgvr.selection import whitening
from fgvr.selection.whitening import Whitening, fit_whitening


def rows_of_unit_length(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def classes_with_a_nuisance(classes: int = 30, each: int = 12, dim: int = 24, seed: int = 0) -> tuple:
    """Images whose class lies in the last dimensions, and whose light, which is stronger, in the first four."""
    random = np.random.default_rng(seed)
    centres = np.zeros((classes, dim))
    centres[:, 4:] = random.normal(size=(classes, dim - 4))
    labels = np.repeat(np.arange(classes), each)
    vectors = centres[labels] + 0.7 * random.normal(size=(len(labels), dim))
    vectors[:, :4] += 3 * random.normal(size=(len(labels), 4))
    return rows_of_unit_length(vectors + 0.5).astype(np.float32), labels


def written_out(x: np.ndarray, k: int = 5, s: float = 0.3) -> np.ndarray:
    """The formulas of the module's docstring, image by image, in double precision; no near-duplicates."""
    x = x.astype(np.float64)
    f = rows_of_unit_length(x - x.mean(axis=0))
    scatter = np.zeros((x.shape[1], x.shape[1]))
    for i in range(len(f)):
        cosines = f @ f[i]
        cosines[i] = -2
        for j in np.argsort(-cosines)[:k]:
            scatter += np.outer(f[i] - f[j], f[i] - f[j])
    scatter /= 2 * k * len(f)
    shrunk = (1 - s) * scatter + s * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    z = f @ fractional_matrix_power(shrunk, -0.5)
    return rows_of_unit_length(z - z.mean(axis=0))


def neighbours_of_one_class(vectors: np.ndarray, labels: np.ndarray) -> float:
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    return float((labels[cosines.argmax(axis=1)] == labels).mean())


def test_the_formulas():
    vectors, _ = classes_with_a_nuisance()
    assert np.sort((vectors @ vectors.T).ravel())[-len(vectors) - 1] < 0.98  # no near-duplicates
    fitted = fit_whitening(vectors)
    assert fitted.pairs == 5 * len(vectors)
    np.testing.assert_allclose(fitted.apply(vectors), written_out(vectors), atol=2e-5)


def test_neighbours_share_their_class_more_often():
    vectors, labels = classes_with_a_nuisance()
    before = neighbours_of_one_class(vectors - vectors.mean(axis=0), labels)
    after = neighbours_of_one_class(fit_whitening(vectors).apply(vectors), labels)
    assert after > before + 0.1


def test_neighbours_of_sampled_anchors_are_sought_among_all_images_in_blocks(monkeypatch):
    vectors, _ = classes_with_a_nuisance(classes=60)
    whole = fit_whitening(vectors)
    monkeypatch.setattr(whitening, "BLOCK", 100)
    np.testing.assert_allclose(fit_whitening(vectors).matrix, whole.matrix, rtol=1e-5, atol=1e-6)
    # With half of the images as anchors the scatter is nearly the same: sampled are the anchors, not the neighbours.
    half = fit_whitening(vectors, anchors=len(vectors) // 2)
    assert half.pairs == 5 * (len(vectors) // 2)
    cosines = (half.apply(vectors) * whole.apply(vectors)).sum(axis=1)
    assert cosines.min() > 0.97


def test_the_length_of_a_vector_does_not_matter():
    vectors, _ = classes_with_a_nuisance()
    lengths = np.random.default_rng(1).uniform(0.5, 20, (len(vectors), 1)).astype(np.float32)
    scaled = fit_whitening(vectors * lengths).apply(vectors * lengths)
    np.testing.assert_allclose(scaled, fit_whitening(vectors).apply(vectors), atol=2e-5)


def test_copies_are_no_neighbours():
    vectors, _ = classes_with_a_nuisance()
    random = np.random.default_rng(2)
    copies = np.repeat(vectors, 4, axis=0)
    copies = rows_of_unit_length(copies + 0.002 * random.normal(size=copies.shape)).astype(np.float32)
    once, often = fit_whitening(vectors), fit_whitening(copies)
    # Without this rule the scatter would be that of the copies' noise, about a hundredth. With it it is that of the two
    # nearest photos, each four times, instead of the five nearest, so a little smaller.
    assert np.trace(np.linalg.inv(often.matrix)) == pytest.approx(np.trace(np.linalg.inv(once.matrix)), rel=0.2)


def test_a_file_of_it():
    vectors, _ = classes_with_a_nuisance()
    fitted = fit_whitening(vectors)
    read = Whitening.from_bytes(fitted.to_bytes())
    np.testing.assert_array_equal(read.apply(vectors), fitted.apply(vectors))
    assert read.pairs == fitted.pairs
    other = io.BytesIO()
    np.savez(other, mean=np.zeros(3), matrix=np.zeros((2, 2)), shift=np.zeros(3), pairs=1)
    for content in (b"", b"no numbers", other.getvalue()):
        with pytest.raises(ValueError, match="not a whitening"):
            Whitening.from_bytes(content)


@pytest.mark.parametrize("count", [1, 7])
def test_images_that_are_all_alike_have_no_place(count):
    fitted = fit_whitening(np.tile(np.array([[0.6, 0.8]], np.float16), (count, 1)))
    assert fitted.pairs == 0
    assert (fitted.matrix == np.eye(2)).all()
    assert (fitted.apply(np.array([[0.6, 0.8]], np.float16)) == 0).all()
    # Another image has a direction, seen from them.
    np.testing.assert_allclose(fitted.apply(np.array([[1.0, 0.0]], np.float32)), [[0.4472136, -0.894427]], atol=1e-3)


def test_two_images():
    fitted = fit_whitening(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32))
    assert fitted.pairs == 2
    np.testing.assert_allclose(
        fitted.apply(np.eye(2, dtype=np.float32)), np.array([[1, -1], [-1, 1]]) / np.sqrt(2), atol=1e-6
    )


def test_vectors_of_zero_length_are_ignored_and_stay_zero():
    vectors, _ = classes_with_a_nuisance()
    with_zeros = np.concatenate([np.zeros((3, vectors.shape[1]), np.float32), vectors])
    fitted, without = fit_whitening(with_zeros), fit_whitening(vectors)
    np.testing.assert_allclose(fitted.matrix, without.matrix, rtol=1e-5, atol=1e-6)
    assert (fitted.apply(with_zeros)[:3] == 0).all()
    with pytest.raises(ValueError, match="none of the 3 vectors has a direction"):
        fit_whitening(with_zeros[:3])


def test_vectors_that_are_no_vectors_of_this_space():
    vectors, _ = classes_with_a_nuisance()
    fitted = fit_whitening(vectors)
    with pytest.raises(ValueError, match=r"made of vectors of 24 numbers.*another model"):
        fitted.apply(vectors[:, :8])
    vectors[3, 2] = np.nan
    for use in (fit_whitening, fitted.apply):
        with pytest.raises(ValueError, match="1 vectors are not finite, the first is row 3"):
            use(vectors)
