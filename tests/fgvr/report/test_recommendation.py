"""The recommendation, with counts and p-values worked by hand."""

from math import comb

import numpy as np
import pytest

from fgvr.report.recommendation import FEWEST, known_costs, recommend
from fgvr.report.results import MethodCost

TRUE = ["Wren"] * 100


def named(right: int, first: int = 0, photos: int = 100) -> list[str]:
    """Right on the photos first … first + right − 1."""
    return ["wren" if first <= n < first + right else "Tern" for n in range(photos)]


def chosen(names, costs=None, true=TRUE, seen=None, audited=False):
    return recommend(names, true, seen or {}, costs or {}, audited=audited)


def test_the_best_is_recommended_with_its_count_and_interval():
    found = chosen({"near": named(90), "makd": named(60), "mllm": named(100)}, {"near": 9.0, "makd": 1.0})
    assert (found.method, found.basis) == ("near", "truth")  # the MLLM is no model that a run leaves behind
    assert found.why.startswith("90 of 100 (90.0%, 95% interval 82.4 to 95.1%)")  # exact binomial, published tables
    assert [each.method for each in found.standings] == ["near", "makd"]
    # 30 photos only NeaR is right on, none the other way: 2 · 0.5^30
    assert found.standings[1].p == pytest.approx(2 * 0.5**30)


def test_of_two_that_cannot_be_told_apart_the_cheaper():
    # The first 12 photos: NeaR alone right on 7 of them, the student alone on 5; 80 both. 7 : 5 has p = 0.77.
    near, makd = named(87, 0), named(85, 7)
    makd = ["wren" if 7 <= n < 92 else "Tern" for n in range(100)]
    p = min(1.0, 2 * sum(comb(12, k) for k in range(6)) / 2**12)
    found = chosen({"near": near, "makd": makd}, {"near": 9.0, "makd": 1.0})
    assert found.method == "makd"
    assert found.standings[1].p == pytest.approx(p)
    assert "The best has 87.0%" in found.why
    assert chosen({"near": near, "makd": makd}, {"near": 1.0, "makd": 9.0}).method == "near"
    assert chosen({"near": near, "makd": makd}, {"near": 9.0}).method == "near"  # a cost is not known
    assert "what they cost is not known" in chosen({"near": near, "makd": makd}).why


def test_a_model_far_behind_is_no_tie_however_few_the_photos():
    # 30 photos, 2 against 0 differ: p = 0.5, but 6.7 points
    names = {"near": named(20, photos=30), "makd": named(18, photos=30)}
    assert chosen(names, {"near": 9.0, "makd": 1.0}, true=TRUE[:30]).method == "near"


def test_photos_that_a_model_learned_from_count_for_none():
    seen = np.arange(100) < 40  # NeaR knows these by heart
    near, makd = named(60), named(40, 60)
    found = chosen({"near": near, "makd": makd}, seen={"near": seen})
    assert found.method == "makd"  # 40 of the 60 others, against NeaR's 20
    assert [(each.right, each.images) for each in found.standings] == [(40, 60), (20, 60)]


def test_a_model_that_saw_nearly_all_photos_is_left_out():
    seen = np.arange(100) >= FEWEST - 1
    found = chosen({"near": named(100), "makd": named(50)}, seen={"near": seen})
    assert found.method == "makd"
    assert found.left_out == {"near": "only 29 of the 100 photos are none that it learned from"}
    none = chosen({"near": named(100), "makd": named(50)}, seen={"near": seen, "makd": seen})
    assert (none.method, none.basis) == ("", "none")
    assert "audit" in none.why


def test_what_people_said_is_named_so():
    assert chosen({"near": named(90)}, audited=True).basis == "audit"


def test_without_truth_agreement_with_the_mllm_decides_and_says_so():
    names = {"mllm": named(100), "near": named(70), "base": named(40)}
    found = chosen(names, true=[None] * 100)
    assert (found.method, found.basis) == ("near", "agreement")
    assert "which may be wrong too" in found.why
    assert chosen({"near": named(70)}, true=[None] * 100).basis == "none"


def test_photos_without_truth_or_without_the_mllms_name_do_not_count():
    half = ["Wren"] * 50 + [None] * 50
    assert chosen({"near": named(90)}, true=half).standings[0].images == 50
    empty = chosen({"near": [""] * 100, "mllm": [""] * 100}, true=[""] * 100)
    assert empty.method == ""  # no name agrees with none
    assert chosen({"mllm": named(9), "zs_clip": named(9)}).method == ""
    assert chosen({"near": [], "mllm": []}, true=[]).method == ""


def test_costs_are_money_or_else_hours_and_never_start_up():
    cost = {
        "near": MethodCost(0, 0, 2.0, 5.0, usd_million=50.0, timed_images=5000),
        "makd": MethodCost(0, 0, 1.0, 3.0, usd_million=30.0, timed_images=5000),
        "base": MethodCost(0, 0, 0.1, 1.0, usd_million=10.0, timed_images=60),
    }
    assert known_costs(cost, 1000) == {"near": 50.0, "makd": 30.0}
    unpriced = cost | {"makd": MethodCost(0, 0, 1.0, None, timed_images=5000)}
    assert known_costs(unpriced, 1000) == {"near": 2.0, "makd": 1.0}
