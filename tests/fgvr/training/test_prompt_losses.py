import math

import pytest
import torch
from torch.testing import assert_close

from fgvr.config import Near
from fgvr.training.prompt_scores import (
    Targets,
    candidate_loss,
    candidate_mask,
    disambiguated,
    loss,
    updated_weights,
)

# Softmax of the first image is (1/6, 2/6, 3/6), of the second (1/2, 1/4, 1/4).
LOGITS = torch.tensor([[1 / 6, 2 / 6, 3 / 6], [1 / 2, 1 / 4, 1 / 4]]).log()
TARGETS = Targets(
    label_ids=torch.tensor([[2, 0], [1, -1]]),
    weights=torch.tensor([[0.75, 0.25], [1.0, 0.0]]),
    own=torch.tensor([0, -1]),
)


def test_candidates_in_places_become_a_mask_over_labels():
    assert candidate_mask(TARGETS.label_ids, 3).tolist() == [[True, False, True], [False, True, False]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("proden", (0.75 * math.log(2) + 0.25 * math.log(6) + math.log(4)) / 2),
        ("rc", (0.75 * math.log(2) + 0.25 * math.log(6) + math.log(4)) / 2),
        ("cavl", (0.75 * math.log(2) + 0.25 * math.log(6) + math.log(4)) / 2),
        # Outside: the second label, and the first and third in the shares 2/3 and 1/3.
        (
            "lws",
            (0.75 * math.log(2) + 0.25 * math.log(6) + math.log(4)) / 2
            + (math.log(6 / 4) + 2 / 3 * math.log(2) + 1 / 3 * math.log(4 / 3)) / 2,
        ),
        ("ce", math.log(6) / 2),
        ("cc", (-math.log(4 / 6) + math.log(4)) / 2),
        ("gce", (0.75 * (1 - 1 / 2) + 0.25 * (1 - 1 / 6) + 3 / 4) / 2),
    ],
)
def test_losses_by_hand(name, expected):
    assert_close(loss(Near(loss=name, gce_q=1.0), LOGITS, TARGETS), torch.tensor(expected))


def test_every_configured_loss_is_there():
    for name in Near.model_fields["loss"].annotation.__args__:
        assert loss(Near(loss=name), LOGITS, TARGETS).isfinite()


def test_disambiguated_weights_by_hand():
    assert_close(disambiguated(LOGITS, TARGETS.label_ids), torch.tensor([[0.75, 0.25], [1.0, 0.0]]))
    assert_close(candidate_loss(LOGITS, TARGETS.label_ids), torch.tensor((-math.log(4 / 6) + math.log(4)) / 2))


def test_weights_are_updated_as_the_loss_has_it():
    # CAVL looks at the logits: |v − 1| · v of ln 3/6 and ln 1/6 is −1.17 and −5.00.
    assert_close(updated_weights(Near(loss="cavl"), LOGITS, TARGETS), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    for name in ("proden", "lws", "rc"):
        assert_close(updated_weights(Near(loss=name), LOGITS, TARGETS), disambiguated(LOGITS, TARGETS.label_ids))


def test_the_own_label_keeps_its_weight_where_it_is_a_candidate():
    # The first image's own label is its second candidate; the second image has none of its own.
    found = updated_weights(Near(own_weight=0.4), LOGITS, TARGETS)
    assert_close(found, torch.tensor([[0.6 * 0.75, 0.6 * 0.25 + 0.4], [1.0, 0.0]]))
