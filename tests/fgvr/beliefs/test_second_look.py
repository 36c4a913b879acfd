"""When a second look replaces a label."""

import pytest

from fgvr.beliefs.second_look import choices, decide


def test_the_own_name_is_compared_with_the_first_others():
    assert choices("Wren", ["Robin", "Wren", "Dunnock", "Siskin"]) == ("Wren", "Robin", "Dunnock")
    assert choices("Wren", []) == ("Wren",)


@pytest.mark.parametrize(
    ("scores", "neighbours", "chosen", "replaced"),
    [
        ([-1.0, -0.5, -3.0], "Robin", "Robin", True),  # half a nat, and the neighbours' name
        ([-1.0, -0.51, -3.0], "Robin", "Robin", False),  # not clear enough
        ([-1.0, -0.2, -3.0], "Dunnock", "Robin", False),  # the neighbours say another
        ([-1.0, -0.2, -3.0], None, "Robin", False),  # the neighbours say nothing
        ([-0.1, -0.2, -3.0], "Robin", "Wren", False),  # the model stays with it
        ([-1.0, -1.0, -1.0], "Robin", "Wren", False),  # a tie is no reason
    ],
)
def test_two_witnesses_must_agree(scores, neighbours, chosen, replaced):
    found = decide(["Wren", "Robin", "Dunnock"], scores, neighbours)
    assert (found.chosen, found.replaced) == (chosen, replaced)


def test_one_name_stays():
    assert not decide(["Wren"], [-4.0], "Wren").replaced


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="2 names and 1 scores"):
        decide(["a", "b"], [0.0], None)
