import itertools
from pathlib import Path

import numpy as np
import pytest

from fgvr.arrays import NONE
from fgvr.heads.costs import Costs, CostsError, read_costs, tracks

LABELS = ("Death cap", "Fly agaric", "Chanterelle", "Cep", "Moss")
GROUPS = "name,group\ndeath cap,poisonous\nFly Agaric,poisonous\nChanterelle,edible\nCep,edible\nTruffle,edible\n"
CONFUSION = "true,predicted,cost\npoisonous,edible,100\nedible,poisonous,1\n*,*,0\n"


def costs_of(folder: Path, text: str, groups: str | None = GROUPS, labels=LABELS) -> Costs:
    folder.joinpath("costs.csv").write_text(text)
    if groups is not None:
        folder.joinpath("groups.csv").write_text(groups)
    named = None if groups is None else str(folder / "groups.csv")
    return Costs.of(read_costs(str(folder / "costs.csv"), named), labels)


def matrix(costs: Costs) -> np.ndarray:
    count = len(costs.group)
    pairs = np.array(list(itertools.product(range(count), range(count))))
    return costs.cost(pairs[:, 0], pairs[:, 1]).reshape(count, count)


def test_a_file_of_groups_by_hand(tmp_path):
    found = matrix(costs_of(tmp_path, CONFUSION))
    expected = np.zeros((5, 5))
    expected[:2, 2:4], expected[2:4, :2] = 100, 1
    np.testing.assert_array_equal(found, expected)


def test_the_line_that_says_most_counts_and_right_answers_are_free(tmp_path):
    lines = [
        "true,predicted,cost",
        "*,*,2",
        "poisonous,*,5",
        "poisonous,poisonous,3",
        "Cep,*,7",
        "*,Cep,8",
        "edible,Cep,9",
        "Cep,Moss,11",
        "Moss,Moss,0.5",
    ]
    found = matrix(costs_of(tmp_path, "\n".join(lines)))
    #              death fly  chant cep  moss
    expected = [
        [0, 3, 5, 8, 5],
        [3, 0, 5, 8, 5],
        [2, 2, 0, 9, 2],
        [7, 7, 7, 0, 11],
        [2, 2, 2, 8, 0.5],
    ]
    np.testing.assert_array_equal(found, expected)


def test_decisions_by_hand(tmp_path):
    # Of two names, .02 poisonous: saying edible costs 2.0, saying poisonous .98.
    costs = costs_of(tmp_path, CONFUSION, labels=("death cap", "cep"))
    p = np.array([[0.02, 0.98], [0.005, 0.995]], np.float32)
    np.testing.assert_allclose(costs.expected(p), [[0.98, 2.0], [0.995, 0.5]], rtol=1e-6)
    said, cost, abstains = costs.decide(p)
    assert said.tolist() == [0, 1]
    np.testing.assert_allclose(cost, [0.98, 0.5], rtol=1e-6)
    assert not abstains.any()


def test_abstaining_is_a_column_with_a_price(tmp_path):
    costs = costs_of(tmp_path, CONFUSION + "*,abstain,0.6\npoisonous,abstain,0.1\n", labels=("death cap", "cep"))
    p = np.array([[0.02, 0.98], [0.005, 0.995]], np.float32)
    said, cost, abstains = costs.decide(p)
    # .02 · .1 + .98 · .6 = .59 < .98, but .5975 > .5
    assert abstains.tolist() == [True, False]
    np.testing.assert_allclose(cost, [0.59, 0.5], rtol=1e-5)
    assert said.tolist() == [0, 1]
    np.testing.assert_allclose(costs.cost(np.array([0, 1, 1]), np.array([NONE, NONE, 1])), [0.1, 0.6, 0])


def test_equal_costs_are_decided_by_probability(tmp_path):
    costs = costs_of(tmp_path, CONFUSION)  # within a group no name costs more than another
    said, _, _ = costs.decide(np.array([[0.0, 0.0, 0.3, 0.6, 0.1]], np.float32))
    assert said.tolist() == [3]


def test_without_lines_for_these_names_the_most_probable_is_said(tmp_path):
    costs = costs_of(tmp_path, "true,predicted,cost\n*,*,1\n", None)
    p = np.random.default_rng(0).dirichlet(np.ones(5), 50).astype(np.float32)
    said, cost, _ = costs.decide(p)
    assert (said == p.argmax(axis=1)).all()
    np.testing.assert_allclose(cost, 1 - p.max(axis=1), rtol=1e-5)


def test_expected_costs_are_the_product_with_the_whole_matrix(tmp_path):
    rng = np.random.default_rng(0)
    labels = [f"name {n}" for n in range(40)]
    groups = "name,group\n" + "".join(f"name {n},g{n % 4}\n" for n in range(36))
    lines = [f"g{rng.integers(4)},g{n % 4},{n}" for n in range(4)]
    lines += [f"name {n},name {(7 * n) % 40},{n + 0.5}" for n in range(30)] + [
        "name 3,*,50",
        "*,name 5,60",
        "g1,name 8,70",
    ]
    costs = costs_of(tmp_path, "true,predicted,cost\n" + "\n".join(lines), groups, labels)
    p = rng.dirichlet(np.ones(40), 20).astype(np.float32)
    np.testing.assert_allclose(costs.expected(p), p @ matrix(costs), rtol=1e-5)


def test_names_are_compared_as_everywhere_and_unknown_ones_are_told(tmp_path):
    tmp_path.joinpath("c.csv").write_text("true;predicted;cost\nDEATH-CAP; cep ;3,5\nOld man;*;2\n")
    file = read_costs(str(tmp_path / "c.csv"))
    assert file.unmatched(LABELS) == ["Old man"]
    assert matrix(Costs.of(file, LABELS))[0, 3] == 3.5


@pytest.mark.parametrize(
    ("text", "groups", "message"),
    [
        ("true,cost\na,1\n", None, "needs columns true and predicted"),
        ("true,predicted,cost\n", None, "no line with a cost"),
        ("true,predicted,cost\ncep,moss,dear\n", None, "line 2: the cost 'dear' is not a number"),
        ("true,predicted,cost\ncep,moss,-1\n", None, "from 0 on"),
        ("true,predicted,cost\ncep,moss,nan\n", None, "from 0 on"),
        ("true,predicted,cost\ncep,,1\n", None, "`predicted` is empty"),
        ("true,predicted,cost\ncep,moss,1\nCep,Moss,2\n", None, "line 3: an earlier line"),
        ("true,predicted,cost\nabstain,cep,1\n", None, "is no true name"),
        ("true,predicted,cost\npoisonous,edible,1\n", None, "none of its names and groups"),
        ("true,predicted,cost\ncep,moss,1\n", "name,group\ncep,a\ncep,b\n", "another group already"),
        ("true,predicted,cost\ncep,moss,1\n", "name,group\ncep,moss\nmoss,x\n", "a name as well as a group"),
    ],
)
def test_files_that_mean_nothing_are_refused(tmp_path, text, groups, message):
    with pytest.raises(CostsError, match=message):
        costs_of(tmp_path, text, groups)


def test_a_missing_file_and_a_label_called_abstain_are_refused(tmp_path):
    with pytest.raises(CostsError, match="there is no file"):
        read_costs(str(tmp_path / "none.csv"))
    with pytest.raises(CostsError, match="is a label here"):
        costs_of(tmp_path, "true,predicted,cost\n*,*,1\n", None, ("Abstain", "cep"))


def test_the_tracks_of_fungiclef_by_hand():
    dangerous = np.array([True, True, False, False])
    # Three photos: one poisonous named edible, one edible named poisonous, one right: T2 = 101/3.
    found = tracks(np.array([0, 2, 3]), np.array([2, 1, 3]), dangerous)
    assert found.confusion == pytest.approx(101 / 3)
    assert found.wrong == pytest.approx(2 / 3)
    assert found.both == pytest.approx(101 / 3 + 2 / 3)
    assert found.unknown == pytest.approx(2 / 3)
    # An unknown one named (10), a known one called unknown (.1), another wrong (1), an unknown one called so (0).
    found = tracks(np.array([NONE, 3, 2, NONE]), np.array([2, NONE, 3, NONE]), dangerous)
    assert found.unknown == pytest.approx(11.1 / 4)
    assert found.wrong == pytest.approx(3 / 4)
    assert found.confusion == 0
    # A poisonous one called unknown counts as called harmless.
    assert tracks(np.array([0]), np.array([NONE]), dangerous).confusion == 100
    with pytest.raises(ValueError, match="0 answers for 0"):
        tracks(np.zeros(0, np.int64), np.zeros(0, np.int64), dangerous)


def test_track_two_is_the_mean_cost_of_its_file(tmp_path):
    costs = costs_of(tmp_path, CONFUSION)
    rng = np.random.default_rng(0)
    true, said = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    dangerous = np.array([True, True, False, False])
    among = (true < 4) & (said < 4)  # moss is neither
    found = tracks(true[among], said[among], dangerous)
    assert costs.cost(true[among], said[among]).mean() == pytest.approx(found.confusion)


def test_a_line_for_each_of_very_many_names_is_refused_before_it_takes_the_memory(tmp_path):
    labels = [f"Kind {number}" for number in range(5_000)]
    lines = "\n".join(f"{label},*,3" for label in labels)
    with pytest.raises(CostsError, match=r"set 25,000,000 costs one by one among 5,000 labels.*infer\.cost_groups"):
        costs_of(tmp_path, f"true,predicted,cost\n{lines}\n", None, labels)
