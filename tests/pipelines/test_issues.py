"""The rows of the issues table: what is judged, what is suggested, and why the rest is not judged."""

import numpy as np
from sklearn.metrics import roc_auc_score

from fgvr.arrays import NONE
from fgvr.candidates.sets import single_sets
from pipelines.issues import first_copies, issue_rows, judged
from tests.fgvr.beliefs.noisy_clusters import planted


def issues_of(data, own, embedded):
    rows = first_copies(data.vectors, embedded, own, None)
    names = single_sets(own).only(embedded)
    space = [f"name {number}" for number in range(8)]
    found = judged(names, data.vectors[rows], rows, 8)
    return issue_rows(np.arange(len(own)) + 100, single_sets(own), rows, found, space=space, embedded=embedded), found


def test_every_image_has_a_row_and_wrong_labels_score_highest():
    data = planted(0, classes=8, each=20)
    table, _ = issues_of(data, data.own, np.ones(160, bool))
    assert table["image_id"].to_pylist() == list(range(100, 260))
    scores = np.array(table["score"].to_pylist())
    assert roc_auc_score(data.wrong, scores) > 0.95
    worst = int(scores.argmax())
    row = table.to_pylist()[worst]
    assert row["label"] == f"name {data.own[worst]}"
    assert row["suggested"][0] == row["neighbours_name"] == f"name {data.truth[worst]}"
    assert row["why"].startswith("its neighbours' labels: ")
    assert f"% name {data.truth[worst]}" in row["why"]


def test_what_the_neighbours_do_not_prefer_is_only_suggested():
    """Names from the labeller's confusions or its list are no second witness against its label."""
    data = planted(0, classes=8, each=20)
    table, found = issues_of(data, data.own, np.ones(160, bool))
    rows = table.to_pylist()
    for row, own, other in zip(rows, found.own_share, found.other_share, strict=True):
        assert (row["neighbours_name"] is not None) == (other > own)
        assert row["neighbours_name"] in {None, row["suggested"][0]}
    agreed = [row for row in rows if row["neighbours_name"] is None]
    assert agreed
    assert all(row["suggested"] for row in agreed)


def test_what_is_not_judged_says_why():
    data = planted(0, classes=8, each=20)
    own, embedded = data.own.copy(), np.ones(160, bool)
    own[0], embedded[1] = NONE, False
    data.vectors[3] = data.vectors[2]
    rows = issues_of(data, own, embedded)[0].to_pylist()
    assert [row["score"] is None for row in rows[:5]] == [True, True, False, True, False]
    assert [row["why"].partition(": ")[2] for row in (rows[0], rows[1], rows[3])] == [
        "it has no label",
        "it has no vector",
        "another copy of the photo is",
    ]
    assert (rows[0]["label"], rows[0]["suggested"]) == (None, [])


def test_the_first_labelled_copy_is_judged():
    data = planted(0, classes=8, each=2)
    data.vectors[[5, 9]] = data.vectors[1]
    own = data.own.copy()
    own[1] = NONE
    everywhere = np.ones(16, bool)
    assert first_copies(data.vectors, everywhere, own, None).tolist() == [row for row in range(16) if row not in {1, 9}]
    groups = np.zeros(16, np.int64)
    assert first_copies(data.vectors, everywhere, own, groups).tolist() == [0]


def test_one_image_and_none():
    data = planted(0, classes=8, each=1)
    one = np.zeros(8, bool)
    one[4] = True
    rows = issues_of(data, data.own, one)[0].to_pylist()
    assert rows[4]["why"] == "no label reaches it from its neighbours"
    assert [row["score"] for row in rows if row["score"] is not None] == [1.0]
    nobody = issues_of(data, data.own, np.zeros(8, bool))[0]
    assert nobody["score"].null_count == 8
