import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from fgvr.arrays import NONE
from fgvr.candidates.sets import CandidateSets
from fgvr.heads import training
from fgvr.heads.networks import build_network
from fgvr.heads.training import HeadError, HeadExamples, HeadRecipe, train_head
from tests.fgvr.heads.planted_rows import DIM, NAMES, planted, random_vectors

LOSSES = ("ce", "gce", "balanced", "seesaw", "proden", "cc", "lws", "cavl")


def accuracy(network: torch.nn.Module, vectors: np.ndarray, truth: np.ndarray) -> float:
    with torch.no_grad():
        return float((network(torch.from_numpy(vectors)).argmax(dim=1).numpy() == truth).mean())


def test_a_linear_head_finds_scikit_learns_optimum():
    vectors, _, labels = planted(400, noise=0.4)
    recipe = HeadRecipe(kind="linear", loss="ce", steps=600, lr=0.1)
    network, history = train_head(HeadExamples.of_labels(vectors, labels, NAMES), recipe)
    x = vectors * DIM**0.5
    reference = LogisticRegression(C=1e8, tol=1e-10, max_iter=10_000).fit(x, labels)
    with torch.no_grad():
        found = network(torch.from_numpy(vectors)).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, reference.predict_proba(x), atol=2e-3)
    assert history[0] == pytest.approx(np.log(NAMES), rel=1e-6)  # it starts with all names equally probable


@pytest.mark.parametrize("kind", ["cosine", "linear", "mlp"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_kind_learns_with_every_loss(kind, loss):
    vectors, truth, labels = planted()
    others, their_truth, _ = planted(seed=1)
    examples = HeadExamples.of_labels(vectors, labels, NAMES)
    if loss in {"proden", "cc", "lws", "cavl"}:  # sets: the truth first or second, beside a random other name
        wrong = (truth + 1 + np.arange(len(truth)) % (NAMES - 1)) % NAMES
        swap = np.arange(len(truth)) % 2 == 0
        ids = np.stack([np.where(swap, wrong, truth), np.where(swap, truth, wrong)], axis=1).astype(np.int32)
        examples = HeadExamples(vectors, CandidateSets(ids, np.full(ids.shape, 0.5, np.float32)), NAMES)
    network, history = train_head(examples, HeadRecipe(kind=kind, loss=loss, steps=100, lr=0.02, hidden=32))
    # CAVL trusts one candidate alone, by a random start's logits at first: what it locks in stays.
    assert accuracy(network, others, their_truth) > (0.6 if (kind, loss) == ("cosine", "cavl") else 0.9)
    assert history[-1] < history[0]
    assert not network.training


def test_gce_forgives_labels_that_cross_entropy_learns():
    vectors, truth, labels = planted(200, noise=0.5)
    examples, accuracies = HeadExamples.of_labels(vectors, labels, NAMES), {}
    for loss in ("ce", "gce"):
        network, _ = train_head(examples, HeadRecipe(kind="mlp", loss=loss, steps=300, lr=0.02, hidden=64))
        accuracies[loss] = accuracy(network, vectors, truth)
    assert accuracies["gce"] > accuracies["ce"] + 0.1


def test_a_cosine_head_starts_at_given_directions():
    vectors, truth, labels = planted()
    centres = random_vectors(NAMES, DIM, seed=9)
    examples = HeadExamples.of_labels(vectors, labels, NAMES)
    network, _ = train_head(examples, HeadRecipe(steps=1, lr=1e-9), start=centres)
    assert accuracy(network, vectors, truth) == pytest.approx(((vectors @ centres.T).argmax(axis=1) == truth).mean())
    with pytest.raises(HeadError, match="only a cosine head"):
        train_head(examples, HeadRecipe(kind="linear", steps=1), start=centres)
    with pytest.raises(HeadError, match="a start of"):
        train_head(examples, HeadRecipe(steps=1), start=centres[:2])


def test_the_same_seed_gives_the_same_head_and_torchs_state_is_left_alone():
    vectors, _, labels = planted()
    examples, recipe = HeadExamples.of_labels(vectors, labels, NAMES), HeadRecipe(kind="mlp", steps=5)
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (train_head(examples, recipe, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert torch.rand(1) == before
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_batches_make_at_least_one_pass(monkeypatch):
    monkeypatch.setattr(training, "CELLS", 40 * NAMES)
    vectors, truth, labels = planted()
    examples = HeadExamples.of_labels(vectors, labels, NAMES)
    _, history = train_head(examples, HeadRecipe(steps=2))
    assert len(history) == 8  # 300 images, 40 at a time
    network, history = train_head(examples, HeadRecipe(steps=100, lr=0.02))
    assert len(history) == 100
    assert accuracy(network, vectors, truth) > 0.9


def test_images_without_a_label_teach_nothing():
    vectors, _, labels = planted()
    known = np.arange(len(labels)) % 2 == 0
    partly = HeadExamples.of_labels(vectors, np.where(known, labels, NONE), NAMES)
    alone = HeadExamples.of_labels(vectors[known], labels[known], NAMES)
    first, second = (train_head(examples, HeadRecipe(steps=5))[0].state_dict() for examples in (partly, alone))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("examples", "recipe", "message"),
    [
        (HeadExamples.of_labels(np.ones((2, 3), np.float32), np.array([-1, -1]), 2), HeadRecipe(), "nothing to learn"),
        (HeadExamples.of_labels(np.ones((2, 3), np.float32), np.array([0, 7]), 2), HeadRecipe(), "labels up to 7"),
        (HeadExamples.of_labels(np.full((1, 3), np.inf, np.float32), np.array([0]), 2), HeadRecipe(), "not finite"),
        (
            HeadExamples.of_labels(random_vectors(4, 3), np.array([0, 1, 0, 1]), 2),
            HeadRecipe(kind="linear", loss="ce", lr=10.0, weight_decay=1e6),
            "lower heads.lr",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused(examples, recipe, message):
    with pytest.raises(HeadError, match=message):
        train_head(examples, recipe)


def test_networks_by_hand():
    linear, cosine = build_network("linear", 4, 2, 8), build_network("cosine", 2, 2, 8, scale=10.0)
    with torch.no_grad():
        linear.weight[0, 1], linear.bias[1] = 3.0, 0.5
        cosine.weight.copy_(torch.tensor([[5.0, 0.0], [3.0, 4.0]]))
        assert linear(torch.tensor([[0.0, 1, 0, 0]])).tolist() == [[6.0, 0.5]]  # √4 · 1 · 3
        np.testing.assert_allclose(cosine(torch.tensor([[1.0, 0]])), [[10, 6]], rtol=1e-6)


def test_cosine_head_and_softmax_agree_with_scipy():
    network = build_network("cosine", DIM, NAMES, 8)
    vectors = random_vectors(3, DIM)
    with torch.no_grad():
        weight = network.weight.numpy()
        expected = softmax(20 * vectors @ (weight / np.linalg.norm(weight, axis=1, keepdims=True)).T, axis=1)
        np.testing.assert_allclose(network(torch.from_numpy(vectors)).softmax(dim=1), expected, rtol=1e-5)
