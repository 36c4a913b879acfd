"""The guard: its counts by an independent loop, and its verdict where the better one is known."""

import numpy as np
import pytest

from fgvr.arrays import NONE
from fgvr.beliefs.guard import Verdict, compared, z_of
from fgvr.candidates.sets import CandidateSets, single_sets
from tests.fgvr.beliefs.noisy_clusters import planted, unit


def weighted(labels, weights):
    return CandidateSets(np.asarray(labels, np.int32), np.asarray(weights, np.float32))


def test_z_by_hand():
    assert z_of(20, 5) == pytest.approx(3.0)
    assert z_of(5, 20) == pytest.approx(-3.0)
    assert z_of(0, 0) == 0


def test_sets_that_are_the_truth_win():
    data = planted(0, classes=6, each=40, spread=0.35, wrong=0.5)
    found = compared(data.own, data.vectors, 6, lambda _: single_sets(data.truth))
    assert found.verdict.decision == "sets"
    assert found.verdict.images == 240
    assert found.verdict.for_sets > found.verdict.for_own


def test_sets_that_are_noise_lose():
    data = planted(0, classes=6, each=40, spread=0.3, wrong=0.1)
    noise = single_sets(np.random.default_rng(0).permutation(data.own))
    assert compared(data.own, data.vectors, 6, lambda _: noise).verdict.decision == "own"


def test_own_labels_as_sets_are_unknown():
    data = planted(0, classes=6, each=40)
    found = compared(data.own, data.vectors, 6, lambda _: single_sets(data.own))
    verdict = found.verdict
    assert (verdict.decision, verdict.differ, verdict.z, verdict.audit) == ("unknown", 0, 0.0, None)
    assert verdict.in_words().endswith("keep the own labels (candidates.method single)")
    assert found.to_audit.tolist() == []


def test_sets_are_made_of_the_known_labels_only():
    data, seen = planted(0, classes=4, each=15), []

    def sets_of(known):
        seen.append(known)
        return single_sets(np.where(known, data.own, NONE))

    compared(data.own, data.vectors, 4, sets_of)
    assert [known.sum() for known in seen] == [40, 40, 40]
    assert np.sum(seen, axis=0).tolist() == [2] * 60


def test_the_counts_by_a_loop():
    data = planted(3, classes=5, each=12, spread=0.4)
    half = weighted(np.column_stack([data.own, data.truth]), np.full((60, 2), 0.5))
    found = compared(data.own, data.vectors, 5, lambda _: half, seed=5)
    order = np.random.default_rng(5).permutation(60)
    for_own = for_sets = 0
    differ = []
    for fold in range(3):
        held_out = order[fold::3]
        known = [i for i in range(60) if i not in held_out]
        heads = [np.zeros((5, 24)), np.zeros((5, 24))]
        for i in known:
            heads[0][data.own[i]] += data.vectors[i]
            heads[1][data.own[i]] += 0.5 * data.vectors[i]
            heads[1][data.truth[i]] += 0.5 * data.vectors[i]
        heads = [head / (np.linalg.norm(head, axis=1, keepdims=True) + 0.3) for head in heads]
        for i in held_out:
            own_name, sets_name = ((data.vectors[i] @ head.T).argmax() for head in heads)
            if own_name != sets_name:
                differ.append(i)
                for_own += own_name == data.own[i]
                for_sets += sets_name == data.own[i]
    assert (found.verdict.for_own, found.verdict.for_sets) == (for_own, for_sets)
    assert found.rows.tolist() == sorted(differ)


def test_images_without_a_label_are_in_no_fold():
    data = planted(0, classes=4, each=15)
    own = data.own.copy()
    own[::3] = NONE
    found = compared(own, data.vectors, 4, lambda _: single_sets(data.truth))
    assert found.verdict.images == 40


@pytest.mark.parametrize("labelled", [0, 1, 2, 3])
def test_too_few_labels_decide_nothing(labelled):
    vectors = unit(np.random.default_rng(0).standard_normal((5, 4)))
    own = np.array([0, 1, 0, 1, 0], np.int32)
    own[labelled:] = NONE
    assert compared(own, vectors, 2, lambda _: single_sets(own)).verdict.decision == "unknown"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="3 labels for 2 vectors"):
        compared(np.zeros(3, np.int32), np.eye(2, dtype=np.float32), 2, single_sets)


@pytest.mark.parametrize(
    ("verdict", "helps", "words"),
    [
        (Verdict(900, 100, 15, 45), True, "candidate sets agree better with labels that they have not seen (on 100 of"),
        (
            Verdict(900, 100, 45, 15),
            False,
            "held-out labels agree better with the own labels than with candidate sets: try candidates.method single",
        ),
        (Verdict(900, 100, 30, 33), None, "unknown whether candidate sets help, so prefer the own labels (on 100 of"),
    ],
)
def test_in_words(verdict, helps, words):
    assert verdict.helps is helps
    said = verdict.in_words()
    assert said.startswith(words)
    assert f"{verdict.for_sets} agree with the sets, {verdict.for_own} with the own labels" in said
    assert ("would not settle it" in said) == (helps is None)


def test_the_audit_is_drawn_from_the_differences():
    data = planted(0, classes=6, each=40, spread=0.3, wrong=0.1)
    noise = single_sets(np.random.default_rng(0).permutation(data.own))
    found = compared(data.own, data.vectors, 6, lambda _: noise)
    assert found.verdict.audit == 15
    assert len(set(found.to_audit.tolist())) == 15
    assert found.to_audit.max() < len(found.rows)
