"""Unit vectors at random, and ones around planted directions with labels of which a share is wrong."""

import numpy as np

NAMES, DIM = 5, 12


def random_vectors(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def planted(count: int = 300, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors around five directions, their true names, and labels of which a share is another name at random."""
    rng = np.random.default_rng(seed)
    centres = random_vectors(NAMES, DIM, seed=9)
    truth = rng.integers(0, NAMES, count)
    vectors = centres[truth] + 0.25 * rng.normal(size=(count, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wrong = rng.random(count) < noise
    labels = np.where(wrong, (truth + rng.integers(1, NAMES, count)) % NAMES, truth)
    return vectors.astype(np.float32), truth, labels
