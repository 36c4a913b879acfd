"""Who decides: numbers by hand, and how often the steps together break a promise."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from fgvr.arrays import NONE
from fgvr.calibration.cascade import (
    BY,
    OUTCOMES,
    WHY,
    By,
    Checked,
    Choice,
    Scores,
    Thresholds,
    Why,
    decide,
    find_thresholds,
)
from fgvr.calibration.checked import Truth, audited, matches
from fgvr.calibration.kinds import is_below, kinds_above
from fgvr.calibration.promise import Promise, Test, fewest_kept, promise
from fgvr.hierarchy.kinds import Kinds
from fgvr.review.audit_file import AuditSample, Drawn
from fgvr.review.decisions import Decision, Kind, fold

KINDS = Kinds(
    {"gull": "bird", "tern": "bird", "bird": "", "cat": "mammal", "mammal": ""},
    {name: name for name in ("gull", "tern", "bird", "cat", "mammal")},
)


def passed(threshold: float) -> Promise:
    return Promise(0.9, 0.05, 100, (Test(threshold, 0.5, 50, 50, 0.94, True),))


NOTHING = Promise(0.9, 0.05, 100, ())


def test_kind_is_the_sum_of_the_best_names_below_it():
    tree = KINDS.tree(["gull", "tern", "cat", "unicorn"])
    labels = pa.chunked_array([["gull", "cat"], ["unicorn", None, "bird"]])
    tops = pa.chunked_array([[["gull", "cat", "tern"], ["cat", "gull"]], [["unicorn", "gull"], None, ["bird", "gull"]]])
    scores = pa.chunked_array([[[0.5, 0.3, 0.2], [0.6, 0.4]], [[0.9, 0.1], None, [0.7, 0.3]]])
    nodes, mass = kinds_above(tree, labels, tops, scores)
    assert [None if node == NONE else tree.names[node] for node in nodes] == ["bird", "mammal", None, None, None]
    assert mass == pytest.approx([0.7, 0.6, np.nan, np.nan, np.nan], nan_ok=True)
    assert is_below(tree, ["tern", "gull", "gull", None, "bird"], nodes).tolist() == [True, False, False, False, False]


def test_audit_counts_what_nobody_knows_as_wrong():
    names = {"a": "gull", "b": "gull", "c": "tern", "d": "tern", "e": "cat", "f": "gull"}
    sample = AuditSample(0, (6,), tuple(Drawn(n, uri, 0, name, 0.9) for n, (uri, name) in enumerate(names.items())))
    decisions = fold(
        [
            Decision(Kind.RIGHT, "ann", 0, "a", "gull"),
            Decision(Kind.NAME, "ann", 1, "b", "gull", "Herring Gull"),
            Decision(Kind.WRONG, "ann", 2, "c", "tern"),
            Decision(Kind.CANNOT_TELL, "ann", 3, "d"),
            Decision(Kind.NAME, "ann", 4, "e", "cat", "lynx"),
            Decision(Kind.MERGE, "ann", before="gull", after="Herring Gull"),
        ]
    )
    found = audited(sample, decisions)
    assert [found[uri].name for uri in names] == ["Herring Gull", "Herring Gull", None, None, "lynx", None]
    assert [found[uri].decided for uri in names] == [True] * 5 + [False]
    # A later model may say other names than those that were looked at: what counts is what the photo shows.
    labels = ["gull", "herring-gull", "tern", "tern", "Lynx", "gull"]
    right = matches(labels, [found[uri] for uri in names], decisions.aliases)
    assert right.tolist() == [True, True, False, False, True, False]
    assert not matches([""], [Truth("")], {}).any()
    assert not matches(["gull"], [Truth("gull")], {"gull": ""}).any()


def test_an_error_is_divided_among_steps_and_outcomes():
    rng = np.random.default_rng(0)
    scores = Scores(rng.random(400), rng.random(400))
    right = np.ones(400, bool)
    one = find_thresholds(Checked(scores, right, right), scores, target=0.9, error=0.06, kinds=False, asking=False)
    assert (one.name.error, one.kind, one.asking) == (0.06, None, None)
    wrong = ~right
    three = find_thresholds(Checked(scores, wrong, right), scores, target=0.9, error=0.06, kinds=True, asking=True)
    assert three.name.error == pytest.approx(0.02)
    assert three.kind is not None
    assert three.kind.error == pytest.approx(0.02 / 16)
    assert three.asking == pytest.approx(0.02 / 16**2)
    assert OUTCOMES == 16
    assert (three.name.threshold, three.kind.threshold) == (None, scores.kind.min())
    # ln(.00125) / ln(.9) = 63.4: of 65 photos below the names' threshold all must be right.
    assert fewest_kept(0.9, 0.02 / 16, wrong=0) == 64


def test_every_photo_has_one_decider_and_a_reason():
    #                  sure, kind, left, queued, learned, unreadable, kind but unsure of it
    name = np.array([0.9, 0.5, 0.3, 0.6, 0.99, np.nan, 0.1])
    kind = np.array([0.95, 0.8, np.nan, 0.7, 0.99, np.nan, 0.2])
    learned = np.array([False] * 4 + [True] + [False] * 2)
    thresholds = Thresholds(passed(0.9), passed(0.8), None)
    found = decide(thresholds, Scores(name, kind), learned=learned, queue=1)
    assert [BY[n] for n in found.by] == [By.STUDENT, By.TREE, By.NONE, By.QUEUE, By.NONE, By.NONE, By.NONE]
    unsure = Why.UNSURE
    assert [WHY[n] for n in found.why] == [
        Why.SURE,
        Why.SURE_OF_KIND,
        unsure,
        unsure,
        Why.LEARNED,
        Why.UNREADABLE,
        unsure,
    ]
    assert found.counts() == {"student": 1, "tree": 1, "mllm": 0, "queue": 1, "none": 4}


def test_a_second_look_decides_only_what_is_left_and_sure():
    scores = Scores(np.array([0.95, 0.5, 0.4, 0.3]), np.full(4, np.nan))
    choice = Choice(np.array([0, 1, 2]), np.array([0.99, 0.9, np.nan]))
    found = decide(
        Thresholds(passed(0.9), None, 0.01),
        scores,
        learned=np.zeros(4, bool),
        queue=0,
        choice=choice,
        chosen=passed(0.8),
    )
    assert [BY[n] for n in found.by] == [By.STUDENT, By.MLLM, By.NONE, By.NONE]
    assert [WHY[n] for n in found.why] == [Why.SURE, Why.SURE_CHOICE, Why.UNSURE_CHOICE, Why.UNSURE]
    unproven = decide(
        Thresholds(passed(0.9), None, 0.01), scores, learned=np.zeros(4, bool), queue=1, choice=choice, chosen=NOTHING
    )
    assert [BY[n] for n in unproven.by] == [By.STUDENT, By.QUEUE, By.NONE, By.NONE]


def test_without_a_promise_nobody_is_named_and_no_photos_are_no_error():
    scores = Scores(np.array([0.99, 0.98]), np.full(2, np.nan))
    found = decide(Thresholds(NOTHING, None, None), scores, learned=np.zeros(2, bool), queue=0)
    assert {WHY[n] for n in found.why} == {Why.UNPROVEN}
    assert found.counts()["none"] == 2
    empty = decide(
        Thresholds(NOTHING, None, None), Scores(np.zeros(0), np.zeros(0)), learned=np.zeros(0, bool), queue=9
    )
    assert sum(empty.counts().values()) == 0


def test_steps_together_break_few_promises():
    """Names are right just below the target from .7 on, kinds a little below it everywhere: at most 10% false ones."""
    rng = np.random.default_rng(3)
    pool = Scores(rng.random(3_000), rng.random(3_000))
    chance, kind_chance = np.where(pool.name > 0.7, 0.84, 0.5), np.full(3_000, 0.84)
    false = 0
    for _ in range(300):
        rows = rng.choice(3_000, 400, replace=False)
        checked = Checked(pool.of(rows), rng.random(400) < chance[rows], rng.random(400) < kind_chance[rows])
        found = find_thresholds(checked, pool, target=0.85, error=0.1, kinds=True, asking=False)
        said = [chance[found.by_student(pool)], kind_chance[found.by_kind(pool)]]
        false += any(len(each) > 0 and each.mean() < 0.85 for each in said)
    assert false / 300 <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / 300)


def test_a_promise_survives_a_file():
    scores = np.linspace(0, 1, 200)
    for found in (promise(scores, scores > 0.1, scores, target=0.9, error=0.05), NOTHING):
        assert Promise.of_json(found.as_json()) == found
