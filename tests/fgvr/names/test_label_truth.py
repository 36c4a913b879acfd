from fgvr.arrays import NONE
from fgvr.names.label_space import NOT_IN_SPACE, true_label_ids


def test_names_become_label_ids_whatever_their_case_and_punctuation():
    found = true_label_ids(["Rock-Pigeon", None, "rock dove", "Teal", "Teal"], ["Teal", "rock pigeon", "TEAL"])
    assert found.tolist() == [1, NONE, NOT_IN_SPACE, 0, 0]
    assert true_label_ids([], ["a"]).tolist() == []
