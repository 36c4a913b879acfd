"""The tree that a language model's answers make: contradictions, circles, spellings, and answers of ill will."""

import pickle

import pytest

from fgvr.hierarchy.asked import MOST_ABOVE, AskedKinds, Chain
from fgvr.hierarchy.decisions import TreeRule
from fgvr.hierarchy.tree import ROOT, Tree


def above(tree: Tree) -> dict[str, str]:
    """Every node and the one above it; "" at the top."""
    return {name: tree.names[tree.parent[node]] for node, name in enumerate(tree.names) if node != ROOT}


def kinds(**chains: str) -> AskedKinds:
    """Chains by name, kinds separated by " < "."""
    return AskedKinds(
        tuple(Chain(name.replace("_", " "), tuple(filter(None, said.split(" < ")))) for name, said in chains.items())
    )


def test_chains_meet_in_kinds_whatever_their_spelling() -> None:
    asked = kinds(herring_gull="Gulls < birds", mew_gull="gull < Bird", robin="bird < animal", Bird="animal")
    # A kind is written as the name that was asked, or else as most answers have it; of equals the first.
    assert above(asked.tree(["herring gull", "mew gull", "robin", "Bird"])) == {
        "animal": "",
        "Bird": "animal",
        "Gulls": "Bird",
        "herring gull": "Gulls",
        "mew gull": "Gulls",
        "robin": "Bird",
    }


def test_what_was_said_of_the_name_itself_counts_before_what_was_said_on_the_way() -> None:
    asked = kinds(mew_gull="gull < seabird", gull="bird", auk="seabird < bird", puffin="seabird < animal")
    found = above(asked.tree(["mew gull", "gull", "auk", "puffin"]))
    assert found["gull"] == "bird"
    assert found["seabird"] == "bird"  # the auk comes before the puffin


def test_a_tree_depends_on_no_name_but_its_own() -> None:
    asked = kinds(auk="seabird < bird", puffin="seabird < animal", bird="thing")
    assert above(asked.tree(["puffin"])) == {"animal": "", "seabird": "animal", "puffin": "seabird"}
    assert above(asked.tree(["auk"])) == {"bird": "", "seabird": "bird", "auk": "seabird"}


def test_a_circle_loses_the_link_that_was_said_last() -> None:
    asked = kinds(fruit="plum", plum="drupe < fruit", apple="fruit < plum")
    # fruit → plum and plum → drupe are said of the names themselves, drupe → fruit closes the circle.
    assert above(asked.tree(["fruit", "plum", "apple"])) == {
        "drupe": "",
        "plum": "drupe",
        "fruit": "plum",
        "apple": "fruit",
    }
    alone = kinds(a="b", b="a", c="c")
    assert above(alone.tree(["a", "b", "c"])) == {"b": "", "a": "b", "c": ""}
    assert alone.tree(["c"]).unknown == ("c",)


def test_names_without_an_answer_hang_at_the_root_and_are_no_level() -> None:
    asked = kinds(auk="seabird", mystery="")
    tree = asked.tree(["auk", "mystery", "never asked"])
    assert above(tree)["mystery"] == above(tree)["never asked"] == ""
    assert tree.unknown == ("mystery", "never asked")
    assert tree.levels == ("level 1", "level 2")
    assert AskedKinds(()).tree(["a"]).unknown == ("a",)


def test_twenty_thousand_names_that_continue_each_other_make_no_deep_tree() -> None:
    count = 20_000
    for order in (range(count), range(count - 1, -1, -1)):
        asked = AskedKinds(tuple(Chain(f"n{i}x", (f"n{i + 1}x", f"n{i + 2}x")) for i in order))
        tree = asked.tree([chain.name for chain in asked.chains])
        assert len(tree.names) == count + 3
        assert tree.depth.max() <= MOST_ABOVE + 1
    ring = AskedKinds(tuple(Chain(f"n{i}x", (f"n{(i + 1) % count}x",)) for i in range(count)))
    assert ring.tree([chain.name for chain in ring.chains]).depth.max() <= MOST_ABOVE + 1


def test_its_digest_is_of_what_was_said_and_it_travels_to_workers() -> None:
    one, other = kinds(auk="seabird"), kinds(auk="bird")
    assert one.digest() != other.digest()
    assert one.digest() == kinds(auk="seabird").digest()
    costs = pickle.loads(pickle.dumps(TreeRule(one, any_level=True))).of(["auk"])  # noqa: S301
    assert costs.tree.names == ("", "seabird", "auk")
    with pytest.raises(ValueError, match="none of the labels"):
        TreeRule(one).of(["gull"])
