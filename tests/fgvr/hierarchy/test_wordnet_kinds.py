"""WordNet's hypernyms from two small files in its format; the numbers of synsets are made up."""

import pytest

from fgvr.hierarchy.kinds import KindsError
from fgvr.hierarchy.wordnet import read_wordnet

SYNSETS = {
    1: ("entity", []),
    2: ("physical_entity", ["@ 1"]),
    3: ("person", ["@ 2"]),
    4: ("bird", ["@ 2"]),
    5: ("crane Stephen_Crane", ["@i 3"]),
    6: ("crane", ["@ 4"]),
    7: ("singer", ["@ 3"]),
    8: ("idea", ["@ 1"]),
    9: ("cardinal_number cardinal", ["@ 8"]),
    10: ("cardinal", ["@ 3"]),
    11: ("cardinal redbird", ["@ 4"]),
    12: ("duck", ["@ 4", "@ 13"]),
    13: ("game", ["@ 2"]),
    14: ("whooping_crane", ["@ 6"]),
}
NOUNS = {
    "entity": [1],
    "physical_entity": [2],
    "person": [3],
    "bird": [4],
    "crane": [5, 6],
    "singer": [7],
    "idea": [8],
    "cardinal": [9, 10, 11],
    "redbird": [11],
    "duck": [12],
    "game": [13],
    "whooping_crane": [14],
}


@pytest.fixture
def folder(tmp_path):
    licence = "  1 This software is a copy of a licence  \n"
    with (tmp_path / "data.noun").open("w") as out:
        out.write(licence)
        for place, (words, pointers) in SYNSETS.items():
            cells = " ".join(f"{word} 0" for word in words.split())
            to = "".join(f" {sign} {int(other):08} n 0000" for sign, other in (each.split() for each in pointers))
            out.write(f'{place:08} 03 n {len(words.split()):02x} {cells} {len(pointers):03}{to} | a gloss; "@ 9"  \n')
    with (tmp_path / "index.noun").open("w") as out:
        out.write(licence)
        for lemma, places in NOUNS.items():
            senses = " ".join(f"{place:08}" for place in places)
            out.write(f"{lemma} n {len(places)} 1 @ {len(places)} 0 {senses}  \n")
    return tmp_path


def above(tree, name):
    found, node = [], int(tree.nodes([name])[0])
    while node > 0:
        found.append(tree.names[node])
        node = int(tree.parent[node])
    return found


def test_the_sense_that_can_be_photographed(folder):
    names = ["Crane", "cardinal", "singer", "idea", "redbird"]
    tree = read_wordnet(str(folder)).tree(names)
    assert above(tree, "crane") == ["Crane", "bird", "physical entity", "entity"]
    assert above(tree, "cardinal") == ["cardinal", "bird", "physical entity", "entity"]
    assert above(tree, "redbird") == ["redbird", "bird", "physical entity", "entity"]
    assert above(tree, "singer") == ["singer", "person", "physical entity", "entity"]
    assert above(tree, "idea") == ["idea", "entity"]
    assert not tree.unknown


def test_the_kind_at_the_end_of_a_name(folder):
    tree = read_wordnet(str(folder)).tree(["Gadwall Duck", "red sandhill crane", "whooping crane", "qwert"])
    assert above(tree, "gadwall duck") == ["Gadwall Duck", "duck", "bird", "physical entity", "entity"]
    assert above(tree, "red sandhill crane")[1:3] == ["crane", "bird"]
    assert above(tree, "whooping crane")[1] == "crane"
    assert tree.unknown == ("qwert",)
    assert tree.distance(tree.nodes(["whooping crane"]), tree.nodes(["red sandhill crane"])).item() == 2


def test_missing_and_damaged_files(folder, tmp_path):
    with pytest.raises(KindsError, match="apt-get install wordnet-base"):
        read_wordnet(str(tmp_path / "none"))
    (folder / "index.noun").write_text("crane n 1 1 @ 1 0 00000099\n")
    with pytest.raises(KindsError, match="different releases"):
        read_wordnet(str(folder))
    (folder / "index.noun").write_text("crane\n")
    with pytest.raises(KindsError, match="line 1 of"):
        read_wordnet(str(folder))
    (folder / "index.noun").write_text("  licence\n")
    with pytest.raises(KindsError, match="no noun"):
        read_wordnet(str(folder))
    (folder / "data.noun").write_text("00000001 03 n 02 a 0 b\n")
    with pytest.raises(KindsError, match=r"data\.noun"):
        read_wordnet(str(folder))
