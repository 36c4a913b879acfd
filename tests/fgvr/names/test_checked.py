"""Names that a person has checked: the file, and what becomes of the labels."""

import pyarrow as pa
import pytest

from fgvr import schemas
from fgvr.names.aliases import AliasTable
from fgvr.names.checked import (
    CheckedError,
    chosen_too,
    corrected,
    denied,
    of_copies,
    of_images,
    read_checked,
    unmatched,
    with_others,
)
from fgvr.names.label_space import build_label_space, count_items, label_rows


def written(tmp_path, text):
    file = tmp_path / "checked.csv"
    file.write_text(text)
    return str(file)


def test_rows_without_a_name_are_photos_at_which_nobody_looked(tmp_path):
    text = "image_id,uri,label,right_name\n4,/a.jpg,Robin,Wren\n5,/b.jpg,Robin,\n6,/c.jpg,Robin, wren \n"
    assert read_checked(written(tmp_path, text)) == {"/a.jpg": "Wren", "/c.jpg": "Wren"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uri,label\n/a.jpg,Wren\n", "needs columns uri and right_name"),
        ("uri,right_name\n/a.jpg,\n", "no right_name in any row"),
        ("uri,right_name\n/a.jpg,Wren\n/a.jpg,Robin\n", "line 3: /a.jpg is 'Robin' here and 'Wren' before"),
        ('uri,right_name\n/a.jpg,"Wren\n', "never closed"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(CheckedError, match=message):
        read_checked(written(tmp_path, text))


def test_no_such_file(tmp_path):
    with pytest.raises(CheckedError, match=r"there is no file .*nothing.csv"):
        read_checked(str(tmp_path / "nothing.csv"))


def test_photos_that_were_not_labelled_are_left_out():
    checked = {"/a.jpg": "Wren", "/z.jpg": "Robin"}
    assert of_images(checked, [3, 7], ["/a.jpg", "/b.jpg"]) == {3: "Wren"}
    assert unmatched(checked, ["/a.jpg", "/b.jpg"]) == ["/z.jpg"]
    assert unmatched(checked, ["/z.jpg", "/a.jpg"]) == []
    with pytest.raises(CheckedError, match=r"none of its 2 photos is among the 1 labelled ones; it has /a.jpg"):
        of_images(checked, [7], ["/b.jpg"])


def answers(*texts):
    rows = [{"image_id": i, "texts": [text], "cut": [False], "logprobs": [-0.5]} for i, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=schemas.ANSWERS)


def labelled(table, checked, chosen=None, merge=None):
    items = count_items([table], 1)
    items.update(checked.values())
    named = build_label_space(items, chosen_too(chosen, list(checked.values())), merge)
    return corrected(label_rows(table, named), checked, named).to_pylist(), named.space


def test_a_checked_name_is_the_label_whatever_was_said():
    table = answers("A robin.", "I cannot help with that.", "Wren")
    rows, space = labelled(table, {0: "Firecrest", 1: "Wren"})
    assert [row["label"] for row in rows] == ["Firecrest", "Wren", "Wren"]
    assert [row["error"] for row in rows] == [None] * 3
    assert rows[0]["raw"] == "A robin."
    assert rows[0]["candidate_ids"] == [rows[0]["label_id"]] == [space.labels.index("Firecrest")]
    assert rows[0]["candidate_weights"] == [1.0]


def test_its_spelling_holds_for_the_answers_too():
    rows, space = labelled(answers("house martin", "House Martin", "House Martin"), {0: "House-Martin"})
    assert space.labels == ("House-Martin",)
    assert {row["label"] for row in rows} == {"House-Martin"}


def test_it_is_not_merged_but_aliases_hold():
    def merge(names):
        return {"Mallard Duck": "Mallard"}

    rows, _ = labelled(answers("Mallard", "Mallard"), {0: "Mallard Duck"}, merge=merge)
    assert [row["label"] for row in rows] == ["Mallard Duck", "Mallard"]
    chosen = AliasTable({"mallard duck": "Mallard"})
    rows, _ = labelled(answers("Mallard", "Mallard"), {0: "Mallard Duck"}, chosen=chosen)
    assert [row["label"] for row in rows] == ["Mallard", "Mallard"]


def test_nothing_checked_changes_nothing():
    table = answers("Robin")
    named = build_label_space(count_items([table], 1))
    rows = label_rows(table, named)
    assert corrected(rows, {}, named) is rows


def test_copies_that_share_an_answer_share_the_checked_name():
    ids, photos = [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 2, 2, 5, 5, 5, 8]
    assert of_copies({3: "Wren", 7: "Gull"}, ids, photos) == {
        **dict.fromkeys([2, 3, 4], "Wren"),
        **dict.fromkeys([5, 6, 7], "Gull"),
    }
    # Two names for copies of one photo: each keeps its own, the others have that of the one that was asked about.
    assert of_copies({2: "Wren", 4: "Robin"}, ids, photos) == {2: "Wren", 3: "Wren", 4: "Robin"}


def parts_of(ids, rows_per_part):
    rows = pa.Table.from_pylist([{"image_id": i, "label": "Wren", "label_id": 1} for i in ids], schema=schemas.LABELS)
    return [rows.slice(start, rows_per_part) for start in range(0, max(1, len(ids)), rows_per_part)]


@pytest.mark.parametrize("rows_per_part", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("asked", "others"),
    [
        ((2, 4, 6), (1, 3, 5, 7)),
        ((2, 4, 6), (0,)),
        ((2, 4, 6), (8, 9, 10, 11)),
        ((), (3, 1)),
        ((5,), ()),
    ],
)
def test_photos_about_which_no_model_was_asked_stand_in_their_places(asked, others, rows_per_part):
    named = build_label_space({"Wren": 1, "Robin": 1})
    parts = list(with_others(parts_of(asked, rows_per_part), dict.fromkeys(others, "Robin"), named, rows_per_part))
    assert [part.num_rows for part in parts[:-1]] == [rows_per_part] * (len(parts) - 1)
    rows = pa.concat_tables(parts).to_pylist()
    assert [row["image_id"] for row in rows] == sorted((*asked, *others))
    assert [row["label"] for row in rows] == ["Robin" if row["image_id"] in others else "Wren" for row in rows]
    assert {row["label_id"] for row in rows if row["image_id"] in others} <= {0}
    assert parts[0].schema == schemas.LABELS


def test_a_photo_keeps_the_names_that_nobody_denied():
    named = build_label_space({"Wren": 2, "Robin": 1, "Tit": 1})
    facts = {"label": "Wren", "label_id": 2, "candidate_ids": [2, 0, 1], "candidate_weights": [0.5, 0.3, 0.2]}
    rows = pa.Table.from_pylist([{"image_id": i, **facts} for i in range(3)], schema=schemas.LABELS)
    first, second, third = denied(rows, {0: "Wren", 1: "Tit", 2: "Puffin"}, named).to_pylist()
    assert (first["label"], first["label_id"], first["candidate_ids"]) == ("Robin", 0, [0, 1])
    assert first["candidate_weights"] == pytest.approx([0.6, 0.4])
    assert first["error"] is None
    assert (second["label"], second["candidate_ids"]) == ("Wren", [2, 0])
    assert third["candidate_ids"] == [2, 0, 1]
    (alone,) = denied(
        pa.Table.from_pylist(
            [{"image_id": 5, "label": "Wren", "label_id": 2, "candidate_ids": [2], "candidate_weights": [1.0]}],
            schema=schemas.LABELS,
        ),
        {5: "Wren"},
        named,
    ).to_pylist()
    assert (alone["label"], alone["candidate_ids"]) == (None, [])
    assert alone["error"]["reason"] == "struck_out"
