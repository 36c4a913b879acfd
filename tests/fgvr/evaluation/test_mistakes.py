import pytest

from fgvr.evaluation.mistakes import mistakes_of
from fgvr.heads.costs import CostFile, CostsError

FILE = CostFile(
    {("poisonous", "edible"): 100.0, ("edible", "poisonous"): 1.0, ("*", "*"): 0.0},
    {"death cap": "poisonous", "cep": "edible", "chanterelle": "edible"},
    {"poisonous": "poisonous", "edible": "edible"},
)
NAMEABLE = ["Death cap", "Cep", "Chanterelle"]


def test_three_photos_by_hand():
    # One poisonous named edible, one edible named poisonous, one right; a fourth has no known class.
    found = mistakes_of(["cep", "Death-Cap", "CEP", "cep"], ["Death cap", "Cep", "cep", None], FILE, NAMEABLE)
    assert found.wrong == pytest.approx(2 / 3)
    assert found.confusion == pytest.approx(101 / 3)
    assert found.both == pytest.approx(103 / 3)
    assert found.unknown == pytest.approx(2 / 3)


def test_silence_and_unknown_classes_by_hand():
    priced = CostFile({**FILE.costs, ("*", "abstain"): 0.5}, FILE.groups, {**FILE.written, "abstain": "abstain"})
    # Silent about a known class (.1), named an unknown class (10), silent about an unknown one (0), right (0).
    found = mistakes_of(["", "cep", "", "cep"], ["Death cap", "Morel", "Morel", "Cep"], priced, NAMEABLE)
    assert found.unknown == pytest.approx(10.1 / 4)
    assert found.confusion == pytest.approx((0.5 + 0 + 0.5 + 0) / 4)
    assert found.wrong == pytest.approx(3 / 4)


def test_costs_of_other_names_and_no_truth_are_refused():
    with pytest.raises(CostsError, match="none of its names and groups"):
        mistakes_of(["gull"], ["tern"], FILE, ["gull"])
    with pytest.raises(ValueError, match="no class is known"):
        mistakes_of(["gull"], [None], FILE, ["gull"])
