"""Answers that the limit of tokens ended: what is still a name, and what the others are told."""

import pyarrow as pa
import pytest

from fgvr import schemas
from fgvr.names.aliases import AliasTable
from fgvr.names.answer_items import CutText, answer_items
from fgvr.names.label_space import build_label_space, count_items, label_rows, weigh
from fgvr.schemas import Failure

LIMIT = "label.max_tokens = 12"


def named_of(rows: list[tuple[str, bool | None]], listed: int = 1) -> list[dict[str, object]]:
    table = pa.Table.from_pylist(
        [{"image_id": row, "texts": [text], "cut": [cut]} for row, (text, cut) in enumerate(rows)],
        schema=schemas.ANSWERS,
    )
    named = build_label_space(count_items([table], listed))
    return label_rows(table, named, listed, limit=LIMIT).to_pylist()


@pytest.mark.parametrize(
    "text",
    ["2010 Dodge Ram Pickup 3500 Crew", "The car is a 2010 Dodge Ram Pickup 3500 Crew", "", "<think>\nA pickup, so"],
)
def test_what_may_be_half_a_name_is_none(text: str) -> None:
    (row,) = named_of([(text, True)])
    assert row["label"] is None
    assert row["error"]["reason"] == "empty_answer"
    assert row["error"]["detail"].startswith(
        "cut off at label.max_tokens = 12 before it answered; raise label.max_tokens"
    )


@pytest.mark.parametrize(
    "text", ["The bird is a **Song Thrush**. It has a spo", "**Song Thrush**\n\nThis bird is known for its"]
)
def test_a_name_that_was_said_before_the_end_counts(text: str) -> None:
    (row,) = named_of([(text, True)])
    assert (row["label"], row["error"]) == ("Song Thrush", None)


def test_the_same_words_whole_and_cut_off_are_two_things() -> None:
    rows = named_of([("Red-winged Black", True), ("Red-winged Black", False), ("Red-winged Black", None)])
    assert [row["label"] for row in rows] == [None, "Red-winged Black", "Red-winged Black"]
    assert count_items([pa.table({"texts": [["a"], ["a"]], "cut": [[True], [False]], "error": pa.nulls(2)})], 1) == {
        "a": 1,
        CutText("a"): 1,
    }


def test_a_cut_list_loses_its_last_item() -> None:
    text = "1. Song Thrush\n2. Mistle Thrush\n3. Field"
    assert answer_items([text, text, None], 3, [True, False, None]) == [
        ["Song Thrush", "Mistle Thrush"],
        ["Song Thrush", "Mistle Thrush", "Field"],
        [],
    ]
    (row,) = named_of([(text, True)], 3)
    assert (row["label"], row["candidate_weights"]) == ("Song Thrush", [0.5, 0.5])
    # Nothing but the beginning of the first: no list and no name.
    (row,) = named_of([("1. Song Thr", True)], 3)
    assert str(row["error"]["detail"]).startswith("cut off at label.max_tokens = 12")


def test_among_several_answers_the_whole_ones_count() -> None:
    named = build_label_space({"Song Thrush": 1, CutText("Song"): 1})
    found = weigh(["Song", "Song Thrush"], named, 1, [True, False])
    assert (found.label, found.answer, found.failure) == ("Song Thrush", 1, None)


def test_a_person_s_alias_overrules_a_cut_too() -> None:
    chosen = AliasTable({"red winged black": "Red-winged Blackbird"})
    named = build_label_space({CutText("Red-winged Black"): 2}, chosen)
    assert named.meanings[CutText("Red-winged Black")] == "Red-winged Blackbird"
    assert isinstance(
        build_label_space({CutText("Red-winged Black"): 2}).meanings[CutText("Red-winged Black")], Failure
    )


def test_an_answers_table_of_before_is_read_as_it_was() -> None:
    schema = pa.schema([field for field in schemas.ANSWERS if field.name != "cut"])
    old = pa.Table.from_pylist([{"image_id": 1, "texts": ["Song Thrush"]}], schema=schema)
    named = build_label_space(count_items([old], 1))
    assert label_rows(old, named, limit=LIMIT)["label"].to_pylist() == ["Song Thrush"]


def test_another_number_of_marks_than_answers_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        answer_items(["a", "b"], 1, [True])
