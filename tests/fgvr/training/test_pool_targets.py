"""Names and weights of pool photos, by hand and against torch."""

import numpy as np
import pytest
import torch

from fgvr.arrays import NONE
from fgvr.losses.soft_targets import hard_rows, soft_rows
from fgvr.training.pool_targets import TOP, Named, agreement, best_names, standings, weights, with_certain

SCORES = np.array([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], np.float32)


def test_one_name_without_a_temperature() -> None:
    named = best_names(SCORES, None)
    assert named.label_ids.tolist() == [[1], [0]]
    assert named.probabilities.tolist() == [[1.0], [1.0]]


def test_a_temperature_softens_as_in_a_softmax_of_logits() -> None:
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double()
    for temperature in (0.5, 1.0, 3.0):
        named = best_names(logits.softmax(dim=1).numpy(), temperature)
        expected = (logits / temperature).softmax(dim=1)
        found = torch.zeros_like(expected).scatter(
            1, torch.from_numpy(named.label_ids).long(), torch.from_numpy(named.probabilities).double()
        )
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        assert (np.diff(named.probabilities, axis=1) <= 0).all()


def test_a_name_is_trusted_where_those_who_judged_it_say_the_very_name_that_is_learned() -> None:
    learned, names, own = (
        np.array(each, np.int32) for each in ([0, 1, 0, 0, 2, 0], [0, 0, 0, 1, 2, 0], [0, 0, 0, 0, NONE, 1])
    )
    doubted, checked = np.array([False, False, True, False, False, False]), np.array([False] * 5 + [True])
    found = standings(learned, names, own, doubted=doubted, checked=checked).tolist()
    # The second: both say 0, but NeaR has settled 1, which neither said.
    assert found == ["agreed", "disagreed", "suspicious", "disagreed", "unasked", "checked"]


def test_of_many_names_the_best_are_kept_and_sum_to_one() -> None:
    scores = np.full((1, 1000), 1e-4, np.float32)
    scores[0, 700:708] = np.arange(8, 0, -1) / 40
    named = best_names(scores, 1.0)
    assert named.label_ids.tolist() == [list(range(700, 708))]
    assert named.label_ids.shape[1] == TOP
    assert named.probabilities.sum() == pytest.approx(1)


def test_a_sharp_temperature_underflows_to_the_best_name_and_not_to_nan() -> None:
    named = best_names(np.array([[1e-30, 2e-30]], np.float32), 0.001)
    assert named.label_ids[0, 0] == 1
    assert named.probabilities[0].tolist() == [1.0, 0.0]


def test_certain_names_replace_others() -> None:
    named = with_certain(best_names(SCORES, 1.0), np.array([2, NONE], np.int32))
    assert named.label_ids[0].tolist() == [2, NONE, NONE]
    assert named.probabilities[0].tolist() == [1, 0, 0]
    assert named.label_ids[1, 0] == 0


def test_agreement_counts_those_who_say_something() -> None:
    names = np.array([1, 0, 2], np.int32)
    others = [np.array([1, 1, NONE], np.int32), np.array([1, 0, NONE], np.int32)]
    np.testing.assert_allclose(agreement(names, others), [1, 2 / 3, 1])
    assert agreement(np.array([NONE], np.int32), [np.array([NONE], np.int32)]).tolist() == [1]


def test_weights_by_every_rule() -> None:
    named = Named(np.array([[1], [0], [NONE], [2]], np.int32), np.array([[1], [1], [0], [1]], np.float32))
    given = {
        "confidence": np.array([0.25, 0.5, 0.9, 0.75], np.float32),
        "others": [np.array([1, 1, 1, 2], np.int32)],
        "suspicion": np.array([np.nan, 0.75, 0.5, 0.25], np.float32),
        "checked": np.array([False, False, False, True]),
        "checked_weight": 4.0,
    }
    assert weights(named, "none", **given).tolist() == [1, 1, 0, 4]
    assert weights(named, "confidence", **given).tolist() == [0.25, 0.5, 0, 4]
    assert weights(named, "agreement", **given).tolist() == [1, 0.5, 0, 4]
    assert weights(named, "issues", **given).tolist() == [1, 0.25, 0, 4]


def test_soft_cross_entropy_is_torchs() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 7, generator=generator, requires_grad=True)
    dense = torch.rand(5, 7, generator=generator).softmax(dim=1)
    ids = torch.argsort(dense, dim=1, descending=True)
    shares = dense.gather(1, ids)
    expected = torch.nn.functional.cross_entropy(logits, dense, reduction="none")
    torch.testing.assert_close(soft_rows(logits, ids, shares), expected)
    smooth = torch.nn.functional.cross_entropy(logits, dense, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(soft_rows(logits, ids, shares, 0.1), smooth)
    torch.testing.assert_close(hard_rows(logits, ids[:, 0], 0.1), soft_rows(logits, ids[:, :1], torch.ones(5, 1), 0.1))
    one = torch.full((5, 3), -1)
    one[:, 0] = ids[:, 0]
    certain = torch.tensor([[1.0, 0, 0]]).expand(5, 3)
    torch.testing.assert_close(soft_rows(logits, one, certain), hard_rows(logits, ids[:, 0]))
    # An image without any name adds nothing, and no gradient.
    nothing = soft_rows(logits, torch.full((5, 2), -1), torch.zeros(5, 2))
    nothing.sum().backward()
    assert nothing.tolist() == [0] * 5
    assert logits.grad.abs().sum() == 0
