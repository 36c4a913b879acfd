"""Files of kinds and the trees that they make, with every way in which a file can be wrong."""

import pytest

from fgvr.hierarchy.kinds import KindsError, read_kinds
from fgvr.hierarchy.tree import DEEPEST, HierarchyError, build_tree

WIDE = "species,genus,family\n"
WIDE += "Herring Gull,gull,Laridae\nMew gull,Gull,Laridae\nCommon Tern,Tern,laridae\nMallard,,Anatidae\n"
LINKS = (
    "name,parent\nHerring Gull,gull\nMew Gull,gull\nGull,Laridae\nCommon tern,tern\ntern,Laridae\nMallard,Anatidae\n"
)


def read(tmp_path, text, levels=None, encoding="utf-8"):
    (tmp_path / "kinds.csv").write_bytes(text.encode(encoding))
    return read_kinds(str(tmp_path / "kinds.csv"), levels)


def at(tree, name):
    return tree.nodes([name])


@pytest.mark.parametrize("text", [WIDE, LINKS, WIDE.replace(",", ";"), "﻿" + LINKS.replace("\n", "\r\n")])
def test_both_kinds_of_file_by_hand(tmp_path, text):
    #            ∅
    #      Laridae    Anatidae
    #     gull  tern  Mallard
    #   Herring Mew  Common
    tree = read(tmp_path, text).tree(["herring-gull", "MEW GULL", "Dodo"])
    assert tree.unknown == ("Dodo",)
    herring, mew, tern, mallard = tree.nodes(["Herring Gull", "mew_gull", "common tern", "mallard"])
    assert [tree.distance([a], [b]).item() for a, b in ((herring, mew), (herring, tern), (herring, mallard))] == [
        2,
        4,
        5,
    ]
    assert tree.names[tree.lowest_common([herring], [tern]).item()].lower() == "laridae"
    assert tree.lowest_common([herring], [mallard]).item() == 0
    assert tree.height[at(tree, "laridae")].item() == 2
    assert tree.height[0] == 3
    assert tree.distance(at(tree, "Dodo"), at(tree, "gull")).item() == 3
    assert tree.distance([mew], [mew]).item() == 0
    assert set(range(at(tree, "gull").item(), tree.end[at(tree, "gull")].item())) == {
        at(tree, "gull").item(),
        herring,
        mew,
    }


def test_levels_are_columns_or_depths(tmp_path):
    wide, links = read(tmp_path, WIDE).tree([]), read(tmp_path, LINKS).tree([])
    assert wide.levels == ("family", "genus", "species")
    assert links.levels == ("level 1", "level 2", "level 3")
    assert wide.level_of(at(wide, "Mallard").item()) == "species"
    assert links.level_of(at(links, "Mallard").item()) == "level 2"
    found = wide.at_level[at(wide, "Mallard").item()]
    assert found.tolist() == [at(wide, "Anatidae").item(), -1, at(wide, "Mallard").item()]


def test_chosen_columns_among_others(tmp_path):
    text = "Class Name (str),id,Coarse Class Name (str)\nGala,0,Apple\nBanana,1,Banana\nFuji,2,Apple\n"
    tree = read(tmp_path, text, ("Class Name (str)", "Coarse Class Name (str)")).tree([])
    # Banana is a kind with one member of its own name: one node on both levels.
    assert sorted(filter(None, tree.names)) == ["Apple", "Banana", "Fuji", "Gala"]
    banana = at(tree, "Banana").item()
    assert tree.at_level[banana].tolist() == [banana, banana]
    assert tree.level_of(banana) == "Class Name (str)"


def test_a_name_may_stand_above_others(tmp_path):
    tree = read(tmp_path, "name,parent\nsparrow,bird\nhouse sparrow,sparrow\nsparrow,bird\n").tree(["Sparrow"])
    assert tree.distance(at(tree, "house sparrow"), at(tree, "sparrow")).item() == 1
    assert not tree.unknown


def test_accents_count_and_marks_do_not(tmp_path):
    tree = read(tmp_path, "name,parent\nPâté,food\npate,head\n").tree(["pa\u0302te\u0301", "\ufeffPATE "])
    assert not tree.unknown
    assert tree.distance(at(tree, "pâté"), at(tree, "pate")).item() == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "columns"),
        ("name,parent\n", "no row"),
        ("species\nGull\n", "column per level"),
        ("name,parent\na,b\nb,c\nc,a\n", "a → b → c → a"),
        ("name,parent\na,b\nA,a\n", "line 3: 'a' stands below 'a', and on line 2 below 'b'"),
        ("name,parent\na,a\n", "a → a"),
        ("name,parent\na,b\na,c\n", "line 3: 'a' stands below 'c', and on line 2 below 'b'"),
        ("name,parent\n,b\n", "is no name"),
        ("name,parent\n…,b\n", "is no name"),
        ("species,genus,family\nx,g,f\ny,h,x\n", "two kinds of one name"),
        ("species,genus,family\nx,g,f\nx,,h\n", "line 3"),
        ('species,genus\n"x,g\n', "quote"),
    ],
)
def test_files_that_are_no_tree(tmp_path, text, said):
    with pytest.raises(KindsError, match=r"hierarchy\.path") as found:
        read(tmp_path, text)
    assert said in str(found.value)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(KindsError, match="no file"):
        read_kinds(str(tmp_path / "none.csv"))
    (tmp_path / "binary.csv").write_bytes("name,parent\n".encode("utf-16-le"))
    with pytest.raises(KindsError, match="UTF"):
        read_kinds(str(tmp_path / "binary.csv"))
    (tmp_path / "latin.csv").write_bytes("name,parent\nPâté,food\n".encode("latin-1"))
    with pytest.raises(KindsError, match="line 2"):
        read_kinds(str(tmp_path / "latin.csv"))


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(KindsError, match="needs columns species and genus"):
        read(tmp_path, "Species,family\nx,f\n", ("species", "genus"))


def test_rows_in_another_order_are_the_same_content(tmp_path):
    first, *rows = LINKS.splitlines()
    one, other = read(tmp_path, LINKS), read(tmp_path, "\n".join([first, *reversed(rows), rows[0]]))
    assert {**one.parents} == {**other.parents}
    assert read(tmp_path, LINKS).digest() == one.digest()
    assert read(tmp_path, LINKS.replace("Anatidae", "Ducks")).digest() != one.digest()


def test_thirty_levels_and_twenty_thousand_names():
    parents = {f"k{depth}": f"k{depth - 1}" for depth in range(1, 30)}
    parents |= {f"n{number}": f"k{number % 30}" for number in range(20_000)}
    tree = build_tree(parents, {})
    assert len(tree.names) == 20_031
    assert len(tree.by_depth) == 32
    assert tree.distance(tree.nodes(["n0"]), tree.nodes(["n29"])).item() == 31
    assert tree.end[0] == len(tree.names)


def test_too_deep_to_be_a_taxonomy():
    with pytest.raises(HierarchyError, match=f"over {DEEPEST}"):
        build_tree({f"k{depth}": f"k{depth - 1}" for depth in range(1, DEEPEST + 2)}, {})


def test_no_names_at_all():
    tree = build_tree({}, {}, ["", "…"])
    assert tree.names == ("",)
    assert tree.nodes(["", None, "…"]).tolist() == [-1, -1, -1]
